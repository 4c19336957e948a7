"""Benchmark of the feature checks of a night: leakage proof, health, edition.

Twelve instruments, as many bars as a night proves, and a week and a half of minutes for the health. The limits are
what a night may spend on each; nobody else does these, so there is no peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from features.build import build_features
from features.leakage.perturbation import PROOF_STEPS, prove
from features.monitoring.health import check_health
from features.sets import get_set
from features.versioning.set_diff import edition_of
from tests.benchmarks.harness import Figure, bench, measure
from tests.features.panels import random_panel

SET: Final = "live"
INSTRUMENTS: Final = 12
HEALTH_STEPS: Final = 8_000
ROUNDS: Final = 3
LIMITS_S: Final = {"proof": 2.0, "health": 2.0, "edition": 2.0}


@bench
def checks_of_a_night() -> Iterator[Figure]:
    """Yield the processor time of each check beside its limit."""
    proven = random_panel(INSTRUMENTS, PROOF_STEPS + 500, seed=4)
    judged = random_panel(INSTRUMENTS, HEALTH_STEPS)
    block = build_features(judged, SET)
    split_ns = int(judged.ts_open_ns[3 * HEALTH_STEPS // 4])
    checks: dict[str, Callable[[], object]] = {
        "proof": lambda: prove(proven, SET, seed=0),
        "health": lambda: check_health(block, judged, split_ns=split_ns),
        "edition": lambda: edition_of(get_set(SET)),
    }
    for name, taken_s in measure(checks, rounds=ROUNDS).items():
        limit_s = LIMITS_S[name]
        yield Figure(
            f"{name} of a night, {SET}", round(taken_s, 3), "s of processor", f"{limit_s:g} s",
            round(limit_s / taken_s, 2),
        )  # fmt: skip
