"""A replay knows only what was known, leaves its home as it was, continues where it stopped, and repeats to the bit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.clock import DAY_NS, HOUR_NS, NS, iso
from storage.contracts.tables import BARS, FEES, FUNDING
from storage.errors import GateError, HoldoutError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, START_NS
from tests.training.replay.small_replay import (
    FIRST_NIGHT,
    SCHEDULE,
    home_with,
    prices,
    recipe_of,
    replay_in,
)
from training.night import promotion
from training.night.artifacts import NightArtifacts
from training.night.holdouts import open_holdout, seal_holdout
from training.night.night_list import list_nights
from training.night.steps import open_night
from training.replay.folder import ReplayFolder
from training.replay.policy import FinishedReplay, plan_replay
from training.replay.schedule import Schedule, parse_every

FIRST_ONLY = replace(SCHEDULE, to_ns=FIRST_NIGHT + HOUR_NS)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but its timings."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "timings" not in path.parts
    }


def test_a_version_is_promoted_on_paper_and_renewed_by_the_next_night(replayed: FinishedReplay) -> None:
    first, second = replayed.nights
    assert (first.outcome, second.outcome) == ("promoted", "renewed")
    assert first.on_paper
    assert second.on_paper
    assert (first.serving_night, second.serving_night) == (first.night, second.night)
    assert first.evidence is not None
    assert first.evidence >= 40
    assert replayed.result["counts"]["nights"] == 2
    assert replayed.result["served_share"] == 1.0
    figures = replayed.result["figures"]
    assert figures["served"] == figures["newest refit"]
    assert figures["served"]["fills"] > 0


def test_a_replay_leaves_no_trace_in_its_home(replayed: FinishedReplay) -> None:
    home = replayed.folder.home
    assert NightArtifacts.ids(home) == []
    tables = ("versions", "lineages", "gate_days", "trials", "holdouts", "pins")
    with Lake.open(home, read_only=True) as lake:
        counts = {name: lake.query(f"SELECT * FROM {name}").num_rows for name in tables}
        assert list_nights(home, lake).num_rows == 0
    assert counts == dict.fromkeys(tables, 0)
    with Lake.open(replayed.folder.records, read_only=True) as lake:
        assert lake.query("SELECT * FROM versions WHERE event = 'champion'").num_rows == 2


def test_a_finished_night_keeps_its_evidence_and_its_weights_alone(replayed: FinishedReplay) -> None:
    night = replayed.folder.night(replayed.nights[0].night)
    assert night.has("verdict.json")
    assert night.has("deploy/manifest.json")
    assert not night.has("panel.safetensors")
    assert list(night.path.glob("fold-*")) == []


def test_a_finished_replay_runs_nothing_again(replayed: FinishedReplay) -> None:
    before = files_of(replayed.folder.path / "records" / "models")
    again = replay_in(replayed.folder.home)
    assert (again.replay, again.nights, again.result) == (replayed.replay, replayed.nights, replayed.result)
    assert files_of(replayed.folder.path / "records" / "models") == before


def test_a_night_that_was_killed_after_its_commit_is_finished_to_the_bit(replayed: FinishedReplay) -> None:
    """The registry has its events, and nothing else of it was written."""
    folder, last = replayed.folder, replayed.nights[-1]
    before = files_of(folder.path / "nights") | files_of(folder.night(last.night).path)
    (folder.path / "nights" / "00001.json").unlink()
    (folder.path / "nights" / "00001-newest.safetensors").unlink()
    shutil.rmtree(folder.night(last.night).path)
    (folder.path / "result.json").unlink()
    again = replay_in(folder.home)
    assert again.result == replayed.result
    assert files_of(folder.path / "nights") | files_of(folder.night(last.night).path) == before


def test_what_became_known_later_changes_no_bit_of_a_night_even_if_it_is_killed(
    replayed: FinishedReplay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later prices, revisions, funding, fees and listings are garbage; the night is interrupted as it is judged."""
    log_price = prices()
    known = (FIRST_NIGHT - START_NS) // MINUTE_NS
    log_price[:, known:] = np.random.default_rng(0).normal(9, 3, log_price[:, known:].shape)
    settings = home_with(tmp_path, log_price)
    # The home opens the same night, as long as it knows no more.
    until = iso(FIRST_NIGHT - MINUTE_NS)
    opened = open_night(settings, recipe=str(recipe_of(settings)), until=until)
    add_garbage(settings)
    shutil.copytree(replayed.folder.home.models_dir / "fits", settings.models_dir / "fits")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "make_summary", interrupted)
        with pytest.raises(KeyboardInterrupt):
            replay_in(settings, FIRST_ONLY)
    found = replay_in(settings, FIRST_ONLY)
    first = replayed.nights[0]
    assert found.nights == (first,)
    assert found.replay != replayed.replay
    assert first.night == opened
    # Six folds of two models, none of which was trained here.
    timing = found.folder.read("timings.json")["00000"]
    assert (timing["fits"], timing["reused"]) == (12, 12)
    night = found.folder.night(first.night).path
    assert files_of(night) == files_of(replayed.folder.night(first.night).path)


