"""Processes with homes of their own that backfill one lake on Postgres and S3, and are killed at random moments.

Chunks of days wait in a line. Each home takes the next one; a chunk whose process is killed goes back into the line, as
Airflow retries a task whose worker died. In the end no batch may be there twice, `verify` may find nothing but orphans
that kills left, and the rows must be those of one process that filled an embedded lake without being disturbed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.source import BackfillRequest, BackfillStep
from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.simulator.wire.encoder import SimulatedFunding
from storage.clock import DAY_NS, MS_NS, ManualTime
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.logs import configure_logs
from storage.settings import load_settings
from tests.drills.backfill_kills import ROWS
from tests.drills.forked import context
from tests.ingest.backfill.histories import NOW_NS, candles, served_aside
from tests.patience import HANG_S
from tests.storage.servers import BUCKET, postgres, s3

_HOUR_NS: Final = DAY_NS // 24
_LOOK_S: Final = 0.01
_TABLES: Final = ("candles", "funding", "bars")
_KINDS: Final = (RestRequest("candles", "1h"), RestRequest("funding"))

Chunk = tuple[int, int]
"""A range of time: start and end in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Work:
    """So many coins and days before now, in chunks of so many days."""

    coins: int
    days: int
    chunk_days: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coins."""
        return tuple(f"C{number:02d}" for number in range(self.coins))

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks, oldest first; the last one ends with the last whole day."""
        end = NOW_NS // DAY_NS * DAY_NS
        starts = range(end - self.days * DAY_NS, end, self.chunk_days * DAY_NS)
        return [(start, min(start + self.chunk_days * DAY_NS, end)) for start in starts]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Args:
        kills: processes killed; in the home that was chosen for it.
        by_home: batches that each home committed.
        orphans: files that kills left in the bucket, which `verify` named.
        rows: rows compared, by table.
        shared_s, alone_s: seconds of the two runs.
    """

    kills: int
    by_home: Mapping[str, int]
    orphans: int
    rows: Mapping[str, int]
    shared_s: float
    alone_s: float

    def text(self) -> str:
        """Return the figures in a line."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        homes = ", ".join(f"{name} {count}" for name, count in self.by_home.items())
        return (
            f"{self.kills} kills; batches by home: {homes}; {self.orphans} orphans; rows equal to those of one "
            f"process: {rows}; {self.shared_s:.0f} s on Postgres and S3, {self.alone_s:.0f} s embedded"
        )


def drill(folder: Path, work: Work, *, kills: int, seed: int, longest_s: float = 2.0) -> Report:
    """Fill a shared lake from two homes and kill the second at random moments; compare, and return the figures.

    Args:
        folder: an empty one; takes the homes.
        work: to be filled in.
        kills: how often.
        seed: draws the moments.
        longest_s: a process is killed at most so long after it began.
    """
    configure_logs(level="error")
    draw = random.Random(seed)
    with _places(folder, work) as (venue, shared):
        started_s = time.monotonic()
        _fill(work, {"alone": {**venue, "home": folder / "alone"}}, kills={}, draw=draw, longest_s=longest_s)
        alone_s, started_s = time.monotonic() - started_s, time.monotonic()
        homes = {name: {**venue, **shared, "home": folder / name} for name in ("steady", "killed")}
        done = _fill(work, homes, kills={"killed": kills}, draw=draw, longest_s=longest_s)
        shared_s = time.monotonic() - started_s
        expected = _rows({**venue, "home": folder / "alone"})
        found = _rows(homes["steady"])
        for name, rows in expected.items():
            assert rows.num_rows > 0, name
            assert found[name].equals(rows), f"{name} of the shared lake differ"
        by_home, orphans = _check(homes)
    counts = {name: table.num_rows for name, table in expected.items()}
    return Report(done, by_home, orphans, counts, shared_s, alone_s)


