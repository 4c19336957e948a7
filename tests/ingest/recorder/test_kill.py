"""Recorders killed by SIGKILL at random moments: no row lost, none twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numba
import pytest

from ingest.recorder.memory import keep_small, release_starters
from ingest.replay.replay import replay
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.forked import context
from tests.drills.homes import assert_bars_hold_trades
from tests.drills.kills import drill
from tests.ingest.pipeline.scripts import START_NS, Script


def test_killed_at_random_moments_nothing_older_than_100_ms_is_lost_and_nothing_is_twice(
    tmp_path: Path,
) -> None:
    report = drill(tmp_path, kills=1, seed=11, longest_s=1.0, activity=30.0)
    assert report.worst_excess_ms <= 100.0
    assert report.duplicates == 0
    assert report.sent > 100
    assert report.rows["trades"] > 100


@pytest.mark.drill
@pytest.mark.timeout(5_400)
def test_200_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = drill(tmp_path, kills=200, seed=5, longest_s=3.0, activity=30.0)
    with capsys.disabled():
        print(f"\nkill -9: {report.text()}")
    assert report.worst_excess_ms <= 100.0
    assert report.duplicates == 0


def test_prints_resent_after_a_restart_are_in_the_bar_that_closed_meanwhile(settings: Settings) -> None:
    """The recorder is down from 56 s to 64 s: the minute that ended at 60 s has not been published yet."""
    first = Script().open(0.0).alive(0.5, 56.0).print(55.0, event_s=54.5)
    second = Script().open(64.0).alive(64.2, 130.0)
    resent = [second.a_print(event_s, tid=100 + n) for n, event_s in enumerate((54.0, 58.0, 59.0, 61.0))]
    second.prints(64.1, resent)
    second.records[0] = dataclasses.replace(second.records[0], recv_ns=START_NS + 63 * NS)
    with Lake.open(settings) as lake:
        for name, script in (("first", first), ("second", second)):
            replay(script.write(settings.journal_dir / name), settings, lake)
    assert assert_bars_hold_trades(settings) == 2


def test_a_forked_process_compiles_on_after_it_has_let_its_compiler_go() -> None:
    """Pages that a parent has written count as shared in its child; released, they would lose what was written."""
    child = context().Process(target=_compile_after_release)
    child.start()
    child.join(60.0)
    assert child.exitcode == 0


def _compile_after_release() -> None:
    keep_small()
    release_starters()
    assert numba.njit(lambda number: number + 1)(1) == 2
