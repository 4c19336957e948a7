"""Queries of the lake at a night's snapshot: bars, gaps, sources and rejected rows.

The bars counted are those in the night's panel: of each bar the row that counts among those that were knowable at its
close plus the grace period (`storage.lake.point_in_time`). Coverage is that of the channel `trades`, which alone
decides a bar's status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from features.panel.asof_join import JOINED
from features.panel.panel import COLUMNS
from ingest.coverage.ledger import TRADES
from storage.clock import NS, US_NS, width_ns
from storage.lake.lake import Lake
from storage.lake.point_in_time import Basis, is_known, known_bars
from training.night.pinned_inputs import pinned_at

SIMULATED: Final = "simulated"
"""Prefix of the names of recordings of a simulated venue."""

_OF_NIGHT: Final = """
    width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
    AND list_contains(?, origin) AND list_contains(?, instrument)
"""


def _rows(basis: Basis, columns: tuple[str, ...]) -> str:
    """Return the query of the bars of a night's range, one row each."""
    return known_bars(columns, where=f"{_OF_NIGHT} AND {is_known(basis)}", basis=basis)


_COUNTED: Final = ("instrument", "ts_open", "status", "cause", "origin", "observed_ms", "trades")
_BARS: Final = f"""
SELECT instrument, epoch_us(ts_open) // ? AS bin, status, cause, origin, count(*) AS bars,
       CAST(sum(observed_ms) AS BIGINT) AS observed_ms, CAST(sum(trades) AS BIGINT) AS prints
FROM ({_rows("served", _COUNTED)})
GROUP BY ALL ORDER BY ALL
"""

_COMPARED: Final = ("status", *(name for name in COLUMNS if name not in JOINED))
_KEYED: Final = ("instrument", "ts_open", *_COMPARED)
_DIFFERING: Final = f"""
SELECT count(*) AS bars
FROM ({_rows("served", _KEYED)}) s FULL JOIN ({_rows("available", _KEYED)}) a USING (instrument, ts_open)
WHERE ({", ".join(f"s.{name}" for name in _COMPARED)}) IS DISTINCT FROM ({", ".join(f"a.{name}" for name in _COMPARED)})
"""

_SPANS: Final = """
WITH latest AS (
    SELECT * FROM coverage
    WHERE channel = ? AND list_contains(?, instrument)
      AND ts_to > make_timestamptz(?) AND ts_from < make_timestamptz(?)
    QUALIFY row_number() OVER (
        PARTITION BY journal, connection, instrument, ts_from, kind ORDER BY revision DESC
    ) = 1
)
SELECT journal, instrument, kind, cause, evidence, bridged,
       epoch_us(ts_from) * 1000 AS from_ns, epoch_us(ts_to) * 1000 AS to_ns
FROM latest ORDER BY from_ns, to_ns, journal, connection, instrument, kind
"""

_FILES: Final = """
SELECT source, count(DISTINCT instrument) AS instruments, count(*) AS rows,
       epoch_us(min(ts_open)) * 1000 AS from_ns, epoch_us(max(ts_open)) * 1000 AS to_ns
FROM candles
WHERE width = ? AND list_contains(?, instrument)
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
GROUP BY source ORDER BY source
"""

_REFUSED: Final = """
SELECT table_name, reason, count(*) AS rows FROM quarantine
WHERE ts_knowable_ns >= ? AND ts_knowable_ns < ?
GROUP BY ALL ORDER BY rows DESC, table_name, reason
"""


# A snapshot made by an older release has no such table.
_HAS_DISCREPANCIES: Final = """
SELECT count(*) AS found FROM duckdb_tables()
WHERE database_name = current_database() AND table_name = 'discrepancies'
"""

_DISCREPANCIES: Final = """
SELECT d.instrument, epoch_us(d.ts_open) * 1000 AS open_ns, d.differs, d.ours, d.theirs, d.checked
FROM discrepancies AS d JOIN bars_latest AS b USING (instrument, width, ts_open)
WHERE d.width = ? AND list_contains(?, d.instrument)
  AND d.ts_open >= make_timestamptz(?) AND d.ts_open < make_timestamptz(?) AND NOT b.certified
QUALIFY row_number() OVER (
    PARTITION BY d.instrument, d.ts_open, d.differs ORDER BY d.ts_knowable_ns DESC, d.checked) = 1
ORDER BY open_ns, d.instrument, d.differs
"""

_CERTIFIED: Final = """
SELECT count(*) FILTER (certified) AS certified, count(*) AS whole FROM bars_latest
WHERE width = ? AND list_contains(?, instrument) AND status IN ('printed', 'quiet') AND origin <> 'candle'
  AND trades_applicable AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
"""