def _fill(
    work: Work,
    homes: Mapping[str, Mapping[str, object]],
    *,
    kills: Mapping[str, int],
    draw: random.Random,
    longest_s: float,
) -> int:
    """Work off the line of chunks, one process per home at a time; return how many were killed."""
    line = deque(work.chunks)
    left = dict(kills)
    running: dict[str, tuple[Chunk, ForkServerProcess, float]] = {}
    killed = 0
    until_s = time.monotonic() + HANG_S
    while line or running:
        assert time.monotonic() < until_s, f"{len(line)} chunks are left"
        for name, values in homes.items():
            if name not in running and line:
                chunk = line.popleft()
                kill_at_s = time.monotonic() + draw.uniform(0, longest_s) if left.get(name) else float("inf")
                running[name] = (chunk, _start(work, values, chunk), kill_at_s)
        for name, (chunk, process, kill_at_s) in list(running.items()):
            process.join(_LOOK_S)
            if not process.is_alive():
                assert process.exitcode == 0, f"{name} ended with {process.exitcode}"
                del running[name]
            elif time.monotonic() >= kill_at_s:
                process.kill()
                process.join()
                del running[name]
                line.append(chunk)
                left[name] -= 1
                killed += 1
    return killed


def _start(work: Work, values: Mapping[str, object], chunk: Chunk) -> ForkServerProcess:
    environ = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    process = context().Process(target=_run, args=(dict(values), chunk, work.names, environ))
    process.start()
    return process


def _run(values: dict[str, object], chunk: Chunk, coins: tuple[str, ...], environ: Mapping[str, str]) -> None:
    os.environ.update(environ)
    configure_logs(level="error")
    settings = load_settings(overrides=values, environ={})

    async def fill(lake: Lake) -> None:
        for wanted in _KINDS:
            request = BackfillRequest(*chunk, coins)
            await backfill_over_rest(
                wanted, request, lake, settings, clock=ManualTime(NOW_NS), on_step=_refuse_absent
            )

    with Lake.open(settings) as lake:
        asyncio.run(fill(lake))


def _refuse_absent(step: BackfillStep, done: object) -> None:
    absent = getattr(done, "absent", None)
    assert absent == [], f"{step.key}: {absent}"


def _rows(values: Mapping[str, object]) -> dict[str, pa.Table]:
    with Lake.open(load_settings(overrides=dict(values), environ={}), read_only=True) as lake:
        return {name: lake.query(ROWS[name]) for name in _TABLES}


def _check(homes: Mapping[str, Mapping[str, object]]) -> tuple[dict[str, int], int]:
    """Check that no batch is there twice and no row is lost; return batches by home, and orphans."""
    ids: dict[str, str] = {}
    orphans = 0
    for name, values in homes.items():
        with Lake.open(load_settings(overrides=dict(values), environ={})) as lake:
            ids[lake.home] = name
            counted = lake.query("SELECT batch_id, count(*) AS n FROM batches GROUP BY ALL HAVING n > 1")
            assert counted.num_rows == 0, counted.to_pylist()
            by_home = lake.query("SELECT home, count(DISTINCT batch) AS n FROM bars GROUP BY ALL").to_pylist()
            found = verify(lake, now_ns=time.time_ns() + 30 * DAY_NS, mend=True, with_pins=False)
            assert {item.kind for item in found.findings} <= {"orphan"}, found.findings
            orphans += len(found.findings)  # the first home removes them
    return {ids[row["home"]]: int(row["n"]) for row in by_home}, orphans


@contextmanager
def _places(folder: Path, work: Work) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Serve a venue's past, Postgres and S3; yield the settings of the venue, and those of the shared lake."""
    hours = work.days * 24
    held = {(coin, "1h"): candles(hours + 1, width="1h") for coin in work.names}
    paid = [
        SimulatedFunding(coin, (NOW_NS // _HOUR_NS - back) * _HOUR_NS // MS_NS + 31, 1e-5 * (back % 9), 0.0)
        for back in range(hours, 0, -1)
        for coin in work.names
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres(folder) as catalog,
        s3(patch) as endpoint,
        served_aside(RecordedHistory(NOW_NS, held, paid)) as info_url,
    ):
        venue: dict[str, object] = {
            "record.info_url": info_url,
            "record.coins": work.names,
            "record.rest_weight_per_minute": 1_000_000,
        }
        data = {"lake.catalog": catalog, "lake.data": f"s3://{BUCKET}/lake", "lake.s3_endpoint": endpoint}
        yield venue, dict(data)
