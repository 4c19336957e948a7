"""A simulated venue in a process of its own, with a log of each print at the time it is sent.

`venue_process` serves a market on the real clock until it is ended. Its file of notes gets a line for each print at
the moment it was sent: `<ns since 1970> <coin> <venue time in ms> <tid>`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from ingest.simulator.market.spec import MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.encoder import SimulatedPrint
from storage.logs import configure_logs
from tests.drills.forked import context
from tests.drills.homes import Key


@dataclass(frozen=True, slots=True)
class VenueProcess:
    """A running venue."""

    port: int
    notes: Path
    pid: int

    @property
    def addresses(self) -> dict[str, object]:
        """Settings under which a recorder finds it."""
        return addresses(self.port)

    def sent(self) -> list[tuple[int, Key]]:
        """Return (ns since 1970, key) of every print sent so far, each time that it was."""
        rows = (line.split() for line in self.notes.read_text().splitlines(keepends=True) if line[-1] == "\n")
        return [(int(at_ns), (coin, int(time_ms), int(tid))) for at_ns, coin, time_ms, tid in rows]


def addresses(port: int) -> dict[str, object]:
    """Return the settings under which a recorder finds a simulated venue on a port."""
    return {
        "record.ws_url": f"ws://127.0.0.1:{port}/ws",
        "record.info_url": f"http://127.0.0.1:{port}/info",
        "record.explorer_url": f"ws://127.0.0.1:{port}/explorer",
        "gaiaex.ws_url": f"ws://127.0.0.1:{port}/gaia/ws/market",
        "gaiaex.rest_url": f"http://127.0.0.1:{port}/gaia/v1/trade",
    }


@contextmanager
def venue_process(folder: Path, *, activity: float) -> Iterator[VenueProcess]:
    """Run a venue for the time of a drill; its notes go below `folder`."""
    notes = folder / "sent.txt"
    reader, writer = context().Pipe(duplex=False)
    process = context().Process(target=_main, args=(notes, activity, writer), daemon=True)
    process.start()
    writer.close()
    try:
        yield VenueProcess(reader.recv(), notes, process.pid or 0)
    finally:
        process.kill()
        process.join()
        reader.close()


def _main(notes: Path, activity: float, writer: Connection) -> None:
    configure_logs(level="error")
    asyncio.run(serve(notes, writer, activity=activity))


async def serve(notes: Path, writer: Connection, *, activity: float) -> None:
    """Serve a market that begins now, for ever; send the port when it listens."""
    source = SyntheticMarket(MarketSpec(start_ns=time.time_ns(), span_s=None, activity=activity))
    with notes.open("w", buffering=1) as file:

        def note(item: SimulatedPrint) -> None:
            file.write(f"{time.time_ns()} {item.coin} {item.time_ms} {item.tid}\n")

        async with SimulatedVenue(source, clock="real", on_print=note) as venue:
            writer.send(int(venue.info_url.split(":")[-1].partition("/")[0]))
            await venue.finished()
