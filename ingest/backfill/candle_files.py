"""Import of candle files, and the bars made of them.

A file of candles becomes rows of `candles`, unchanged, and bars with origin `candle`. What candles do not contain
stays null: flow always, and the number of trades if the file has none. `ingest.bars.from_candles` states which bars
they make.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.backfill.history import HistoryStamper
from ingest.bars.from_candles import Absent, bars_of
from ingest.journal.captures import content_id
from storage.clock import MS_NS, US_NS, iso, width_ns
from storage.contracts.tables import CANDLES
from storage.contracts.validation import validate
from storage.errors import CaptureError, RangeError, SettingsError
from storage.lake.bulk_load import write_batch
from storage.lake.connection import connect_in_memory
from storage.lake.lake import Lake
from storage.settings import Settings

# Column names in files by our names; the first that a file has is used.
_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "symbol": ("coin", "symbol", "instrument", "pair"),
    "t": ("t", "ts_open", "time", "timestamp", "open_time", "date"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "v"),
}
_FIRST_NS: Final = 1_262_304_000_000_000_000  # 2010
_LAST_NS: Final = 4_102_444_800_000_000_000  # 2100
_TRADES_ALIASES: Final = ("trades", "n", "count")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Outcome of an import.

    Args:
        instruments: in the file.
        from_ns, to_ns: time range of the file, right-open.
        candles: number of candles in the file.
        bars: number of derived bars, including those of absent candles.
        quiet: bars without a trade, as stated by the file or by the caller.
        halted: bars in which no coin of the venue traded.
        unknown: bars without a candle.
        written: rows new to the lake, by table.
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


def import_candles(
    path: Path,
    settings: Settings,
    lake: Lake,
    *,
    width: str | None = None,
    venue: str = "hyperliquid",
    kind: str = "perp",
    absent: Absent = "unknown",
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
        stamper: of the bars (default: by what the lake knows now).

    Raises:
        CaptureError: the file is not a Parquet file of candles.
        RangeError: the file has no row.
    """
    try:
        table = _read(path, venue, kind)
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise CaptureError(
            f"{path.name} has a column that is no candle's: {first}", hint="see docs/tutorial.md"
        ) from error
    if table.num_rows == 0:
        raise RangeError(f"{path} holds no candle", hint="check the file; an empty import changes nothing")
    width = width or _guess_width(table)
    run = connect_in_memory()
    run.register("raw", table)
    lag_ns = settings.bars.history_lag_ms * MS_NS
    step_ns = width_ns(width)
    _check_times(run, path, width, step_ns)
    source = f"{path.name}#{content_id(path)}"
    candles = _candles(run, width, step_ns, lag_ns, source)
    good, _ = validate(CANDLES, candles)  # rows that the lake refuses must make no bar either
    # A refused candle still proves that its instrument existed.
    spans = run.execute(
        "SELECT instrument, min(t_ns) AS first_ns, max(t_ns) AS last_ns FROM raw GROUP BY instrument"
    ).to_arrow_table()
    bars = bars_of(good, spans, width=width, step_ns=step_ns, lag_ns=lag_ns, absent=absent)
    written: dict[str, int] = {}
    batch_id = f"candles:{source}:{width}:{venue}|{kind}:{absent}:{lag_ns}"
    inputs = {"file": path.name, "path": str(path.resolve()), "sha256": content_id(path)}
    stamper = stamper or HistoryStamper(lake, settings)
    stamped, decided = stamper.stamp(batch_id, {"candles": candles, "bars": bars}, inputs)
    commit = write_batch(lake, stamped, batch_id=batch_id, inputs=decided)
    written |= commit.rows
    counts = Counter(bars["status"].to_pylist())
    span = run.execute("SELECT min(t_ns), max(t_ns) FROM raw").fetchone()
    names = run.execute("SELECT DISTINCT instrument FROM raw ORDER BY 1").fetchall()
    assert span is not None
    return ImportResult(
        instruments=tuple(row[0] for row in names),
        from_ns=int(span[0]),
        to_ns=int(span[1]) + step_ns,
        candles=candles.num_rows,
        bars=bars.num_rows,
        quiet=counts["quiet"],
        halted=counts["halted"],
        unknown=counts["unknown"],
        written=written,
    )


