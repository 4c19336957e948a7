"""How sound was the data: what each feature could see, what labels stand on, what was refused?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from markupsafe import Markup

from serving.report import svg, words
from serving.report.facts import Facts

_ROW_PX: Final = 14.0
_MOST_REASONS: Final = 12


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One feature's mask."""

    name: str
    picture: Markup
    masked: str
    worst: str
    worst_masked: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows in quarantine for one reason."""

    table: str
    reason: str
    rows: str


@dataclass(frozen=True, slots=True)
class Health:
    """The section."""

    features: tuple[FeatureRow, ...]
    basis: Markup
    basis_said: tuple[tuple[str, str, str], ...]
    labelled: str
    labelled_share: str
    funding: str
    origins: tuple[tuple[str, str], ...]
    refused: tuple[Refusal, ...]
    refused_more: int
    checks: tuple[tuple[str, str], ...]


_CHECKS: Final = {
    "future": "everything after a bar replaced",
    "past": "everything before the lookback replaced",
    "cut": "a piece of the panel against the whole",
    "blocks": "night by night against the whole",
    "stream": "bar by bar against the whole",
    "shuffle": "instruments in another order",
    "shift": "the clock moved by whole days",
}
_HIDDEN: Final = "later rows hidden in the lake"
_BASIS: Final = {"mid": "mid of the closing quote", "print": "last print, where no quote is known"}


def make_health(facts: Facts) -> Health:
    """Return the section."""
    panel, recorded = facts.panel, facts.recorded
    share = panel["funding_share"]
    total = sum(panel["basis"].values())
    cells = panel["steps"] * panel["instruments"]
    return Health(
        features=_features(facts),
        basis=_basis(panel["basis"], total),
        basis_said=tuple(
            (name, words.count(n), f"{words.percent(n / total) if total else words.NOTHING}: {_BASIS[name]}")
            for name, n in panel["basis"].items()
        ),
        labelled=words.count(panel["rows"]),
        labelled_share=words.percent(panel["rows"] / cells),
        funding="none in the range, so funding is left out of every return"
        if share is None
        else f"known for {words.percent(share)} of instrument-hours",
        origins=tuple((name, words.count(n)) for name, n in recorded.origins.items()),
        refused=tuple(
            Refusal(item.table_name, item.reason, words.count(item.rows))
            for item in recorded.refused[:_MOST_REASONS]
        ),
        refused_more=sum(item.rows for item in recorded.refused[_MOST_REASONS:]),
        checks=(
            *(
                (said, words.count(facts.proof.get("compared", {}).get(name)))
                for name, said in _CHECKS.items()
            ),
            (_HIDDEN, words.count(facts.proof["hindsight"]["compared"])),
        ),
    )


def _features(facts: Facts) -> tuple[FeatureRow, ...]:
    names = words.short_names(facts.night["instruments"])
    rows = []
    for feature, run in groupby(facts.shares, key=lambda item: item[0]):
        known = {names[instrument]: share for _, instrument, share in run}
        mean = facts.panel["valid_share"][feature]
        worst = min(known, key=lambda name: known[name])
        are_alike = len(known) > 1 and len(set(known.values())) == 1
        drawn = [
            svg.block(0, mean, top=2, height=_ROW_PX - 4, class_="known"),
            svg.block(mean, 1, top=2, height=_ROW_PX - 4, class_="masked"),
            *(
                svg.el(
                    "line", x1=svg.percent(share), x2=svg.percent(share), y1=0.0, y2=_ROW_PX, class_="each"
                )
                for share in sorted(set(known.values()))
            ),
        ]
        said = f"{feature}: masked on {words.percent(1 - mean)} of bars"
        rows.append(
            FeatureRow(
                name=feature,
                picture=svg.picture(*drawn, height=_ROW_PX, label=said),
                masked=words.percent(1 - mean),
                worst="all alike" if are_alike else worst,
                worst_masked=words.percent(1 - known[worst]),
            )
        )
    return tuple(rows)


def _basis(basis: dict[str, int], total: int) -> Markup:
    at, drawn = 0.0, []
    for name, n in basis.items():
        share = n / total if total else 0.0
        drawn.append(
            svg.block(at, at + share, top=0, height=_ROW_PX, class_=f"basis-{name}", title=f"{name}: {n:,}")
        )
        at += share
    label = "labels by basis: " + ", ".join(f"{name} {n:,}" for name, n in basis.items())
    return svg.picture(*drawn, height=_ROW_PX, label=label)
