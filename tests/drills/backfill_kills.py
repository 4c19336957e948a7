"""Kills of a running backfill at random moments, and the state they leave.

A process fills in candles and funding over REST and trades from an archive, and is killed at random moments until it
gets to its end. What it had acknowledged must be held after each kill, once; what a kill left behind must be named and
mended by `verify`; and in the end the rows are those of a run that nobody disturbed, in the tables and once more from
the journals alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingest.backfill.archive.object_keys import BLOCKS, HOUR_NS
from ingest.backfill.archive.sources import archive_source
from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.runner import BackfillResult, run_backfill
from ingest.backfill.source import BackfillRequest, BackfillStep
from ingest.journal.recording import SEALED
from ingest.replay.recovery import recover
from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.simulator.wire.encoder import SimulatedFunding
from storage.clock import DAY_NS, MS_NS, ManualTime
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.logs import configure_logs
from storage.settings import load_settings
from tests.drills.forked import context
from tests.ingest.backfill.archive.archives import HOUR, HOUR_MS, LATER, both, in_order, packed, pulse
from tests.ingest.backfill.histories import NOW_NS, candles, served_aside
from tests.ingest.recorder.faults.test_archive_fills import a_block
from tests.patience import HANG_S
from tests.storage.rows import UNSTAMPED
from tests.storage.servers import s3

COINS: Final = ("BTC", "ETH", "SOL")
# All that two runs must agree in; `source` and `ts_ingested_ns` name the run.
ROWS: Final = {
    "candles": "SELECT * EXCLUDE (source, ts_ingested_ns, batch) FROM candles ORDER BY ALL",
    "funding": "SELECT * EXCLUDE (source, ts_ingested_ns, batch) FROM funding ORDER BY ALL",
    "bars": f"SELECT {UNSTAMPED} FROM bars ORDER BY ALL",
    "trades": f"SELECT {UNSTAMPED} FROM trades ORDER BY ALL",
    "coverage": f"SELECT {UNSTAMPED} FROM coverage ORDER BY ALL",
}
_LOOK_S: Final = 0.005
# A step, or an opened lake, takes about so long.
_A_STEP_S: Final = 0.4
_STARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be filled in: of three coins so many minutes of candles and days of funding, and hours of trades."""

    minutes: int
    days: int
    hours: int

    @property
    def asked(self) -> BackfillRequest:
        """What is asked of the venue."""
        return BackfillRequest(NOW_NS - self.days * DAY_NS, NOW_NS, COINS)

    @property
    def fetched(self) -> BackfillRequest:
        """What is fetched from the archive."""
        return BackfillRequest(HOUR, HOUR + self.hours * HOUR_NS)


