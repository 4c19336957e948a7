"""Commands `replay`, `import`, `sql` and `instruments`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.context import Format, console, notes, print_table, settings_of
from serving.cli.progress import byte_progress, growing_progress
from storage.errors import RangeError

imports = typer.Typer(no_args_is_help=True, help="Import history from files.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(replay)
    app.command()(sql)
    app.command()(instruments)
    app.add_typer(imports, name="import")


def replay(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Capture files, or recordings in the journal.")],
) -> None:
    """Load captures or recordings into the tables.

    Rows that the tables already hold are skipped, so a second run adds nothing. A capture is a file of lines
    `{"recv_ns": ..., "msg": {...}}` or `<recv_ns> {...}`, plain or gzipped. It is replayed in order of `recv_ns`:
    pieces that were joined in another order are merged, and no receipt time is changed. Each file is a recording of
    its own.

    Example: `tickwalk replay capture.ndjson.gz`
    """
    from ingest.replay.replay import replay as run
    from storage.lake.lake import Lake

    settings = settings_of(context)
    settings.ensure_home()
    with Lake.open(settings) as lake:
        for path in files:
            with byte_progress(path.name, _size(path)) as advance:
                done = run(path, settings, lake, on_bytes=advance)
            counts = done.counts
            channels = ", ".join(f"{name} {frames:,}" for name, frames in sorted(done.channels.items()))
            console.print(f"{path.name} -> {done.recording}", highlight=False)
            console.print(f"  frames    {counts.frames:,} ({channels})", highlight=False)
            console.print(
                f"  prints    {counts.prints:,}, of which {counts.trades:,} distinct, {counts.seen:,} seen before, "
                f"{counts.conflicts:,} in conflict, {counts.late:,} late",
                highlight=False,
            )
            console.print(
                f"  reconnects {counts.reconnects}, quarantined {counts.quarantined:,}", highlight=False
            )
            new = ", ".join(f"{name} {rows:,}" for name, rows in done.written.items() if rows) or "nothing"
            console.print(f"  new rows  {new}", highlight=False)


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="DuckDB SQL over the tables; `SHOW TABLES` lists them.")],
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
    at: Annotated[int | None, typer.Option(help="Snapshot of the lake to read; default: the newest.")] = None,
    known_at: Annotated[
        str | None,
        typer.Option(help="Hide rows that were not knowable at this time; ISO 8601, UTC."),
    ] = None,
) -> None:
    """Query the tables with SQL, read-only.

    `--at` reads an older snapshot of the lake. `--known-at` hides rows that a live system could not have known at that
    time. The two can be combined.

    Example: `tickwalk sql "SELECT instrument, status, count(*) FROM bars_latest GROUP BY ALL"`
    """
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake

    known_at_ns = parse_time_ns(known_at) if known_at else None
    with Lake.open(settings_of(context), read_only=True) as lake:
        print_table(lake.query(query, at=at, known_at_ns=known_at_ns), form)


def instruments(
    context: typer.Context,
    pattern: Annotated[
        str, typer.Argument(help="Symbol or pattern, such as kPEPE or xyz:*; case-sensitive.")
    ] = "*",
    every: Annotated[
        bool, typer.Option("--all", help="Include delisted, absent and renamed instruments.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """List instruments.

    Shows the state that the venues last reported. A reused symbol is a new instrument whose id ends in `~2`. The view
    `instruments_valid` has the full history.

    Example: `tickwalk instruments "xyz:*" --all`
    """
    from storage.lake.lake import Lake

    query = """
        WITH newest AS (
            SELECT *, coalesce(state, if(is_delisted, 'delisted', 'listed')) AS now  -- null in the first release
            FROM instruments_valid WHERE valid_to_ns IS NULL
        )
        SELECT instrument, now AS state, size_decimals AS decimals, max_leverage AS leverage, quote, session,
               strftime(make_timestamp(valid_from_ns // 1000), '%Y-%m-%d %H:%M') AS since
        FROM newest WHERE symbol GLOB ? AND (now = 'listed' OR ?) ORDER BY venue, dex, symbol, generation
    """
    with Lake.open(settings_of(context), read_only=True) as lake:
        total = lake.query("SELECT count(*) AS rows FROM instruments")["rows"][0].as_py()
        rows = lake.query(query, (pattern, every))
    if total == 0:
        raise RangeError("the lake holds no instruments yet", hint="they are recorded by: tickwalk record")
    if rows.num_rows == 0:
        raise RangeError(
            f"no listed instrument has a symbol like {pattern!r}",
            hint="see them all with: tickwalk instruments --all",
        )
    print_table(rows, form)


@imports.command()
def candles(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Parquet file of candles.")],
    width: Annotated[
        str | None, typer.Option(help="Width of the candles, such as 5m; default: read from the file.")
    ] = None,
    venue: Annotated[str, typer.Option(help="Venue in the instrument ids.")] = "hyperliquid",
    kind: Annotated[str, typer.Option(help="Kind in the instrument ids: perp or spot.")] = "perp",
    absent: Annotated[
        str, typer.Option(help="Status of bars without a candle: unknown or quiet.")
    ] = "unknown",
    opens: Annotated[
        str,
        typer.Option("--open", help="What the open is: first-trade, or previous-close as in BitMEX's files."),
    ] = "first-trade",
    timezone: Annotated[
        str | None,
        typer.Option(help="Time zone of times that have none, such as America/New_York; default: UTC."),
    ] = None,
) -> None:
    """Import candles from a Parquet file, and derive bars from them with origin `candle`.

    Columns: coin (or symbol), t (open time: a timestamp, ISO 8601, or a number since 1970 in s, ms, us or ns), open,
    high, low, close, volume, and optionally trades.

    A candle that is still open is left out, and one of the future is quarantined, as is one that breaks its contract
    or contradicts an earlier one of its time.

    Example: `tickwalk import candles btc-5m.parquet`
    """
    from ingest.backfill.candle_files import check_absent, check_opens, describe, import_candles
    from ingest.replay.recovery import recover
    from storage.lake.lake import Lake

    settings = settings_of(context)
    settings.ensure_home()
    with Lake.open(settings) as lake, notes.status(f"importing {file.name}"):
        recover(settings, lake)
        done = import_candles(
            file,
            settings,
            lake,
            width=width,
            venue=venue,
            kind=kind,
            absent=check_absent(absent),
            opens=check_opens(opens),
            timezone=timezone,
        )
    console.print(describe(done), highlight=False)
    new = ", ".join(f"{name} {rows:,}" for name, rows in done.written.items() if rows) or "nothing"
    console.print(f"new rows: {new}", highlight=False)


@imports.command()
def funding(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Parquet or CSV file of paid funding.")],
    venue: Annotated[str, typer.Option(help="Venue in the instrument ids.")] = "hyperliquid",
    kind: Annotated[str, typer.Option(help="Kind in the instrument ids.")] = "perp",
    timezone: Annotated[
        str | None,
        typer.Option(help="Time zone of times that have none, such as America/New_York; default: UTC."),
    ] = None,
) -> None:
    """Import paid funding from a Parquet or CSV file.

    Columns: coin (or symbol, or an instrument id), time (a timestamp, ISO 8601, or a number since 1970 in s, ms, us or
    ns), funding_rate (share of the notional, positive: longs pay), and optionally premium and interval_h.

    Rows that the tables already hold are skipped, so a second run adds nothing. A payment of the future is an error.

    Example: `tickwalk import funding funding.csv`
    """
    from ingest.backfill.funding_files import import_funding
    from ingest.replay.recovery import recover
    from storage.clock import iso
    from storage.lake.lake import Lake

    settings = settings_of(context)
    settings.ensure_home()
    with Lake.open(settings) as lake, growing_progress(file.name) as (on_total, on_rows):
        recover(settings, lake)
        done = import_funding(
            file,
            settings,
            lake,
            venue=venue,
            kind=kind,
            timezone=timezone,
            on_total=on_total,
            on_rows=on_rows,
        )
    console.print(
        f"{done.payments:,} payments of {len(done.instruments)} instruments, {iso(done.from_ns)} to {iso(done.to_ns)}",
        highlight=False,
    )
    if done.is_utc_assumed:
        console.print(
            "the times have no zone and were read as UTC; --timezone names another", highlight=False
        )
    console.print(f"new rows: {done.written:,}, quarantined {done.refused:,}", highlight=False)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(item.stat().st_size for item in path.iterdir())
    return path.stat().st_size if path.exists() else 0
