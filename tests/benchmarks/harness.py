"""Measurement harness: contenders in turn, medians, processor or wall time.

Contenders take turns, round by round, so that a busy minute hits all of them; what counts is the median. Work that
keeps a processor busy is measured in processor time over all threads; work that waits for a disk, by the wall.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Literal

Clock = Literal["cpu", "wall"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        bench: what was measured.
        value: ours.
        unit: of `value`; rates are better high, times better low.
        against: the contender.
        ratio: how many times as fast as the contender we are; below 1 we are slower.
    """

    bench: str
    value: float
    unit: str
    against: str
    ratio: float


Bench = Callable[[], Iterator[Figure]]

BENCHES: Final[dict[str, Bench]] = {}


def bench(function: Bench) -> Bench:
    """Register a benchmark under its module's name without `bench_`."""
    name = function.__module__.rpartition(".")[2].removeprefix("bench_")
    BENCHES[f"{name}.{function.__name__}"] = function
    return function


def sample(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock = "cpu", warm_ups: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round.

    Args:
        contenders: what to run, by name; each is called once a round, in this order.
        rounds: that are measured.
        clock: processor time of all threads, or the wall.
        warm_ups: rounds before, which compile and fill caches.
    """
    read = time.process_time if clock == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_ups + rounds):
        for name, run in contenders.items():
            gc.collect()
            began = read()
            run()
            if turn >= warm_ups:
                seconds[name].append(read() - began)
    return seconds


def peak_mb() -> float:
    """Return the most memory that was resident since this program began, in MB.

    `getrusage` would also tell what the process held that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024.0


def measure(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock = "cpu", warm_ups: int = 1
) -> dict[str, float]:
    """Return the median seconds of each contender; see `sample`."""
    taken = sample(contenders, rounds=rounds, clock=clock, warm_ups=warm_ups)
    return {name: median(seconds) for name, seconds in taken.items()}


def figures(name: str, taken: Mapping[str, float], *, ours: str, value: float, unit: str) -> Iterator[Figure]:
    """Yield one figure for each contender beside ours.

    Args:
        name: what was measured.
        taken: seconds by contender, as `measure` returns them.
        ours: which of them is ours.
        value, unit: what ours is told as.
    """
    for other, seconds in taken.items():
        if other != ours:
            yield Figure(name, round(value, 3), unit, other, round(seconds / taken[ours], 2))