def _read(path: Path, venue: str, kind: str) -> pa.Table:
    """Return the file with the columns instrument, t_ns, open, high, low, close, volume, trades."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CaptureError(
            f"{path} is not a Parquet file of candles: {error}", hint="see docs/tutorial.md"
        ) from error
    lower = {name.lower(): name for name in table.column_names}
    found: dict[str, str] = {}
    for ours, theirs in _ALIASES.items():
        name = next((lower[alias] for alias in theirs if alias in lower), None)
        if name is None:
            raise CaptureError(
                f"{path.name} has no column for {ours} (has {', '.join(table.column_names)})",
                hint=f"name it one of: {', '.join(theirs)}",
            )
        found[ours] = name
    trades = next((lower[alias] for alias in _TRADES_ALIASES if alias in lower), None)
    run = connect_in_memory()
    run.register("file", table)
    is_number = pa.types.is_integer(table.schema.field(found["t"]).type)
    time = f'"{found["t"]}"'
    # Integers are milliseconds, as venues send them; anything else must be a timestamp.
    t_ns = (
        f"CAST({time} AS BIGINT) * {MS_NS}"
        if is_number
        else f"epoch_us(CAST({time} AS TIMESTAMPTZ)) * {US_NS}"
    )
    prices = ", ".join(
        f'CAST("{found[name]}" AS DOUBLE) AS {name}' for name in ("open", "high", "low", "close", "volume")
    )
    count = f'CAST("{trades}" AS BIGINT)' if trades else "CAST(NULL AS BIGINT)"
    symbol = f'"{found["symbol"]}"'
    return run.execute(
        f"""SELECT concat_ws('|', ?, ?, {symbol}) AS instrument, {symbol} AS symbol, {t_ns} AS t_ns,
                   {prices}, {count} AS trades
            FROM file ORDER BY instrument, t_ns""",
        [venue, kind],
    ).to_arrow_table()


def _guess_width(table: pa.Table) -> str:
    run = connect_in_memory()
    run.register("raw", table)
    found = run.execute(
        "SELECT mode(step) FROM (SELECT t_ns - lag(t_ns) OVER (PARTITION BY instrument ORDER BY t_ns) AS step FROM raw)"
    ).fetchone()
    step_ns = found[0] if found else None
    for width in ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d"):
        if step_ns == width_ns(width):
            return width
    raise CaptureError(
        "the width of the candles cannot be derived from their times", hint="say it: --width 5m"
    )


def _check_times(run: duckdb.DuckDBPyConnection, path: Path, width: str, step_ns: int) -> None:
    """Refuse a file with times in another unit or off the grid of its width, or without symbols."""
    found = run.execute(
        """SELECT count(*) FILTER (t_ns % ? <> 0), count(*) FILTER (t_ns NOT BETWEEN ? AND ?),
                  count(*) FILTER (symbol IS NULL), min(t_ns) FROM raw""",
        [step_ns, _FIRST_NS, _LAST_NS],
    ).fetchone()
    assert found is not None
    off_grid, out_of_range, nameless, earliest_ns = found
    if out_of_range:
        raise CaptureError(
            f"{path.name} has {out_of_range} candles outside of 2010 to 2100, the first at {iso(earliest_ns)}",
            hint="times are milliseconds since 1970, or timestamps",
        )
    if off_grid:
        raise CaptureError(
            f"{path.name} has {off_grid} candles that do not open on the grid of {width}",
            hint="say the right width with --width, or mend the file",
        )
    if nameless:
        raise CaptureError(f"{path.name} has {nameless} candles without a symbol", hint="mend the file")


def _candles(run: duckdb.DuckDBPyConnection, width: str, step_ns: int, lag_ns: int, source: str) -> pa.Table:
    rows = run.execute(
        f"""SELECT instrument, ? AS width, make_timestamptz(t_ns // {US_NS}) AS ts_open, open, high, low, close, volume,
                   trades, ? AS source, t_ns + ? AS ts_knowable_ns
            FROM raw ORDER BY instrument, t_ns""",
        [width, source, step_ns + lag_ns],
    ).to_arrow_table()
    return rows.select(CANDLES.schema.names)


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


def describe(done: ImportResult) -> str:
    """Return one line of text about an import."""
    return (
        f"{done.candles:,} candles of {len(done.instruments)} instruments, {iso(done.from_ns)} to {iso(done.to_ns)}: "
        f"{done.bars:,} bars, {done.quiet:,} quiet, {done.halted:,} halted, "
        f"{done.unknown:,} unknown"
    )
