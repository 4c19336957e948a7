"""Polling, waiting and missing bars of `tickwalk features follow`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.recorder.steady_clock import SteadyTime
from serving.feature_jobs.follow import FollowedBar, follow_bars
from serving.feature_jobs.selection import BarSelection
from storage.clock import NS, TimeSource
from storage.errors import LakeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import fresh
from tests.features.panels import random_panel, stored_rows

PANEL = random_panel(3, 80, seed=5)
STEPS = 70


def write(settings: Settings, stop: int) -> None:
    with Lake.open(settings) as lake:
        lake.commit({"bars": stored_rows(PANEL.steps(0, stop), lag_ms=2_000)}, batch_id=f"bars{stop}")


def bars_of(settings: Settings) -> BarSelection:
    return BarSelection(settings, "candles", "1m", None, None, None, None)


class Running:
    """Time that goes on by a second whenever it is asked; `on_s` is told of each, and ends what runs on for ever."""

    def __init__(self, on_s: Callable[[int], None] = lambda _: None) -> None:
        self.calls, self._on_s = 0, on_s
        self.stop = threading.Event()

    def now_ns(self) -> int:
        self.calls += 1
        self._on_s(self.calls)
        if self.calls > 200:
            self.stop.set()
        return int(PANEL.ts_close_ns[STEPS - 1]) + self.calls * NS

    def follow(
        self, settings: Settings, *, patience_s: float, clock: TimeSource | None = None
    ) -> list[FollowedBar]:
        """Return the bars that are told until one is behind those that were there at first, or nothing more comes."""
        found = []
        for told in follow_bars(
            bars_of(settings), patience_s=patience_s, stop=self.stop, time_source=clock or self
        ):
            found.append(told)
            if told.row.ts_open_ns >= PANEL.ts_open_ns[STEPS]:
                self.stop.set()
        return found


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time here is what `Running` says; nobody waits for it."""
    monkeypatch.setattr("serving.feature_jobs.follow._POLL_S", 0.0)
    monkeypatch.setattr("serving.feature_jobs.follow._IDLE_POLL_S", 0.0)


def test_rebuilt_lake_is_followed(settings: Settings, tmp_path: Path) -> None:
    """`tickwalk lake rebuild` puts another lake where the first was; who holds that open would see nothing more."""
    write(settings, STEPS)
    other = fresh(tmp_path / "other")
    write(other, STEPS + 1)

    def swap(calls: int) -> None:
        if calls == 20:
            settings.lake_dir.rename(tmp_path / "before")
            other.lake_dir.rename(settings.lake_dir)

    [*_, newest] = Running(swap).follow(settings, patience_s=60.0)
    assert newest.row.ts_open_ns == PANEL.ts_open_ns[STEPS]
    names = newest.names
    assert newest.row.mask[:, names.index("log_return_1")].any(), "it was seen, not waited out"


@pytest.mark.drill
def test_unreadable_lake_is_retried_until_the_bar_is_overdue(settings: Settings, tmp_path: Path) -> None:
    write(settings, STEPS)
    away = tmp_path / "away"
    gone: list[int] = []

    def go(calls: int) -> None:
        if calls in (20, 40):
            (settings.lake_dir if calls == 20 else away).rename(away if calls == 20 else settings.lake_dir)
            gone.append(calls)

    assert Running(go).follow(settings, patience_s=100.0)
    assert gone == [20, 40]

    def stay_away(calls: int) -> None:
        if calls == 20:
            settings.lake_dir.rename(away)

    with pytest.raises(LakeError, match="could not be read"):
        Running(stay_away).follow(settings, patience_s=60.0)


def test_clock_set_ahead_makes_no_bar_overdue(settings: Settings) -> None:
    write(settings, STEPS)
    time = Running()

    def wall_ns() -> int:
        ahead_s = 0 if time.calls < 10 else 3_600
        return int(PANEL.ts_close_ns[STEPS - 1]) + ahead_s * NS

    def run_ns() -> int:
        time.now_ns()
        return time.calls * NS // 10

    told = time.follow(settings, patience_s=30.0, clock=SteadyTime(wall_ns, run_ns))
    assert time.stop.is_set()
    assert told
    assert all(item.row.ts_open_ns < PANEL.ts_open_ns[STEPS] for item in told)


def test_home_without_a_lake_is_refused_with_the_next_step(settings: Settings) -> None:
    with pytest.raises(LakeError, match="there is no lake") as told:
        Running().follow(settings, patience_s=0.0)
    assert "tickwalk record" in told.value.hint


@pytest.mark.parametrize("patience_s", [-1.0, float("nan"), float("inf")])
def test_invalid_patience_is_refused(settings: Settings, patience_s: float) -> None:
    write(settings, STEPS)
    with pytest.raises(SettingsError, match="--patience is"):
        Running().follow(settings, patience_s=patience_s)


def test_zero_patience_emits_a_bar_at_the_end_of_its_grace(settings: Settings) -> None:
    write(settings, STEPS)
    [*_, newest] = Running().follow(settings, patience_s=0.0)
    assert newest.row.ts_open_ns == PANEL.ts_open_ns[STEPS]
    assert not newest.row.mask[:, newest.names.index("log_return_1")].any()
