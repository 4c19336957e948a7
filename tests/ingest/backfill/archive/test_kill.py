"""A step killed during its download or before its commit is repeated as a whole."""

from __future__ import annotations

import asyncio
import functools
import http.server
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from ingest.backfill.archive.object_keys import BLOCKS, HOUR_NS
from ingest.backfill.archive.trades import ArchiveTradeSource
from ingest.backfill.source import BackfillRequest
from storage.clock import ManualTime
from storage.lake.lake import Lake
from storage.settings import load_settings
from tests.drills.forked import context
from tests.ingest.backfill.archive.archives import (
    HOUR,
    HOUR_MS,
    LATER,
    both,
    fill_in,
    in_order,
    objects_at,
    packed,
    pulse,
    rows,
)
from tests.ingest.recorder.faults.test_archive_fills import a_block
from tests.ingest.recorder.faults.test_archive_hours import Quiet

HOURS = 3
WISH = BackfillRequest(HOUR, HOUR + HOURS * HOUR_NS)
TABLES = ("trades", "bars", "coverage", "quarantine")


class Stalling(Quiet):
    """A file server that stops halfway through one file, and signals it."""

    stalls_at = ""
    stalled: threading.Event

    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        if not self.stalls_at or not self.path.endswith(self.stalls_at):
            return super().do_GET()
        body = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.stalled.set()
        type(self).stalls_at = ""
        threading.Event().wait(20.0)
        return None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, type[Stalling]]]:
    class Mine(Stalling):
        stalled = threading.Event()

    for number in range(-1, HOURS + 1):
        at_ms = HOUR_MS + number * 3_600_000
        blocks = [a_block(*both(100 * (number + 1) + n, at_ms + n * 7_000)) for n in range(1, 40)]
        path = tmp_path / "site" / BLOCKS.key(HOUR + number * HOUR_NS)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(in_order([*blocks, *pulse(at_ms, at_ms + 3_600_000)])))
    handler = functools.partial(Mine, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Mine
        server.shutdown()


def fill_home(
    where: str, home: Path, before_commit: int = 0, reached: Event | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Fetch all steps and return all rows; before the commit of one, signal it and wait to be killed."""
    settings = load_settings(overrides={"home": home}, environ={})

    class Halting(Lake):
        commits = 0

        def commit(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            type(self).commits += 1
            if self.commits == before_commit and reached is not None:
                reached.set()
                threading.Event().wait(30.0)
            return super().commit(*args, **kwargs)

    with Halting.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, home), settings, ManualTime(LATER), query=lake.query)
        asyncio.run(fill_in(source, WISH, lake))
        return {table: rows(lake, table) for table in TABLES}


@pytest.mark.drill
def test_killed_while_it_fetches_and_before_it_commits_the_next_run_ends_with_the_same_rows(
    site: tuple[str, type[Stalling]], tmp_path: Path
) -> None:
    where, server = site
    whole = fill_home(where, tmp_path / "whole")
    fork = context()
    killed = tmp_path / "killed"
    server.stalls_at = "15.lz4"
    fetching = fork.Process(target=fill_home, args=(where, killed))
    fetching.start()
    assert server.stalled.wait(60.0)
    fetching.kill()
    fetching.join()
    key = killed / "archive" / BLOCKS.key(HOUR + HOUR_NS)
    assert not key.exists(), "half an object has no name"
    reached = fork.Event()
    committing = fork.Process(target=fill_home, args=(where, killed, 2, reached))
    committing.start()
    assert reached.wait(60.0)
    committing.kill()
    committing.join()
    assert key.exists()
    found = fill_home(where, killed)
    assert len(found["trades"]) > 300
    assert found == whole
