"""Report section on data quality: labels, bar origins, funding and rejected rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport
from storage.lake.point_in_time import Basis

_ROW_PX: Final = 14.0
_MOST_REASONS: Final = 12


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """Rows in quarantine for one reason."""

    table: str
    reason: str
    rows: str


@dataclass(frozen=True, slots=True)
class DataHealthSection:
    """Values of the section's template."""

    basis: Markup
    basis_rows: tuple[tuple[str, str, str], ...]
    labelled: str
    labelled_share: str
    funding: str
    origins: tuple[tuple[str, str], ...]
    differing: str
    refused: tuple[QuarantineRow, ...]
    refused_more: int


_TEACH: Final[dict[Basis, str]] = {
    "served": "the rows that a live system had in time teach and judge",
    "available": "the rows that the venue had published in time teach, those that a live system had judge",
}
_BASIS: Final = {"mid": "mid of the closing quote", "print": "last trade, if no quote is known"}


def make_data_health(facts: NightReport) -> DataHealthSection:
    """Return the section."""
    panel, recorded = facts.panel, facts.recorded
    share = panel["funding_share"]
    total = sum(panel["basis"].values())
    cells = panel["steps"] * panel["instruments"]
    return DataHealthSection(
        basis=_basis(panel["basis"], total),
        basis_rows=tuple(
            (
                name,
                formatting.count(n),
                f"{formatting.percent(n / total) if total else formatting.NOTHING}: {_BASIS[name]}",
            )
            for name, n in panel["basis"].items()
        ),
        labelled=formatting.count(panel["rows"]),
        labelled_share=formatting.percent(panel["rows"] / cells),
        funding="none in the range, so returns exclude funding"
        if share is None
        else f"known for {formatting.percent(share)} of instrument-hours",
        origins=tuple((name, formatting.count(n)) for name, n in recorded.origins.items()),
        differing=f"{formatting.count(recorded.differing)}; {_TEACH[facts.recipe.rows]}",
        refused=tuple(
            QuarantineRow(item.table_name, item.reason, formatting.count(item.rows))
            for item in recorded.refused[:_MOST_REASONS]
        ),
        refused_more=sum(item.rows for item in recorded.refused[_MOST_REASONS:]),
    )


def _basis(basis: dict[str, int], total: int) -> Markup:
    at, drawn = 0.0, []
    for name, n in basis.items():
        share = n / total if total else 0.0
        drawn.append(
            svg.block(at, at + share, top=0, height=_ROW_PX, class_=f"basis-{name}", title=f"{name}: {n:,}")
        )
        at += share
    label = "labels by price: " + ", ".join(f"{name} {n:,}" for name, n in basis.items())
    return svg.picture(*drawn, height=_ROW_PX, label=label)
