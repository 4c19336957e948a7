"""Recordings during which the machine's clock is set by an hour."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.journal.reader import read_batches
from ingest.recorder.steady_clock import SteadyTime
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import (
    assert_bars_hold_trades,
    assert_equal,
    read_tables,
    recordings,
    replay_all,
    stored_prints,
)
from tests.drills.running import live_market, port_of, quick, running, whole

HOUR_NS = 3_600 * NS


class SetTime:
    """The machine's clock, which a test may set."""

    def __init__(self) -> None:
        self.set_by_ns = 0

    def now_ns(self) -> int:
        return time.time_ns() + self.set_by_ns


@pytest.mark.parametrize(
    "by_ns",
    [pytest.param(HOUR_NS, id="forward"), pytest.param(-HOUR_NS, id="back", marks=pytest.mark.drill)],
)
async def test_set_by_an_hour_receipts_go_on_and_the_clock_counts_as_off(
    settings: Settings, tmp_path: Path, by_ns: int
) -> None:
    wall = SetTime()
    async with SimulatedVenue(live_market(activity=10.0), clock="real") as venue:
        settings = quick(settings, port_of(venue), record={"clock_check_s": 0.3})
        began_ns = time.monotonic_ns()
        async with running(settings, wall=wall) as run:
            await run.until(lambda vitals: vitals.clock_verdict == "ok" and whole(vitals, 1))
            set_ns, wall.set_by_ns = time.time_ns(), by_ns
            await run.until(lambda vitals: vitals.clock_verdict == "off")
            bars = run.vitals.bars
            await run.until(lambda vitals: vitals.bars >= bars + 4)
        took_ns = time.monotonic_ns() - began_ns
        (folder,) = recordings(settings)
        received = np.concatenate([batch.recv_ns for batch in read_batches(folder)])
        assert np.all(np.diff(received) >= 0), "receipts never fall"
        # The recorder's clock runs at most a tenth fast.
        assert received[-1] - received[0] < 1.1 * took_ns, "nor do they leap"
        assert received[-1] > set_ns + NS
        assert len(stored_prints(settings)) == len(set(stored_prints(settings)))
        assert len(stored_prints(settings)) == sum(venue.stats.distinct.values())
    with Lake.open(settings, read_only=True) as lake:
        steps = lake.query("SELECT offset_ms FROM clocks WHERE source = 'monotonic'")["offset_ms"].to_pylist()
        grid = lake.query(
            """SELECT count(*) AS bars, date_diff('second', min(ts_open), max(ts_open)) + 1 AS seconds
               FROM bars_latest GROUP BY instrument"""
        ).to_pylist()
    # The machine may keep the recorder waiting between its looks at the two clocks.
    assert steps == [pytest.approx(by_ns / 1e6, rel=1e-3)]
    assert all(row["bars"] == row["seconds"] for row in grid), "one bar a second, over the step too"
    assert assert_bars_hold_trades(settings) > 0
    assert_equal(read_tables(settings), read_tables(replay_all(settings, tmp_path / "replayed")))


@given(st.lists(st.tuples(st.integers(0, 5 * NS), st.integers(-2 * HOUR_NS, 2 * HOUR_NS)), min_size=1))
def test_time_never_falls_and_runs_at_most_a_tenth_off_however_the_wall_is_set(
    steps: list[tuple[int, int]],
) -> None:
    run_ns, set_by_ns = 0, 0
    steady = SteadyTime(lambda: 10**18 + run_ns + set_by_ns, lambda: run_ns)
    before_ns = steady.now_ns()
    for went_ns, by_ns in steps:
        run_ns += went_ns
        now_ns = steady.now_ns()
        assert went_ns * 0.89 - 1 <= now_ns - before_ns <= went_ns * 1.11 + 1
        before_ns, set_by_ns = now_ns, by_ns
        steady.steer()


@pytest.mark.parametrize(("by_s", "after_s"), [(1.0, 0.0), (-1.0, 0.0), (3_600.0, 3_600.0), (-10.0, -10.0)])
def test_a_small_correction_is_made_slowly_and_a_set_clock_is_not_followed(
    by_s: float, after_s: float
) -> None:
    run_ns = 0
    steady = SteadyTime(lambda: run_ns + (round(by_s * NS) if run_ns else 0), lambda: run_ns)
    for _ in range(30):
        run_ns += NS
        ahead_ns = steady.steer()
    assert ahead_ns / NS == pytest.approx(after_s, abs=0.1)
