"""Commands `serve-venue` and `serve-tape`."""

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
    seed: Annotated[int, typer.Option(help="Seed of the market; equal seeds give equal markets.")] = 7,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.")] = 9955,
    speed: Annotated[float, typer.Option(help="Multiple of real time; 0: as fast as possible.")] = 1.0,
    signal_strength: Annotated[float, typer.Option(help="Strength of the planted signal, 0 to 0.9.")] = 0.15,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    universe: Annotated[
        Literal["small", "whole"],
        typer.Option(help="small: six perpetuals; whole: every kind of instrument (`k` names, dexes, spot)."),
    ] = "small",
    gaia_generation: Annotated[Literal["G1", "G2"], typer.Option(help="GaiaEx payload format.")] = "G2",
    relay_lag_s: Annotated[float, typer.Option(help="Delay of GaiaEx's book in seconds.")] = 0.2,
    weight_limit: Annotated[
        int,
        typer.Option(
            help="Rate limit: request weight per minute before 429 (the real venue: 1200); 0: none."
        ),
    ] = 0,
) -> None:
    """Simulate Hyperliquid and GaiaEx on this machine.

    Runs until Ctrl-C. One port serves Hyperliquid's feed and `/info`, the explorer's blocks, and GaiaEx as a relay of
    the same books. The command prints each address with the setting it belongs to. To record it:

    `tickwalk --set record.ws_url=ws://127.0.0.1:9955/ws --set record.info_url=http://127.0.0.1:9955/info record`

    The prices carry a weak planted signal for a model to find. Results on them test the pipeline and say nothing about
    real markets.
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
    file: Annotated[Path, typer.Argument(help="Capture file.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.")] = 9955,
    speed: Annotated[
        float, typer.Option(help="Multiple of the recorded speed; 0: as fast as possible.")
    ] = 1.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a capture as a venue would.

    The capture is played once, to all subscribers. Example: `tickwalk serve-tape capture.ndjson.gz --speed 10`
    """
    from ingest.journal.capture_order import frames_in_order
    from ingest.simulator.market.capture import CaptureMarket, scan_listings
    from ingest.simulator.venue import SimulatedVenue

    tape = CaptureMarket(frames_in_order(file), listings=scan_listings(frames_in_order(file)))
    _serve(SimulatedVenue(tape, clock="real", speed=speed, host=host, port=port))


def _serve(venue: SimulatedVenue) -> None:
    from ingest.concurrency import run_unless

    async def work(stop: asyncio.Event) -> None:
        async with venue:
            console.print(_addresses(venue), highlight=False, soft_wrap=True)
            await run_unless(stop, venue.finished())

    run_until_stopped(work)


def _addresses(venue: SimulatedVenue) -> str:
    """Return the venue's addresses, each with the setting it belongs to."""
    rows = (
        ("record.ws_url", venue.ws_url, "Hyperliquid's feed"),
        ("record.info_url", venue.info_url, "its requests (POST)"),
        ("record.explorer_url", venue.explorer_url, "the chain's blocks"),
        ("gaiaex.ws_url", venue.gaia_ws_url, "GaiaEx, /SYMBOL or /spot/SYMBOL behind it"),
        ("gaiaex.rest_url", venue.gaia_rest_url, "GaiaEx, symbols/list, time, health"),
    )
    lines = [f"{key:20}  {url:42}  {what}" for key, url, what in rows]
    return "\n".join([*lines, "Ctrl-C ends it."])