@dataclass(frozen=True, slots=True)
class Report:
    """What the kills cost.

    Args:
        kills: how many; `early` of them struck before the first step that was acknowledged in a life.
        homes: filled in from nothing to the end, by lives that were killed.
        steps: each home's.
        acknowledged: steps that lives acknowledged before they were killed; all of them were held.
        orphans: files that kills left and `verify` named and removed.
        rows: rows compared in each home, by table.
    """

    kills: int
    early: int
    homes: int
    steps: int
    acknowledged: int
    orphans: int
    rows: Mapping[str, int]

    def text(self) -> str:
        """Return the figures in a line."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        return (
            f"{self.kills} kills ({self.early} before the first step of a life) in {self.homes} homes of {self.steps} "
            f"steps; {self.acknowledged} steps acknowledged before a kill, all held; {self.orphans} orphans named and "
            f"removed; each home equal to an undisturbed one: {rows}"
        )


def drill(folder: Path, work: Work, *, kills: int, seed: int, most_steps: int = 4) -> Report:
    """Kill backfills at random moments; check the laws, and return the figures.

    Args:
        folder: an empty one; takes the homes.
        work: what each home is to hold in the end.
        kills: how often.
        seed: draws the moments.
        most_steps: a process is killed after it has acknowledged from none up to so many, somewhere in the next.
    """
    configure_logs(level="error")
    draw = random.Random(seed)
    early = acknowledged = orphans = killed = homes = 0
    with _places(work) as values:
        whole = _Life(folder / "whole", work, values)
        whole.end()
        expected = whole.rows()
        steps = len(whole.noted())
        while killed < kills:
            homes += 1
            home, is_ended = folder / f"home-{homes:03d}", False
            while not is_ended:
                life = _Life(home, work, values)
                before = len(life.noted())
                # Of so many kills one strikes in the start, where there is nothing to wait for.
                steps_more = 0 if killed % _STARTS == 0 else draw.randint(0, most_steps)
                is_ended = killed == kills or not life.kill(steps_more, draw.uniform(0.0, _A_STEP_S))
                if is_ended:
                    life.end()
                else:
                    killed += 1
                    early += len(life.noted()) == before
                    acknowledged += len(life.noted()) - before
                orphans += life.check()
            _compare(life.rows(), expected, home.name)
        asked = {name: expected[name] for name in ("candles", "funding")}
        asked["bars"] = expected["bars"].filter(pc.field("origin") == "candle")
        _compare(life.recovered(folder / "again"), asked, "the journals")
    counts = {name: table.num_rows for name, table in expected.items()}
    return Report(killed, early, homes, steps, acknowledged, orphans, counts)


def _compare(found: Mapping[str, pa.Table], expected: Mapping[str, pa.Table], where: str) -> None:
    for name, rows in expected.items():
        assert rows.num_rows > 0, name
        assert found[name].equals(rows), f"{name} of {where} differ"


class _Life:
    """A process that fills in a home, from where the one before it came to."""

    def __init__(self, home: Path, work: Work, values: Mapping[str, object]) -> None:
        self._values = {**values, "home": home}
        self._settings = load_settings(overrides=self._values, environ={})
        self._notes = home.with_suffix(".notes")
        begun = home.with_suffix(".begun")
        begun.unlink(missing_ok=True)
        environ = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        self._process: ForkServerProcess = context().Process(
            target=_run, args=(work, self._values, self._notes, begun, environ)
        )
        self._process.start()
        while not begun.exists():
            self._process.join(_LOOK_S)
            assert self._process.is_alive(), f"it ended with {self._process.exitcode} before it began"

    def kill(self, steps: int, seconds: float) -> bool:
        """Kill it some time after it has acknowledged some steps, and say whether it was still at work."""
        until = len(self.noted()) + steps
        while len(self.noted()) < until and self._process.is_alive():
            self._process.join(_LOOK_S)
        self._process.join(seconds)
        if not self._process.is_alive():
            return False
        self._process.kill()
        self._process.join()
        return True

    def end(self) -> None:
        """Let it come to its end."""
        self._process.join(HANG_S)
        assert self._process.exitcode == 0, f"it ended with {self._process.exitcode}"

    def noted(self) -> list[str]:
        """Return the steps that were acknowledged in this home."""
        return self._notes.read_text(encoding="utf-8").splitlines() if self._notes.exists() else []

    def check(self) -> int:
        """Check what is held; return how many orphans there were, which are removed."""
        with Lake.open(self._settings) as lake:
            held = lake.query("SELECT batch_id FROM batches")["batch_id"].to_pylist()
            assert len(held) == len(set(held)), "a step is there twice"
            assert set(self.noted()) <= set(held), f"lost: {set(self.noted()) - set(held)}"
            found = verify(lake, now_ns=time.time_ns() + 30 * DAY_NS, mend=True, with_pins=False)
            assert {item.kind for item in found.findings} <= {"orphan"}, found.findings
            assert len(found.removed) == len(found.findings)
            assert not found.removed or verify(lake, now_ns=time.time_ns(), with_pins=False).findings == ()
        return len(found.removed)

    def rows(self) -> dict[str, pa.Table]:
        """Return what must be equal."""
        with Lake.open(self._settings, read_only=True) as lake:
            return {name: lake.query(sql) for name, sql in ROWS.items()}

    def recovered(self, home: Path) -> dict[str, pa.Table]:
        """Return what the home's recordings alone give in another one, as the next start of a recorder takes them."""
        settings = dataclasses.replace(self._settings, home=home)
        shutil.copytree(
            self._settings.journal_dir, settings.journal_dir, ignore=shutil.ignore_patterns(SEALED)
        )
        with Lake.open(settings) as lake:
            assert recover(settings, lake)
            return {name: lake.query(sql) for name, sql in ROWS.items()}


@contextmanager
def _places(work: Work) -> Iterator[dict[str, object]]:
    """Serve a venue's past and an archive over sockets; yield the settings that lead to them."""
    held = {(coin, "1m"): candles(work.minutes, flat=(150, 151), absent=(200,)) for coin in COINS}
    now_h = NOW_NS // HOUR_NS
    paid = [
        SimulatedFunding(coin, (now_h - back) * HOUR_NS // MS_NS + 31, 1e-5 * (back % 9), 0.0)
        for back in range(work.days * 24, 0, -1)
        for coin in COINS
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        s3(patch, "archive"),
        served_aside(RecordedHistory(NOW_NS, held, paid, answered=200)) as info_url,
    ):
        client = boto3.client("s3")
        for number in range(-1, work.hours + 1):
            at_ms = HOUR_MS + number * HOUR_NS // MS_NS
            blocks = [a_block(*both(1_000 * (number + 1) + n, at_ms + n * 7_000)) for n in range(1, 400)]
            body = packed(in_order([*blocks, *pulse(at_ms, at_ms + HOUR_NS // MS_NS)]))
            client.put_object(Bucket="archive", Key=BLOCKS.key(HOUR + number * HOUR_NS), Body=body)
        yield {
            "record.info_url": info_url,
            "record.rest_weight_per_minute": 1_000_000,
            "archive.node_data": "s3://archive",
        }


def _run(
    work: Work, values: Mapping[str, object], notes: Path, begun: Path, environ: Mapping[str, str]
) -> None:
    os.environ.update(environ)
    configure_logs(level="error")
    begun.touch()
    asyncio.run(_fill_in(work, values, notes))


async def _fill_in(work: Work, values: Mapping[str, object], notes: Path) -> None:
    settings = load_settings(overrides=dict(values), environ={})
    handle = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(step: BackfillStep, done: BackfillResult) -> None:
        # One write after the commit has returned, which a kill cannot take back.
        assert not done.absent, done.absent
        os.write(handle, f"{step.key}\n".encode())

    with Lake.open(settings) as lake:
        for wanted in (RestRequest("candles"), RestRequest("funding")):
            await backfill_over_rest(
                wanted, work.asked, lake, settings, clock=ManualTime(NOW_NS), on_step=note
            )
        trades = archive_source("trades", lake, settings, ManualTime(LATER))
        await run_backfill([trades], work.fetched, lake, settings, on_step=note)
