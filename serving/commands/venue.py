"""Commands that stand in for a venue on this machine: a simulated one, or a recorded tape."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from serving.commands.common import console, run_until_stopped


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
) -> None:
    """Serve a simulated market that speaks Hyperliquid's protocol, until Ctrl-C.

    Its prices carry a weak planted signal, so that a model has something to find: figures from it prove plumbing.
    """
    from ingest.venues.market import Market
    from ingest.venues.market_spec import MarketSpec
    from ingest.venues.simulated import SimulatedVenue
    from storage.clock import WallTime

    spec = MarketSpec(seed=seed, start_ns=WallTime().now_ns(), span_s=None, signal_strength=signal_strength)
    _serve(SimulatedVenue(Market(spec), clock="real", speed=speed, host=host, port=port))


def serve_tape(
    file: Annotated[Path, typer.Argument(help="A capture.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 9955,
    speed: Annotated[float, typer.Option(help="Times as fast as it was recorded; 0 is flat out.")] = 1.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a recorded capture as its venue would, once, to whoever subscribes."""
    from ingest.captures import read_capture
    from ingest.venues.simulated import SimulatedVenue
    from ingest.venues.tape import Tape, scan_listings

    tape = Tape(read_capture(file), listings=scan_listings(read_capture(file)))
    _serve(SimulatedVenue(tape, clock="real", speed=speed, host=host, port=port))


def _serve(venue: object) -> None:
    from ingest.venues.simulated import SimulatedVenue

    assert isinstance(venue, SimulatedVenue)

    async def work(stop: asyncio.Event) -> None:
        async with venue:
            console.print(
                f"WebSocket  {venue.ws_url}\nPOST       {venue.info_url}\nCtrl-C ends it.", highlight=False
            )
            ended = asyncio.create_task(venue.finished())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if ended.done():
                await ended
            ended.cancel()

    run_until_stopped(work)
