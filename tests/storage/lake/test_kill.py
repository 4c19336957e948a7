"""Survival of `kill -9` in commits, loads and maintenance: acknowledged batches exist, leftovers are named."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from storage.clock import DAY_NS
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.snapshots import pin, rows_hash
from storage.settings import load_settings
from tests.drills.lake_process import Role, assert_whole, noted, start
from tests.storage.rows import batch

_LOOK_S = 0.01
_ROLES: Final[tuple[Role, ...]] = ("load", "tidy", "write")


def drill(folder: Path, *, kills: int, seed: int, longest_s: float) -> str:
    """Kill loading, maintaining and writing processes at random moments; check after each, and return a summary.

    Args:
        folder: an empty one.
        kills: number of kills.
        seed: of the random moments.
        longest_s: a process is killed from zero up to this long after it began to work.
    """
    values: Mapping[str, object] = {"home": folder / "home", "lake.keep_snapshots_days": 1.0}
    settings, notes, draw = load_settings(overrides=values, environ={}), folder / "notes", random.Random(seed)
    notes.mkdir()

    def acknowledged() -> dict[str, list[str]]:
        return {name: noted(notes, name) for name in ("write", "load")} | {"first": ["0"]}

    with Lake.open(settings) as lake:
        at = lake.commit(batch(0, "first"), batch_id="first-0").snapshot
        held = pin(lake, "first", now_ns=1, snapshot=at)
    orphans = 0
    for number in range(kills):
        role = _ROLES[number % len(_ROLES)]
        lock = settings.lake_dir / "commit.lock"
        begun_ns = time.time_ns()
        process = start(role, role, values, notes, seconds=3_600)
        while lock.stat().st_mtime_ns <= begun_ns:  # opened, so it is at work
            process.join(_LOOK_S)
            assert process.is_alive(), f"{role} ended with {process.exitcode} before it began"
        process.join(draw.uniform(0.0, longest_s))
        assert process.is_alive(), f"{role} ended with {process.exitcode} before it was killed"
        process.kill()
        process.join()
        with Lake.open(settings) as lake:
            # A batch that was not acknowledged is complete or absent; the writer commits it again.
            assert_whole(lake, acknowledged())
            later_ns = time.time_ns() + 30 * DAY_NS
            found = verify(lake, now_ns=later_ns, mend=True, with_pins=False)
            assert {item.kind for item in found.findings} <= {"orphan"}, found.findings
            assert len(found.removed) == len(found.findings)
            orphans += len(found.removed)
    with Lake.open(settings) as lake:
        batches = assert_whole(lake, acknowledged())
        assert verify(lake, now_ns=time.time_ns()).findings == ()
        assert rows_hash(lake, at) == held.content
    return f"{kills} kills, {batches} batches whole, {orphans} orphans named and removed"


def test_kills_in_loads_commits_and_maintenance_lose_nothing_acknowledged(tmp_path: Path) -> None:
    drill(tmp_path, kills=3, seed=3, longest_s=0.3)


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_100_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = drill(tmp_path, kills=int(os.environ.get("DRILL_KILLS", "100")), seed=7, longest_s=2.0)
    with capsys.disabled():
        print(f"\nkill -9 of the lake: {said}")
