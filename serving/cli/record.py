"""Commands `record` and `gaps`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.context import Format, console, notes, print_table, run_until_stopped, settings_of

if TYPE_CHECKING:
    from ingest.recorder.recorder import RecordingResult
    from ingest.recorder.status import RecorderStatus
    from storage.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(record)
    app.command()(gaps)


def record(
    context: typer.Context,
    coin: Annotated[
        list[str] | None,
        typer.Option(help="Coin to record, or a pattern such as `xyz:*`; case-sensitive; repeatable."),
    ] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="GaiaEx symbol to record too; repeatable.")] = None,
    url: Annotated[str | None, typer.Option(help="WebSocket address; default: record.ws_url.")] = None,
    info_url: Annotated[
        str | None, typer.Option(help="Address of POST /info; default: record.info_url.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Record one part of the instruments, such as `1/3`.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Stop after this many seconds of recording.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show instruments, message rates, lag and gaps live.")
    ] = False,
) -> None:
    """Record the venues' public feeds until Ctrl-C.

    Every frame is written to the journal before it is parsed; bars are published once a minute. The command first
    prints how much disk space the recording needs. Ctrl-C seals the journal and commits pending rows. After a crash,
    the next start recovers what the journal holds. Metrics and health are served on 127.0.0.1 (`metrics.port`).

    Example: `tickwalk record --coin BTC --coin ETH --watch`

    Without a network: run `tickwalk serve-venue` in another terminal, then
    `tickwalk record --url ws://127.0.0.1:9955/ws --info-url http://127.0.0.1:9955/info --watch`.
    """
    import dataclasses
    import importlib

    from ingest.recorder.memory import keep_small
    from ingest.recorder.recorder import Recorder
    from serving.monitoring.prometheus import MetricsServer
    from storage.lake.lake import Lake

    settings = settings_of(context)
    changes: dict[str, Any] = {"coins": tuple(coin) if coin else None, "ws_url": url, "info_url": info_url}
    chosen = dataclasses.replace(
        settings.record, **{k: v for k, v in (changes | {"shard": shard}).items() if v is not None}
    )
    settings = dataclasses.replace(settings, record=chosen)
    if symbol:
        relays = dataclasses.replace(settings.gaiaex, symbols=tuple(symbol))
        settings = dataclasses.replace(settings, gaiaex=relays)
    settings.ensure_home()
    keep_small()
    # Loaded now: importing it takes a second, which would fall on the first rejected row while frames arrive.
    importlib.import_module("pandera.pandas")

    with _display(settings, watch=watch) as draw:

        async def work(stop: asyncio.Event) -> RecordingResult:
            def on_start(coins: list[str]) -> None:
                _print_estimate(settings, coins)
                if seconds is not None:
                    asyncio.get_running_loop().call_later(seconds, stop.set)

            with Lake.open(settings) as lake:
                recorder = Recorder(
                    settings,
                    lake,
                    on_vitals=draw,
                    on_coins=on_start,
                )
                async with MetricsServer(settings, lambda: recorder.vitals):
                    return await recorder.run(stop)

        done: RecordingResult = run_until_stopped(work)
    console.print(
        f"recorded {done.name}: {done.counts.frames:,} frames, {done.counts.trades:,} trades, "
        f"{done.written.get('bars', 0):,} bars, {done.counts.reconnects} reconnects",
        highlight=False,
    )


def gaps(
    context: typer.Context,
    instrument: Annotated[str | None, typer.Argument(help="One instrument or coin; default: all.")] = None,
    since: Annotated[str | None, typer.Option(help="Start of the range, such as 2026-11-01.")] = None,
    channel: Annotated[str, typer.Option(help="`trades`, `book`, another channel, or `*`.")] = "trades",
    open_only: Annotated[bool, typer.Option("--open", help="Only gaps that are not repaired.")] = False,
    differ: Annotated[
        bool,
        typer.Option(
            "--differ", help="List complete bars that differ from the venue's candles, instead of gaps."
        ),
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """List gaps in the recorded trades, with cause and repair.

    A gap is a time in which no socket was watching. It is repaired when prints that the venue resent reach back over
    it (`overlap`), or when the venue confirms that nothing is missing (`venue_statement`): its candles count as many
    trades as the table holds, or its archive covers the gap.

    With `--differ`: bars marked complete that differ from the venue's candle, one row per differing figure.

    Example: `tickwalk gaps BTC --since 2026-11-01 --open`
    """
    from ingest.coverage.gap_queries import list_discrepancies, list_gaps
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake

    with Lake.open(settings_of(context), read_only=True) as lake:
        since_ns = parse_time_ns(since) if since else 0
        discrepancies = list_discrepancies(
            lake, instrument=instrument, since_ns=since_ns, open_only=open_only
        )
        rows = discrepancies
        if not differ:
            rows = list_gaps(
                lake, instrument=instrument, since_ns=since_ns, channel=channel, open_only=open_only
            )
    if rows.num_rows == 0:
        notes.print("no bar differs from its candle" if differ else "no gap", highlight=False)
    else:
        print_table(rows, form)
    if discrepancies.num_rows and not differ:
        bars = len({(row["instrument"], row["width"], row["bar"]) for row in discrepancies.to_pylist()})
        message = "1 bar differs" if bars == 1 else f"{bars:,} bars differ"
        notes.print(f"{message} from the venue's candles; see: tickwalk gaps --differ", highlight=False)


def _print_estimate(settings: Settings, coins: list[str]) -> None:
    from ingest.recorder.disk_estimate import estimate

    notes.print(estimate(settings, coins=coins).text(), highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _display(settings: Settings, *, watch: bool) -> Iterator[Callable[[RecorderStatus], None]]:
    """Yield the function that displays a status: the live view, or a status line."""
    if watch:
        from serving.monitoring.live_view import live_view

        with live_view(settings.alert, notes) as draw:
            yield draw
        return
    from storage.clock import iso

    with notes.status(f"recording from {settings.record.ws_url}") as status:

        def show(vitals: RecorderStatus) -> None:
            status.update(
                f"{iso(vitals.now_ns)}  frames {vitals.frames:,}  trades {vitals.trades:,}  bars {vitals.bars:,}  "
                f"reconnects {vitals.reconnects}  quarantined {vitals.quarantined}  (Ctrl-C seals and stops)"
            )

        yield show
