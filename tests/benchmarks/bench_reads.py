"""Benchmark of reads after many commits and merges.

The read is always the same: one instrument's day of bars, 1,440 rows that lie there from the start. Around it a
recorder commits minute after minute, and files are merged after every hundred commits, as `tickwalk lake compact`
does. No snapshot expires, which is the worst case. With DRILL=1 also after 5,000 commits.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import torch

from storage.clock import US_NS
from storage.contracts.contract import TS
from storage.lake.bulk_load import load
from storage.lake.lake import Lake
from storage.lake.maintenance import compact
from storage.lake.snapshots import pin
from storage.settings import Settings, load_settings
from tests.benchmarks.bench_load import READ, tensor_of
from tests.benchmarks.harness import Figure, bench, measure
from tests.benchmarks.made_bars import FIRST_MIN, MIN_NS, instrument, made_bars

DAY: Final = 1_440
COINS: Final = 10
AFTER: Final = (100, 1_000, 5_000) if "DRILL" in os.environ else (100, 1_000)
MERGE_EVERY: Final = 100
ROUNDS: Final = 30
PIN: Final = "the first day"


@bench
def after_commits() -> Iterator[Figure]:
    """Yield the processor time of the read after so many commits, beside that after the fewest."""
    with tempfile.TemporaryDirectory() as folder:
        homes = make_homes(Path(folder), AFTER)
        first = min(homes)
        for what, taken in read_all(homes, ROUNDS).items():
            for commits in (number for number in homes if number != first):
                name = f"a symbol-day {what}, after {commits:,} commits"
                ratio = round(taken[first] / taken[commits], 2)
                yield Figure(name, round(1e3 * taken[commits], 2), "ms", f"after {first:,} commits", ratio)


def make_homes(folder: Path, after: Sequence[int]) -> dict[int, Settings]:
    """Return homes of one lake, copied after so many commits each, just merged; the first day is pinned in all."""
    tables = list(made_bars(COINS * (DAY + max(after)), minutes=DAY + max(after)))
    growing, homes = _settings(folder / "growing"), {}
    with Lake.open(growing) as lake:
        load(lake, {"bars": [table.slice(0, DAY) for table in tables]}, batch_id="the first day")
        pin(lake, PIN, now_ns=time.time_ns())
        for number in range(1, max(after) + 1):
            minute = pa.concat_tables([table.slice(DAY + number - 1, 1) for table in tables])
            assert lake.commit({"bars": minute}, batch_id=f"minute {number}").rows == {"bars": COINS}
            if number % MERGE_EVERY == 0 or number in after:
                compact(lake, now_ns=time.time_ns())
            if number in after:
                homes[number] = _settings(folder / f"after{number}")
                shutil.copytree(growing.home, homes[number].home)
    return homes


def read_all(homes: dict[int, Settings], rounds: int) -> dict[str, dict[int, float]]:
    """Return the median seconds of each way to read, by commits; all must read the same rows."""
    lakes = {commits: Lake.open(settings) for commits, settings in homes.items()}
    at = {n: lake.query("SELECT snapshot FROM pins_held")["snapshot"][0].as_py() for n, lake in lakes.items()}

    def opened(commits: int) -> torch.Tensor:
        with Lake.open(homes[commits], read_only=True) as lake:
            return read_day(lake, at[commits])

    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "at the newest snapshot": lambda commits: read_day(lakes[commits]),
        "at a pinned one": lambda commits: read_day(lakes[commits], at[commits]),
        "at a pinned one, the lake opened for it": opened,
    }
    expected = read_day(lakes[min(lakes)])
    assert expected.shape == (DAY, len(READ))
    taken = {}
    for what, way in ways.items():
        for commits in homes:
            assert torch.equal(way(commits).nan_to_num(-1.0), expected.nan_to_num(-1.0))
        found = measure({str(commits): partial(way, commits) for commits in homes}, rounds=rounds)
        taken[what] = {int(commits): seconds for commits, seconds in found.items()}
    for lake in lakes.values():
        lake.close()
    return taken


def read_day(lake: Lake, at: int | None = None) -> torch.Tensor:
    """Return (minutes, columns) the first day of one instrument."""
    name = instrument(COINS // 2)
    end = pa.scalar((FIRST_MIN + DAY) * MIN_NS // US_NS, TS).as_py()
    sql = f"SELECT {', '.join(READ)} FROM bars WHERE instrument = ? AND width = '1m' AND ts_open < ? ORDER BY ts_open"
    return tensor_of(lake.query(sql, [name, end], at=at))


def _settings(home: Path) -> Settings:
    return load_settings(overrides={"home": home}, environ={})
