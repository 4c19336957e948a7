"""Commands around a running recorder: record, and the gaps that recordings have."""

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
        typer.Option(help="Coin to record, byte-exact, or a pattern such as `xyz:*`; may be repeated."),
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option(help="GaiaEx symbol to record beside it; may be repeated.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="WebSocket address, instead of the setting.")] = None,
    info_url: Annotated[
        str | None, typer.Option(help="Address of POST /info, instead of the setting.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="Take one part of the instruments, as in `1/3`.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Stop after recording for so many seconds.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show instruments, rates, lag and gaps live.")
    ] = False,
) -> None:
    """Record the venues' public feeds until Ctrl-C.

    Every frame is journalled before anything is derived from it; bars are published every minute. What the recording
    will take on disk is said first. Ctrl-C seals the journal and drains what is pending. After a crash the next start
    recovers. Metrics and health are served on 127.0.0.1 (`metrics.port`).

    Try it without a network: `tickwalk serve-venue` in another terminal, then
    `tickwalk record --url ws://127.0.0.1:9955/ws --info-url http://127.0.0.1:9955/info --watch`.
    """
    import dataclasses

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

    with _shown(settings, watch=watch) as draw:

        async def work(stop: asyncio.Event) -> RecordingResult:
            def begins(coins: list[str]) -> None:
                _tell_estimate(settings, coins)
                if seconds is not None:
                    asyncio.get_running_loop().call_later(seconds, stop.set)

            with Lake.open(settings) as lake:
                recorder = Recorder(
                    settings,
                    lake,
                    on_vitals=draw,
                    on_coins=begins,
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
    instrument: Annotated[str | None, typer.Argument(help="One instrument or coin; all by default.")] = None,
    since: Annotated[str | None, typer.Option(help="From this time on, as in 2026-11-01.")] = None,
    channel: Annotated[str, typer.Option(help="`trades`, `book`, another channel, or `*`.")] = "trades",
    open_only: Annotated[bool, typer.Option("--open", help="Only those that nothing has repaired.")] = False,
    differ: Annotated[
        bool,
        typer.Option("--differ", help="Whole bars that the venue's candles contradict, instead of gaps."),
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """List missing prints: where nobody watched, why, and what proved that nothing is missing.

    A gap is repaired when the prints that the venue resent reach back over it (`overlap`), or when the venue itself
    tells it whole (`venue_statement`): its candles count as many trades as we hold, or its archive was written
    throughout. Where several sockets watch, a gap is where none did.

    With `--differ`: bars that claim to be whole and say something else than the venue's candle, figure by figure.
    """
    from ingest.coverage.gap_queries import list_discrepancies, list_gaps
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake

    with Lake.open(settings_of(context), read_only=True) as lake:
        since_ns = parse_time_ns(since) if since else 0
        unlike = list_discrepancies(lake, instrument=instrument, since_ns=since_ns, open_only=open_only)
        rows = unlike
        if not differ:
            rows = list_gaps(
                lake, instrument=instrument, since_ns=since_ns, channel=channel, open_only=open_only
            )
    if rows.num_rows == 0:
        notes.print("no bar differs from its candle" if differ else "no gap", highlight=False)
    else:
        print_table(rows, form)
    if unlike.num_rows and not differ:
        bars = len({(row["instrument"], row["width"], row["bar"]) for row in unlike.to_pylist()})
        told = "1 bar differs" if bars == 1 else f"{bars:,} bars differ"
        notes.print(f"{told} from the venue's candles; see: tickwalk gaps --differ", highlight=False)


def _tell_estimate(settings: Settings, coins: list[str]) -> None:
    from ingest.recorder.disk_estimate import estimate

    notes.print(estimate(settings, coins=coins).text(), highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _shown(settings: Settings, *, watch: bool) -> Iterator[Callable[[RecorderStatus], None]]:
    """Yield what draws vital signs: the live view, or one line."""
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
                f"reconnects {vitals.reconnects}  quarantined {vitals.quarantined}  (Ctrl-C seals and ends)"
            )

        yield show
