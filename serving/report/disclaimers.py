"""Report section of caveats."""

from __future__ import annotations

from dataclasses import dataclass

from serving import formatting
from serving.report.night_data import NightReport
from storage.clock import DAY_NS
from training.evaluation.metrics import LEAST_BLOCKS


@dataclass(frozen=True, slots=True)
class CaveatsSection:
    """Values of the section's template.

    Args:
        banner: warning at the top of the page; may be empty.
        caveats: sentences.
    """

    banner: str
    caveats: tuple[str, ...]


def make_caveats(facts: NightReport) -> CaveatsSection:
    """Return the caveats that apply to a night."""
    recorded = facts.recorded
    banner = ""
    if recorded.is_simulated:
        banner = "Simulated data with a planted signal: it tests the pipeline and says nothing about model quality."
    return CaveatsSection(banner, tuple(_caveats(facts)))


def _caveats(facts: NightReport) -> list[str]:
    recorded, recipe = facts.recorded, facts.recipe
    start_ns, stop_ns = facts.folds[0]["test"][0], facts.folds[-1]["test"][1]
    caveats = [
        f"Not a forecast: results of one rule over {formatting.length(stop_ns - start_ns)} of the past.",
        "Not real trading: orders are assumed to fill completely at a bar's close, with a modelled price impact.",
    ]
    if stop_ns - start_ns < 90 * DAY_NS:
        caveats.append(
            "Not annualised: Sharpe ratios are per holding period, and the test is too short to contain bad months."
        )
    if set(recorded.origins) == {"candle"}:
        caveats.append(
            "Not recorded: these bars were derived from the venue's candles. There are no quotes, sides or order flow, "
            "and whether a bar without trades really had none cannot be checked."
        )
    if any(span.evidence == "inferred" for span in recorded.spans):
        caveats.append(
            "Not fully observed: one source is a capture without control frames, so its gaps are inferred from silence "
            "and resent prints."
        )
    if any(fold["low"] is None for fold in _intervals(facts)):
        caveats.append(
            "Some estimates have no confidence interval: their test has fewer than "
            f"{LEAST_BLOCKS} independent blocks of time."
        )
    caveats += [note[:1].upper() + note[1:].rstrip(".") + "." for note in facts.summary["notes"]]
    if recipe.seeds == 1 and facts.outside is None:
        caveats.append("Only one seed was trained, so the variation between seeds is unknown.")
    return caveats


def _intervals(facts: NightReport) -> list[dict[str, float | None]]:
    figures = facts.summary["models"][facts.challenger]
    return [item["ic"] for item in (figures["test"], *figures["folds"]) if item["ic"]["value"] is not None]
