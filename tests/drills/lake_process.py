"""Processes that write, read and maintain one lake and may be killed.

They are forked from a server that has imported everything. What was acknowledged is noted in a file by one write
after the commit has returned, which a `kill -9` cannot take back.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from storage.clock import DAY_NS
from storage.lake.bulk_load import load
from storage.lake.commit_result import CommitResult
from storage.lake.lake import Lake
from storage.lake.maintenance import compact, expire, remove_freed
from storage.lake.snapshots import kept_snapshots, rows_hash
from storage.logs import configure_logs
from storage.settings import Settings, load_settings
from tests.drills.forked import context
from tests.storage.rows import TRADES_A_BATCH, batch

Role = Literal["write", "load", "read", "tidy"]

COUNTS: Final = """
    SELECT (SELECT count(*) FROM trades) AS trades, (SELECT count(*) FROM bars) AS bars,
           (SELECT count(*) FROM funding) AS funding,
           (SELECT count(*) FROM batches WHERE NOT starts_with(batch_id, 'pinned:')) AS batches
"""


def start(
    role: Role, name: str, settings: Mapping[str, object], notes: Path, *, seconds: float, least: int = 0
) -> ForkServerProcess:
    """Start a process on a lake.

    Args:
        role: what it does, again and again.
        name: its own; a writer's or a loader's instrument.
        settings: those that differ from the defaults; `home` among them.
        notes: a folder; the process appends a line to the file `name` for everything that it has done.
        seconds: how long it goes on, and then until it has done `least` such things.
        least: so many.
    """
    environ = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    turn = Turn(name, dict(settings), notes, seconds, least)
    process = context().Process(target=_run, args=(role, turn, environ))
    process.start()
    return process


def noted(notes: Path, name: str) -> list[str]:
    """Return what a process has said it did."""
    path = notes / name
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def assert_whole(lake: Lake, told: Mapping[str, list[str]]) -> int:
    """Check that every acknowledged batch is there once and every other is whole or absent; return how many are.

    Args:
        lake: to look at.
        told: the numbers of the batches that were acknowledged, by writer.
    """
    held: Any = lake.query("SELECT batch_id FROM batches WHERE NOT starts_with(batch_id, 'pinned:')")
    held = held["batch_id"].to_pylist()
    assert len(held) == len(set(held)), "a batch is there twice"
    expected = {f"{name}-{number}" for name, numbers in told.items() for number in numbers}
    assert expected <= set(held), f"acknowledged, and lost: {sorted(expected - set(held))[:5]}"
    rows = lake.query(COUNTS).to_pylist()[0]
    assert rows == _of_batches(len(held)), "a batch is there in part, or rows are there twice"
    keys = lake.query("SELECT count(DISTINCT (instrument, tid)) AS keys FROM trades")["keys"][0].as_py()
    assert keys == rows["trades"]
    return len(held)


def _of_batches(batches: int) -> dict[str, int]:
    return {"trades": TRADES_A_BATCH * batches, "bars": batches, "funding": batches, "batches": batches}


@dataclass(slots=True)
class Turn:
    """What a process is told: see `start`."""

    name: str
    values: dict[str, object]
    notes: Path
    seconds: float
    least: int
    begun_s: float = 0.0
    handle: int = -1
    done: int = 0

    def begin(self) -> Settings:
        """Start the clock, and return the settings."""
        self.begun_s = time.monotonic()
        self.handle = os.open(self.notes / self.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return load_settings(overrides=self.values, environ={})

    def goes_on(self) -> bool:
        """Say whether there is more to do."""
        return self.done < self.least or time.monotonic() - self.begun_s < self.seconds

    def note(self, text: object) -> None:
        """Tell that something is done."""
        os.write(self.handle, f"{text}\n".encode())
        self.done += 1


def _run(role: Role, turn: Turn, environ: dict[str, str]) -> None:
    os.environ.update(environ)
    configure_logs(level="error")
    settings = turn.begin()
    with Lake.open(settings, read_only=role == "read") as lake:
        {"write": _write, "load": _load, "read": _read, "tidy": _tidy}[role](lake, turn)


def _write(lake: Lake, turn: Turn) -> None:
    _again_and_again(turn, lambda tables, batch_id: lake.commit(tables, batch_id=batch_id))


def _load(lake: Lake, turn: Turn) -> None:
    _again_and_again(
        turn,
        lambda tables, batch_id: load(
            lake, {name: [rows] for name, rows in tables.items()}, batch_id=batch_id
        ),
    )


def _again_and_again(turn: Turn, write: Callable[[dict[str, pa.Table], str], CommitResult]) -> None:
    first = len(noted(turn.notes, turn.name))
    for number in itertools.count(first):
        if not turn.goes_on():
            return
        # One that was committed and not acknowledged is asked for again, under the same id.
        write(batch(number, turn.name), f"{turn.name}-{number}")
        turn.note(number)


def _read(lake: Lake, turn: Turn) -> None:
    """Read all tables in one query, again and again: each time whole batches, and never fewer than before."""
    before = 0
    while turn.goes_on():
        rows = lake.query(COUNTS).to_pylist()[0]
        assert rows == _of_batches(rows["batches"]), f"half a batch: {rows}"
        assert rows["batches"] >= before, f"{before} batches were there, now {rows['batches']}"
        before = rows["batches"]
        turn.note(before)


def _tidy(lake: Lake, turn: Turn) -> None:
    """Merge and expire again and again; a snapshot that is held reads as before."""
    held = {at: rows_hash(lake, at) for at in kept_snapshots(lake)}
    while turn.goes_on():
        now_ns = time.time_ns()
        compact(lake, now_ns=now_ns)
        expire(lake, now_ns=now_ns + 2 * DAY_NS, dry_run=False)
        remove_freed(lake, now_ns=now_ns)
        assert {at: rows_hash(lake, at) for at in held} == held, "a held snapshot reads otherwise"
        turn.note(len(held))
