"""How does a command serve a simulated venue until its tape ends or someone presses Ctrl-C?"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from ingest.venues.line import Stats
from ingest.venues.simulated import SimulatedVenue


def serve(venue: SimulatedVenue, *, announce: Callable[[str], None]) -> Stats:
    """Serve until the tape ends, or SIGINT or SIGTERM, and return what was sent; blocks.

    Args:
        venue: not yet started; one that holds its connections at the end is served until a signal.
        announce: is told the addresses, one a line, once the venue listens.
    """
    asyncio.run(_serve(venue, announce))
    return venue.stats


async def _serve(venue: SimulatedVenue, announce: Callable[[str], None]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with venue:
        announce(f"websocket  {venue.ws_url}")
        announce(f"info       {venue.info_url}")
        announce(f"explorer   {venue.explorer_url}")
        announce(f"gaiaex     {venue.gaia_ws_url}/<symbol>")
        announce(f"gaiaex     {venue.gaia_rest_url}")
        waits = [asyncio.create_task(stop.wait()), asyncio.create_task(_finished(venue))]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


async def _finished(venue: SimulatedVenue) -> bool:
    await venue.finished()
    if venue.holds:
        await asyncio.Event().wait()
    return True