@dataclass(frozen=True, slots=True)
class BarCount:
    """Number of equal bars of one instrument in one time bin.

    Args:
        instrument: instrument id.
        bin: number of the time bin since the epoch.
        status, cause, origin: common values of the bars.
        bars: number of bars.
        observed_ms: time in them during which the socket was watched.
        prints: trades in them; `None` if the source does not count them.
    """

    instrument: str
    bin: int
    status: str
    cause: str
    origin: str
    bars: int
    observed_ms: int
    prints: int | None


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """Row of the coverage ledger, last revision."""

    journal: str
    instrument: str
    kind: str
    cause: str
    evidence: str
    bridged: bool
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class CandleFile:
    """Imported candle file, within the night's range."""

    source: str
    instruments: int
    rows: int
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class QuarantineCount:
    """Rows in quarantine for one reason."""

    table_name: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Figure in which a complete, uncertified bar differs from the venue's candle."""

    instrument: str
    open_ns: int
    differs: str
    ours: float | None
    theirs: float | None
    checked: str


@dataclass(frozen=True, slots=True)
class RecordedData:
    """Everything the report reads from the lake.

    Args:
        bin_ns: width of the time bins of `bars`.
        bars: counts, ordered by instrument and bin.
        spans: the coverage ledger.
        files: imports of candles, where bars came from candles.
        refused: rows quarantined in the night's range.
        discrepancies: differences between bars and the venue's candles, by time.
        certified, whole: recorded bars that are complete now (`whole`), and those that a candle confirms.
        differing: bars that differ between what was served and what was available.
    """

    bin_ns: int
    bars: tuple[BarCount, ...]
    spans: tuple[CoverageRow, ...]
    files: tuple[CandleFile, ...]
    refused: tuple[QuarantineCount, ...]
    discrepancies: tuple[Discrepancy, ...]
    certified: int
    whole: int
    differing: int

    @property
    def is_simulated(self) -> bool:
        """Whether a recording of a simulated venue is among the sources."""
        return any(span.journal.startswith(SIMULATED) for span in self.spans)

    @property
    def origins(self) -> dict[str, int]:
        """Number of bars by origin."""
        found: dict[str, int] = {}
        for item in self.bars:
            found[item.origin] = found.get(item.origin, 0) + item.bars
        return dict(sorted(found.items()))


def choose_bin_ns(start_ns: int, stop_ns: int, *, bar_ns: int) -> int:
    """Return the width of a time bin: an hour, finer for less than half a day, coarser beyond a week.

    >>> hour = 3_600_000_000_000
    >>> [choose_bin_ns(0, n * hour, bar_ns=hour // 60) * 60 // hour for n in (6, 48, 24 * 67)]
    [5, 60, 720]
    """
    hour_ns = 3_600 * NS
    hours = (stop_ns - start_ns) / hour_ns
    if hours < 12:
        return max(hour_ns // 12, bar_ns)
    coarser = next((n for n in (1, 3, 6, 12) if hours / n <= 168), 24)
    while hours / coarser > 168:
        coarser *= 2
    return max(coarser * hour_ns, bar_ns)


def read_recorded(lake: Lake, night: dict[str, Any]) -> RecordedData:
    """Read the data of a night.

    Args:
        lake: the tables; read at the night's snapshot.
        night: the value of `night.json`.

    Raises:
        LakeError: the snapshot does not exist any more.
    """
    recipe, at = night["recipe"], pinned_at(lake, night)
    start_ns, stop_ns, width = int(night["since_ns"]), int(night["until_ns"]), str(recipe["width"])
    names, bounds = list(night["instruments"]), (start_ns // US_NS, stop_ns // US_NS)
    bin_ns = choose_bin_ns(start_ns, stop_ns, bar_ns=width_ns(width))
    grace_ns = int(night["grace_ms"]) * 1_000_000
    bars = lake.query(
        _BARS, (bin_ns // US_NS, width, *bounds, list(recipe["origins"]), names, grace_ns), at=at
    )
    spans = lake.query(_SPANS, (TRADES, names, *bounds), at=at)
    files = lake.query(_FILES, (width, names, *bounds), at=at)
    refused = lake.query(_REFUSED, (start_ns, stop_ns), at=at)
    has_discrepancies = lake.query(_HAS_DISCREPANCIES, at=at)["found"][0].as_py()
    discrepancies = (
        lake.query(_DISCREPANCIES, (width, names, *bounds), at=at).to_pylist() if has_discrepancies else []
    )
    agreed = lake.query(_CERTIFIED, (width, names, *bounds), at=at).to_pylist()[0]
    of_range = (width, *bounds, list(recipe["origins"]), names, grace_ns)
    differing = lake.query(_DIFFERING, (*of_range, *of_range), at=at)["bars"][0].as_py()
    counted = tuple(BarCount(**row) for row in bars.to_pylist())
    return RecordedData(
        bin_ns=bin_ns,
        bars=counted,
        spans=tuple(CoverageRow(**row) for row in spans.to_pylist()),
        files=tuple(CandleFile(**row) for row in files.to_pylist())
        if any(item.origin == "candle" for item in counted)
        else (),
        refused=tuple(QuarantineCount(**row) for row in refused.to_pylist()),
        discrepancies=tuple(Discrepancy(**row) for row in discrepancies),
        certified=int(agreed["certified"]),
        whole=int(agreed["whole"]),
        differing=int(differing),
    )
