"""A simulated venue in a process of its own, with a log of each print at the time it is sent.

`python -m tests.drills.venue_process NOTES --activity 20` serves a market on the real clock until it is ended. Its
first line on standard output is the port; the file NOTES gets a line for each print at the moment it was sent:
`<ns since 1970> <coin> <venue time in ms> <tid>`.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest.simulator.market.spec import MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.encoder import SimulatedPrint
from storage.logs import configure_logs
from tests.drills.homes import Key
from tests.paths import ROOT


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
    command = [sys.executable, "-m", __name__, str(notes), "--activity", str(activity)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield VenueProcess(int(process.stdout.readline()), notes, process.pid)
        finally:
            process.kill()


async def serve(notes: Path, *, activity: float) -> None:
    """Serve a market that begins now, for ever."""
    source = SyntheticMarket(MarketSpec(start_ns=time.time_ns(), span_s=None, activity=activity))
    with notes.open("w", buffering=1) as file:

        def note(item: SimulatedPrint) -> None:
            file.write(f"{time.time_ns()} {item.coin} {item.time_ms} {item.tid}\n")

        async with SimulatedVenue(source, clock="real", on_print=note) as venue:
            sys.stdout.write(f"{venue.info_url.split(':')[-1].partition('/')[0]}\n")
            sys.stdout.flush()
            await venue.finished()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notes", type=Path)
    parser.add_argument("--activity", type=float, default=1.0)
    chosen = parser.parse_args()
    configure_logs(level="error")
    asyncio.run(serve(chosen.notes, activity=chosen.activity))


if __name__ == "__main__":
    main()