def add_garbage(settings: Settings) -> None:
    """Commit rows that became known after the first night, about times before and after it."""
    late_ns = FIRST_NIGHT + NS
    with Lake.open(settings) as lake:
        bar = lake.query("SELECT * FROM bars LIMIT 1").to_pylist()[0]
        names = set(BARS.schema.names)
        base = {name: value for name, value in bar.items() if name in names}

        def at(open_ns: int, instrument: str, revision: int, knowable_ns: int) -> dict[str, Any]:
            times = {"ts_open": open_ns // 1000, "ts_close": (open_ns + MINUTE_NS) // 1000}
            stamps = {"ts_knowable_ns": knowable_ns, "ts_available_ns": knowable_ns}
            prices_ = dict.fromkeys(("open", "high", "low", "close"), 7.0)
            return base | times | stamps | prices_ | {"instrument": instrument, "revision": revision}

        early_ns = FIRST_NIGHT - HOUR_NS
        bars = [at(early_ns + k * MINUTE_NS, "hyperliquid|perp|C0", 1, late_ns) for k in range(50)]
        bars += [at(early_ns + k * MINUTE_NS, "hyperliquid|perp|LATE", 0, late_ns) for k in range(50)]
        bars += [
            at(FIRST_NIGHT + k * MINUTE_NS, "hyperliquid|perp|NEW", 0, FIRST_NIGHT + (k + 1) * MINUTE_NS + NS)
            for k in range(30)
        ]
        paid = {"instrument": "hyperliquid|perp|C0", "funding_rate": 0.5, "interval_h": 1, "source": "late"}
        fee = {
            "venue": "hyperliquid",
            "kind": "perp",
            "dex": "",
            "tier": "base",
            "role": "taker",
            "bps": 99.0,
        }
        rows = {
            "bars": BARS.rows(bars),
            "funding": FUNDING.rows([paid | {"ts_event": early_ns // 1000, "ts_knowable_ns": late_ns}]),
            "fees": FEES.rows(
                [
                    fee
                    | {
                        "source": "late",
                        "ts_from": early_ns // 1000,
                        "ts_to": None,
                        "ts_knowable_ns": late_ns,
                    }
                ]
            ),
        }
        done = lake.commit(rows, batch_id="garbage", inputs={})
        assert (done.rows["bars"], done.refused) == (130, 0)


def test_the_plan_counts_nights_and_different_folds(replayed: FinishedReplay) -> None:
    home = replayed.folder.home
    plan = plan_replay(home, recipe=str(recipe_of(home)), schedule=SCHEDULE)
    assert (plan.replay, plan.nights, plan.finished) == (replayed.replay, 2, 2)
    # Both nights have the same six tests; two models each, and a refit a night.
    assert (plan.folds, plan.fits) == (6, 14)


def test_a_first_night_without_a_fold_names_the_first_possible_one(replayed: FinishedReplay) -> None:
    home = replayed.folder.home
    early = Schedule(START_NS + 6 * HOUR_NS, SCHEDULE.to_ns, HOUR_NS)
    with pytest.raises(RangeError, match="has no fold: ") as error:
        plan_replay(home, recipe=str(recipe_of(home)), schedule=early)
    named = error.value.hint.removeprefix("the first possible night is ").partition("Z")[0]
    first_ns = int(np.datetime64(named, "ns").astype(np.int64))
    plan_replay(home, recipe=str(recipe_of(home)), schedule=replace(early, from_ns=first_ns))
    with pytest.raises(RangeError, match="has no fold"):
        plan_replay(home, recipe=str(recipe_of(home)), schedule=replace(early, from_ns=first_ns - 1))


def test_a_range_that_goes_on_after_the_newest_bar_is_refused(replayed: FinishedReplay) -> None:
    home = replayed.folder.home
    newest = iso(SCHEDULE.to_ns // MINUTE_NS * MINUTE_NS)
    late = replace(SCHEDULE, to_ns=SCHEDULE.to_ns + 3 * HOUR_NS)
    with pytest.raises(RangeError, match=f"the newest 1m bar closes at {newest}") as error:
        plan_replay(home, recipe=str(recipe_of(home)), schedule=late)
    assert error.value.hint == f"set --to {newest[:16]}, or earlier"


def test_a_range_that_reaches_into_a_sealed_one_is_refused(tmp_path: Path) -> None:
    settings, facts = home_with(tmp_path, prices()), {"who": "me@here", "reason": "a test"}
    recipe = str(recipe_of(settings))
    with Lake.open(settings) as lake:
        seal = seal_holdout(lake, SCHEDULE.to_ns - HOUR_NS, SCHEDULE.to_ns + HOUR_NS, now_ns=7, **facts)
    with pytest.raises(HoldoutError, match="seal"):
        plan_replay(settings, recipe=recipe, schedule=SCHEDULE)
    before = replace(SCHEDULE, to_ns=seal.since_ns)
    assert plan_replay(settings, recipe=recipe, schedule=before).nights == 1
    with Lake.open(settings) as lake:
        open_holdout(lake, since_ns=seal.since_ns, now_ns=9, **facts)
    assert plan_replay(settings, recipe=recipe, schedule=SCHEDULE).nights == 2


def test_two_processes_do_not_work_on_one_replay(replayed: FinishedReplay) -> None:
    with replayed.folder.locked(), pytest.raises(GateError, match="another process works on replay"):
        replay_in(replayed.folder.home)


def test_an_unknown_replay_is_named(replayed: FinishedReplay) -> None:
    with pytest.raises(GateError, match="no replay is called 'nothing'"):
        ReplayFolder.find(replayed.folder.home, "nothing")


def test_nights_lie_on_the_schedule_and_the_last_serves_to_its_end() -> None:
    schedule = Schedule(0, 5 * DAY_NS // 2, DAY_NS)
    assert schedule.nights == (0, DAY_NS, 2 * DAY_NS)
    assert [schedule.until(at) for at in schedule.nights] == [DAY_NS, 2 * DAY_NS, 5 * DAY_NS // 2]
    with pytest.raises(RangeError, match="has no night"):
        Schedule(DAY_NS, DAY_NS, DAY_NS)


@pytest.mark.parametrize("text", ["1", "d", "0d", "-1d", "1m", "1.5d", "1 d"])
def test_a_time_between_nights_is_whole_hours_days_or_weeks(text: str) -> None:
    with pytest.raises(SettingsError, match="the time between nights is"):
        parse_every(text)
