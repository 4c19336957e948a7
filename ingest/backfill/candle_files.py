"""Import of candle files, and the bars made of them.

A file of candles becomes rows of `candles`, unchanged, and bars with origin `candle`. What candles do not contain
stays null: flow always, the number of trades if the file has none, and the open if it is the previous close.
`ingest.bars.from_candles` states which bars they make.

Nothing is taken from the future: a candle that is still open is left out, and one that opens after the present goes to
quarantine. Of two candles of one key the file's first counts; an equal one is skipped, another goes to quarantine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ingest.backfill.candle_columns import CandleColumns, read_candle_file
from ingest.backfill.candle_rows import DatedCandles, Opens, closed_candles, refused_rows, split_by_time
from ingest.backfill.history import HistoryStamper
from ingest.bars.from_candles import Absent, bars_of
from ingest.journal.captures import content_id
from storage.clock import MS_NS, US_NS, TimeSource, WallTime, iso, width_ns
from storage.contracts.repeated_keys import CONTRADICTION
from storage.contracts.tables import CANDLES
from storage.contracts.validation import validate
from storage.errors import CaptureError, SettingsError
from storage.lake.bulk_load import write_batch
from storage.lake.lake import Lake
from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Outcome of an import.

    Args:
        instruments: in the file.
        from_ns, to_ns: time range of the candles, right-open.
        candles: number of candles in the file that have ended.
        bars: number of derived bars, including those of absent candles.
        quiet: bars without a trade, as stated by the file or by the caller.
        halted: bars in which the coins of the venue fell silent together.
        unknown: bars without a usable candle, or with a silence that no rhythm explains.
        written: rows new to the lake, by table.
        notes: what was left out or assumed, in sentences.
    """

    instruments: tuple[str, ...]
    from_ns: int
    to_ns: int
    candles: int
    bars: int
    quiet: int
    halted: int
    unknown: int
    written: dict[str, int]
    notes: tuple[str, ...] = ()


def import_candles(
    path: Path,
    settings: Settings,
    lake: Lake,
    *,
    width: str | None = None,
    venue: str = "hyperliquid",
    kind: str = "perp",
    absent: Absent = "unknown",
    opens: Opens = "first-trade",
    timezone: str | None = None,
    clock: TimeSource | None = None,
    stamper: HistoryStamper | None = None,
) -> ImportResult:
    """Import a Parquet file of candles.

    Args:
        path: has columns for symbol, open time, open, high, low, close, volume and perhaps trades, by common names.
        settings: measured lag until a candle is knowable.
        lake: stores the rows.
        width: of the candles (default: the most frequent step between two of one symbol).
        venue: first part of the instrument ids.
        kind: second part of the instrument ids.
        absent: meaning of a missing candle.
        opens: meaning of the open. The previous close is no price of the candle, so it is not stored.
        timezone: of times without a zone (default: UTC).
        clock: the present, after which no candle counts (default: wall clock).
        stamper: of the bars (default: by what the lake knows now).

    Raises:
        CaptureError: the file is not a Parquet file of candles.
        RangeError: the file has no row, or no candle that has ended.
        SettingsError: the time zone does not exist, or the times have one.
    """
    file = read_candle_file(path, timezone=timezone)
    now_ns = (clock or WallTime()).now_ns()
    lag_ns = settings.bars.history_lag_ms * MS_NS
    source = f"{path.name}#{content_id(path)}"
    dated = split_by_time(file.rows, path.name, width, now_ns)
    step_ns = width_ns(dated.width)
    closed = closed_candles(dated, path.name, venue=venue, kind=kind, opens=opens)
    candles = _candles(closed.rows, dated.width, step_ns, lag_ns, source)
    good, bad = validate(CANDLES, candles)  # rows that the lake refuses must make no bar either
    contradicting = Counter(bad["reason"].to_pylist())[CONTRADICTION]
    if contradicting and file.times.set_back:
        raise _set_back(path.name, file.times.set_back, contradicting)
    bars = bars_of(
        good,
        closed.spans,
        width=dated.width,
        step_ns=step_ns,
        lag_ns=lag_ns,
        absent=absent,
        refused=_openings([bad.select(["instrument", "ts_open"]), closed.unusable]),
    )
    refused = refused_rows(dated, closed, venue=venue, kind=kind, source=source, now_ns=now_ns)
    options = f"{absent}{_option('open', opens, 'first-trade')}{_option('timezone', timezone, None)}"
    batch_id = f"candles:{source}:{dated.width}:{venue}|{kind}:{options}:{lag_ns}"
    inputs = {
        "file": path.name,
        "path": str(path.resolve()),
        "sha256": content_id(path),
        "now_ns": now_ns,
    }
    stamper = stamper or HistoryStamper(lake, settings)
    tables = {"candles": candles, "bars": bars, "quarantine": refused}
    stamped, decided = stamper.stamp(batch_id, tables, inputs)
    commit = write_batch(lake, stamped, batch_id=batch_id, inputs=decided)
    counts = Counter(bars["status"].to_pylist())
    repeated = candles.num_rows - good.num_rows - bad.num_rows
    broken = bad.num_rows - contradicting + closed.unusable.num_rows
    spans: Any = closed.spans.to_pydict()
    return ImportResult(
        instruments=tuple(spans["instrument"]),
        from_ns=min(spans["first_ns"]),
        to_ns=max(spans["last_ns"]) + step_ns,
        candles=candles.num_rows + closed.unusable.num_rows,
        bars=bars.num_rows,
        quiet=counts["quiet"],
        halted=counts["halted"],
        unknown=counts["unknown"],
        written=dict(commit.rows),
        notes=_notes(file, dated, repeated=repeated, contradicting=contradicting, broken=broken),
    )


