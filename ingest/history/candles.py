"""How does candle history come in, and what bars does it make?

A file of candles becomes rows of `candles`, as they stand, and bars with origin `candle`. What candles cannot say
stays null: flow always, and the number of trades where the file has none. A candle without volume is the venue's
word that nothing printed; a candle that is absent is `unknown`, unless the import states that this source leaves
silent bars out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.captures import content_id
from storage.clock import MS_NS, US_NS, iso, width_ns
from storage.contracts import BARS, CANDLES
from storage.errors import CaptureError, RangeError, SettingsError
from storage.lake import Lake
from storage.settings import Settings

Absent = Literal["unknown", "quiet"]

# Names by which files call our columns; the first that a file has is taken.
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
class Imported:
    """What an import did.

    Args:
        instruments: whose candles the file holds.
        from_ns, to_ns: its span, right-open.
        candles: candles in the file.
        bars: bars derived, absent candles included.
        quiet: bars of them in which nothing printed, by the venue's word or the import's.
        unknown: bars whose candle is absent.
        written: rows new to the lake, by table.
    """

    instruments: tuple[str, ...]
    from_ns: int
    to_ns: int
    candles: int
    bars: int
    quiet: int
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
) -> Imported:
    """Import a Parquet file of candles.

    Args:
        path: columns for symbol, open time, open, high, low, close, volume and perhaps trades; common names are known.
        settings: the measured lag after which a candle counts as knowable.
        lake: where rows go.
        width: the candles' width; by default the commonest step between two of one symbol.
        venue: first part of the instrument ids.
        kind: second part of the instrument ids.
        absent: what a missing candle means.

    Raises:
        CaptureError: the file is no Parquet file of candles.
        RangeError: it holds no row.
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
    run = duckdb.connect()
    run.execute("SET TimeZone = 'UTC'")
    run.register("raw", table)
    lag_ns = settings.bars.history_lag_ms * MS_NS
    step_ns = width_ns(width)
    _check_times(run, path, width, step_ns)
    source = f"{path.name}#{content_id(path)}"
    candles = _candles(run, width, step_ns, lag_ns, source)
    good, _ = CANDLES.validate(candles)  # what the lake will refuse must make no bar either
    run.register("good", good)
    bars = _bars(run, width, step_ns, lag_ns, absent)
    written: dict[str, int] = {}
    commit = lake.commit(
        {"candles": candles, "bars": bars},
        batch_id=f"candles:{source}:{width}:{venue}|{kind}:{absent}:{lag_ns}",
        inputs={"file": path.name, "sha256": content_id(path)},
    )
    written |= commit.rows
    counts = (
        dict(run.execute("SELECT status, count(*) FROM bars GROUP BY status", []).fetchall())
        if bars.num_rows
        else {}
    )
    span = run.execute("SELECT min(t_ns), max(t_ns) FROM raw").fetchone()
    names = run.execute("SELECT DISTINCT instrument FROM raw ORDER BY 1").fetchall()
    assert span is not None
    return Imported(
        instruments=tuple(row[0] for row in names),
        from_ns=int(span[0]),
        to_ns=int(span[1]) + step_ns,
        candles=candles.num_rows,
        bars=bars.num_rows,
        quiet=int(counts.get("quiet", 0)),
        unknown=int(counts.get("unknown", 0)),
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
    run = duckdb.connect()
    run.execute("SET TimeZone = 'UTC'")
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
    run = duckdb.connect()
    run.register("raw", table)
    found = run.execute(
        "SELECT mode(step) FROM (SELECT t_ns - lag(t_ns) OVER (PARTITION BY instrument ORDER BY t_ns) AS step FROM raw)"
    ).fetchone()
    step_ns = found[0] if found else None
    for width in ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d"):
        if step_ns == width_ns(width):
            return width
    raise CaptureError("the candles' width cannot be told from their times", hint="say it: --width 5m")


def _check_times(run: duckdb.DuckDBPyConnection, path: Path, width: str, step_ns: int) -> None:
    """Refuse a file whose times are in another unit, off the grid of its width, or whose symbols are missing."""
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


def _bars(run: duckdb.DuckDBPyConnection, width: str, step_ns: int, lag_ns: int, absent: Absent) -> pa.Table:
    """Return one bar per instrument and grid step between its first and its last candle."""
    rows = run.execute(
        f"""
        WITH spans AS (SELECT instrument, min(t_ns) AS first_ns, max(t_ns) AS last_ns FROM raw GROUP BY instrument),
        sound AS (
            SELECT instrument, epoch_us(ts_open) * 1000 AS t_ns, open, high, low, close, volume, trades FROM good
        ),
        grid AS (
            SELECT instrument, unnest(generate_series(first_ns, last_ns, ?)) AS t_ns FROM spans
        ),
        dense AS (
            SELECT g.instrument, g.t_ns, c.open, c.high, c.low, c.close, c.volume, c.trades,
                   c.t_ns IS NULL AS is_absent,
                   c.t_ns IS NOT NULL AND (c.volume > 0 OR coalesce(c.trades, 0) > 0) AS is_printed
            FROM grid g LEFT JOIN sound c USING (instrument, t_ns)
        )
        SELECT instrument, ? AS width,
               make_timestamptz(t_ns // {US_NS}) AS ts_open,
               make_timestamptz((t_ns + ?) // {US_NS}) AS ts_close,
               CAST(0 AS INTEGER) AS revision,
               CASE WHEN is_printed THEN 'printed' WHEN is_absent THEN ? ELSE 'quiet' END AS status,
               CASE WHEN is_absent AND ? = 'unknown' THEN 'candle absent' ELSE '' END AS cause,
               'always' AS session, 'candle' AS origin,
               CAST(0 AS BIGINT) AS observed_ms, false AS repaired, false AS certified,
               CASE WHEN is_printed THEN open END AS open, CASE WHEN is_printed THEN high END AS high,
               CASE WHEN is_printed THEN low END AS low, CASE WHEN is_printed THEN close END AS close,
               CASE WHEN is_absent AND ? = 'unknown' THEN NULL ELSE coalesce(volume, 0) END AS volume,
               CAST(NULL AS DOUBLE) AS buy_volume, CAST(NULL AS DOUBLE) AS notional, CAST(NULL AS DOUBLE) AS vwap,
               CASE WHEN is_absent AND ? = 'quiet' THEN 0 WHEN NOT is_absent AND NOT is_printed THEN 0
                    ELSE trades END AS trades,
               true AS trades_applicable,
               CAST(NULL AS DOUBLE) AS bid, CAST(NULL AS DOUBLE) AS ask, CAST(NULL AS DOUBLE) AS bid_size,
               CAST(NULL AS DOUBLE) AS ask_size, CAST(NULL AS BIGINT) AS quote_age_ms,
               CAST(NULL AS DOUBLE) AS funding_rate, CAST(NULL AS DOUBLE) AS open_interest,
               CAST(NULL AS DOUBLE) AS oracle, CAST(NULL AS DOUBLE) AS mark, CAST(NULL AS BIGINT) AS context_age_ms,
               t_ns + ? AS ts_knowable_ns
        FROM dense ORDER BY instrument, t_ns
        """,
        [step_ns, width, step_ns, absent, absent, absent, absent, step_ns + lag_ns],
    ).to_arrow_table()
    bars = rows.select(BARS.schema.names)
    run.register("bars", bars)
    return bars


def check_absent(text: str) -> Absent:
    """Return what a missing candle means.

    Raises:
        SettingsError: the text is neither.
    """
    if text not in ("unknown", "quiet"):
        raise SettingsError(
            f"--absent is {text!r}", hint="unknown, or quiet where the source leaves silent bars out"
        )
    return "quiet" if text == "quiet" else "unknown"


def describe(done: Imported) -> str:
    """Return one line for people about an import."""
    return (
        f"{done.candles:,} candles of {len(done.instruments)} instruments, {iso(done.from_ns)} to {iso(done.to_ns)}: "
        f"{done.bars:,} bars, {done.quiet:,} quiet, {done.unknown:,} unknown"
    )
