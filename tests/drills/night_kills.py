"""A night killed by SIGKILL at random moments: at an access to one of its files, or shortly after.

The moments cover the training loop, checkpoints, the store of fits, the refit and the commit of the registry, which is
DuckDB's own work between two accesses that Python sees.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from storage.clock import NS, ManualTime
from tests.paths import ROOT
from tests.training.builders import settings_in
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

_EVENTS: Final = frozenset({"open", "os.rename", "os.link", "os.mkdir", "os.remove"})
_LONGEST_DELAY_S: Final = 0.05


def run_night(home: Path, recipe: Path, *, kill_at: int | None = None, delay_s: float = 0.0) -> int:
    """Run a night in this process, and return the number of accesses to files of the home.

    Args:
        home: with a filled lake.
        recipe: TOML file.
        kill_at: number of the access at which this process is killed; `None`: never.
        delay_s: between that access and the kill.
    """
    seen = 0

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _EVENTS and str(args[0]).startswith(str(home)):
            seen += 1
            if seen == kill_at:
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

    sys.addaudithook(count)
    settings = settings_in(home)
    name = open_night(settings, recipe=str(recipe))
    build_panel(settings, name)
    for fold in plan_folds(settings, name):
        train_fold(settings, name, fold)
    judge_night(settings, name, clock=ManualTime(1_800_000_000 * NS))
    return seen


def night_in_process(
    home: Path, recipe: Path, *, kill_at: int | None = None, delay_s: float = 0.0
) -> int | None:
    """Run a night in a process of its own; return the accesses, or `None` if it was killed."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(home), str(recipe), str(kill_at or 0), str(delay_s)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return int(done.stdout.splitlines()[-1])


def moment(draw: random.Random, accesses: int) -> tuple[int, float]:
    """Draw the access at which a process is killed, and the delay after it."""
    return draw.randint(1, accesses), draw.choice([0.0, draw.uniform(0.0, _LONGEST_DELAY_S)])


if __name__ == "__main__":
    _home, _recipe, _kill_at, _delay_s = sys.argv[1:]
    print(
        run_night(Path(_home), Path(_recipe), kill_at=int(_kill_at) or None, delay_s=float(_delay_s)),
        flush=True,
    )