def _set_back(file: str, where: str, contradicting: int) -> CaptureError:
    return CaptureError(
        f"{file}: {where}, as local times do when clocks are set back, and {contradicting} candles contradict an "
        "earlier one of their time",
        hint="name the zone with --timezone, such as America/New_York; --timezone UTC reads the times as they are",
    )


def _notes(
    file: CandleColumns, dated: DatedCandles, *, repeated: int, contradicting: int, broken: int
) -> tuple[str, ...]:
    """Return what was assumed or left out, in sentences."""
    zone = f"column {file.time_name} has no time zone and was read as UTC; --timezone names another"
    notes = [*([zone] if file.times.is_local else ()), *dated.notes]
    for count, one, many, what in (
        (repeated, "says", "say", "the same as an earlier one: skipped"),
        (contradicting, "contradicts", "contradict", "an earlier one of the same time: quarantined"),
        (broken, "breaks", "break", "a rule: quarantined"),
    ):
        if count:
            notes.append(f"{count:,} {f'candle {one}' if count == 1 else f'candles {many}'} {what}")
    return tuple(notes)


def _option(name: str, value: str | None, default: str | None) -> str:
    return "" if value == default else f",{name}={value}"


def _candles(rows: pa.Table, width: str, step_ns: int, lag_ns: int, source: str) -> pa.Table:
    """Return rows of `candles`."""
    t_ns = rows["t_ns"].to_numpy()
    columns = {
        "width": pa.repeat(pa.scalar(width), rows.num_rows),
        "ts_open": pa.array(t_ns // US_NS, CANDLES.schema.field("ts_open").type),
        "source": pa.repeat(pa.scalar(source), rows.num_rows),
        "ts_knowable_ns": pa.array(t_ns + step_ns + lag_ns, pa.int64()),
    }
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows.select(CANDLES.schema.names)


def _openings(tables: list[pa.Table]) -> pa.Table:
    """Return `instrument` and `t_ns` of refused candles."""
    rows = pa.concat_tables(tables)
    t_ns = pa.chunked_array([pa.array(rows["ts_open"].cast(pa.int64()).to_numpy() * US_NS, pa.int64())])
    return pa.Table.from_arrays([rows["instrument"], t_ns], names=["instrument", "t_ns"])


def check_absent(text: str) -> Absent:
    """Return the meaning of a missing candle.

    Raises:
        SettingsError: the text is neither `unknown` nor `quiet`.
    """
    if text not in ("unknown", "quiet"):
        raise SettingsError(
            f"--absent is {text!r}", hint="unknown, or quiet where the source leaves silent bars out"
        )
    return "quiet" if text == "quiet" else "unknown"


def check_opens(text: str) -> Opens:
    """Return the meaning of a candle's open.

    Raises:
        SettingsError: the text is neither `first-trade` nor `previous-close`.
    """
    if text not in ("first-trade", "previous-close"):
        raise SettingsError(
            f"--open is {text!r}",
            hint="first-trade, or previous-close where the source repeats the last price",
        )
    return "previous-close" if text == "previous-close" else "first-trade"


def describe(done: ImportResult) -> str:
    """Return an import in words: a line of counts, and a line for each note."""
    counts = (
        f"{done.candles:,} candles of {len(done.instruments)} instruments, {iso(done.from_ns)} to "
        f"{iso(done.to_ns)}: {done.bars:,} bars, {done.quiet:,} quiet, {done.halted:,} halted, "
        f"{done.unknown:,} unknown"
    )
    return "\n".join([counts, *done.notes])
