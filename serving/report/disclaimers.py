"""What are the page's figures not? Said before any of them is read."""

from __future__ import annotations

from dataclasses import dataclass

from serving import formatting
from serving.report.night_data import NightReport
from storage.clock import DAY_NS


@dataclass(frozen=True, slots=True)
class CaveatsSection:
    """The page's word on itself.

    Args:
        banner: what outweighs every figure; empty where nothing does.
        caveats: sentences.
    """

    banner: str
    caveats: tuple[str, ...]


def make_claims(facts: NightReport) -> CaveatsSection:
    """Return what a reader must know before believing a figure."""
    recorded = facts.recorded
    banner = ""
    if recorded.is_simulated:
        banner = "Simulated data with a planted signal: proves plumbing, never model quality."
    return CaveatsSection(banner, tuple(_caveats(facts)))


def _caveats(facts: NightReport) -> list[str]:
    recorded, recipe = facts.recorded, facts.recipe
    start_ns, stop_ns = facts.folds[0]["test"][0], facts.folds[-1]["test"][1]
    caveats = [
        f"Not a forecast: one rule over {formatting.length(stop_ns - start_ns)} of a past that need not come again.",
        "Not what was earned: nobody traded. Orders fill whole, at the price of a bar's close, for a modelled impact.",
    ]
    if stop_ns - start_ns < 90 * DAY_NS:
        caveats.append(
            "Not annualised: Sharpe ratios are per holding period, and so short a test says little of bad months."
        )
    if set(recorded.origins) == {"candle"}:
        caveats.append(
            "Not a recording: these bars were derived from the venue's candles, so nobody watched the feed, there are "
            "no quotes, sides or order flow, and whether a silent bar was truly silent is the venue's word."
        )
    if any(span.evidence == "inferred" for span in recorded.spans):
        caveats.append(
            "Not fully witnessed: a capture without control frames is among the sources, so its holes are inferred "
            "from silence and resent prints."
        )
    if any(fold["low"] is None for fold in _intervals(facts)):
        caveats.append(
            "Not all sure: where a test holds fewer than 8 independent blocks of time, no interval is given."
        )
    caveats += [note[:1].upper() + note[1:].rstrip(".") + "." for note in facts.summary["notes"]]
    if recipe.seeds == 1:
        caveats.append("One seed was trained, so how much of a figure is the seed's luck is not known.")
    return caveats


def _intervals(facts: NightReport) -> list[dict[str, float | None]]:
    figures = facts.summary["models"][facts.challenger]
    return [item["ic"] for item in (figures["test"], *figures["folds"]) if item["ic"]["value"] is not None]
