"""Commands that stand in for a venue on this machine: a simulated one, or a recorded tape."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serving.cli.context import console, run_until_stopped

if TYPE_CHECKING:
    from ingest.simulator.venue import SimulatedVenue


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("serve-venue")(serve_venue)
    app.command("serve-tape")(serve_tape)


def serve_venue(
    seed: Annotated[int, typer.Option(help="Equal seeds give equal markets.")] = 7,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 9955,
    speed: Annotated[float, typer.Option(help="Times as fast as real time; 0 is flat out.")] = 1.0,
    signal_strength: Annotated[float, typer.Option(help="Strength of the planted signal, 0 to 0.9.")] = 0.15,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    universe: Annotated[
        Literal["small", "whole"],
        typer.Option(help="Six perpetuals, or one of every kind: `k` names, dexes, spot."),
    ] = "small",
    gaia_generation: Annotated[
        Literal["G1", "G2"], typer.Option(help="Which of GaiaEx's two payloads is sent.")
    ] = "G2",
    relay_lag_s: Annotated[float, typer.Option(help="How long GaiaEx's book lies behind.")] = 0.2,
    weight_limit: Annotated[
        int, typer.Option(help="Weight of requests a minute, then 429; the venue: 1200. 0: no limit.")
    ] = 0,
) -> None:
    """Serve a simulated market that speaks Hyperliquid's protocol, and GaiaEx's, until Ctrl-C.

    One port carries all of it: Hyperliquid's feed and `/info`, the explorer's blocks, and GaiaEx as a relay of the
    same books. The addresses are printed with the settings that take them:

    `tickwalk --set record.ws_url=ws://127.0.0.1:9955/ws --set record.info_url=http://127.0.0.1:9955/info record`

    Its prices carry a weak planted signal, so that a model has something to find: figures from it prove plumbing.
    """
    from ingest.simulator.market.spec import DEFAULT_COINS, WHOLE_VENUE, MarketSpec
    from ingest.simulator.market.synthetic import SyntheticMarket
    from ingest.simulator.venue import SimulatedVenue
    from storage.clock import WallTime

    spec = MarketSpec(
        seed=seed,
        start_ns=WallTime().now_ns(),
        span_s=None,
        signal_strength=signal_strength,
        coins=WHOLE_VENUE if universe == "whole" else DEFAULT_COINS,
    )
    venue = SimulatedVenue(
        SyntheticMarket(spec),
        clock="real",
        speed=speed,
        host=host,
        port=port,
        gaia_generation=gaia_generation,
        relay_lag_s=relay_lag_s,
        weight_limit=weight_limit or None,
    )
    _serve(venue)


def serve_tape(
    file: Annotated[Path, typer.Argument(help="A capture.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 9955,
    speed: Annotated[float, typer.Option(help="Times as fast as it was recorded; 0 is flat out.")] = 1.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a recorded capture as its venue would, once, to whoever subscribes."""
    from ingest.journal.captures import read_capture
    from ingest.simulator.market.capture import CaptureMarket, scan_listings
    from ingest.simulator.venue import SimulatedVenue

    tape = CaptureMarket(read_capture(file), listings=scan_listings(read_capture(file)))
    _serve(SimulatedVenue(tape, clock="real", speed=speed, host=host, port=port))


def _serve(venue: SimulatedVenue) -> None:
    async def work(stop: asyncio.Event) -> None:
        async with venue:
            console.print(_addresses(venue), highlight=False, soft_wrap=True)
            ended = asyncio.create_task(venue.finished())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if ended.done():
                await ended
            ended.cancel()

    run_until_stopped(work)


def _addresses(venue: SimulatedVenue) -> str:
    """Return where the venue listens, each beside the setting that takes it."""
    rows = (
        ("record.ws_url", venue.ws_url, "Hyperliquid's feed"),
        ("record.info_url", venue.info_url, "its questions (POST)"),
        ("record.explorer_url", venue.explorer_url, "the chain's blocks"),
        ("gaiaex.ws_url", venue.gaia_ws_url, "GaiaEx, /SYMBOL or /spot/SYMBOL behind it"),
        ("gaiaex.rest_url", venue.gaia_rest_url, "GaiaEx, symbols/list, time, health"),
    )
    lines = [f"{key:20}  {url:42}  {what}" for key, url, what in rows]
    return "\n".join([*lines, "Ctrl-C ends it."])
