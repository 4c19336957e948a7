"""Trials of whole nights: committed once, also by a night that fails, and counted whatever the recipe's name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from storage.clock import NS, ManualTime
from storage.errors import FitError, GateError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, SMALL_RECIPE, fill_lake, settings_in, walk
from training.night import promotion
from training.night.artifacts import NightArtifacts
from training.night.pending_trials import PendingTrials
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold
from training.night.trial_ledger import EvaluatedMember, count_on_tests, describe_counts, trial_rows
from training.night.trial_list import list_trials, record_trial
from training.recipe import RECIPES

HOUR_NS: Final = 60 * MINUTE_NS
ELSE: Final = "hyperliquid|perp|ELSE"
OWN: Final = """
    SELECT run, recipe, model, seed, [tested_since_ns, tested_until_ns] AS tests, net, who FROM trials
    WHERE source = 'night' ORDER BY model
"""


@dataclass(frozen=True)
class Home:
    """A home with a night that is trained and not judged."""

    settings: Settings
    night: str

    @property
    def folder(self) -> NightArtifacts:
        return NightArtifacts.find(self.settings, self.night)

    @property
    def tests(self) -> tuple[int, int]:
        since_ns, until_ns = self.folder.read("folds.json")["folds"][0]["test"]
        return since_ns, until_ns

    def judge(self, *, second: int = 0) -> dict[str, Any]:
        """Judge the night, and return its summary."""
        judge_night(self.settings, self.night, clock=ManualTime((1_800_000_000 + second) * NS))
        found: dict[str, Any] = self.folder.read("summary.json")
        return found

    def add(self, model: str, instruments: tuple[str, ...], *, hours_later: int = 0) -> None:
        """Add a trial of another recipe, of a judged file."""
        since_ns, until_ns = (at + hours_later * HOUR_NS for at in self.tests)
        member = EvaluatedMember(f"trial of {model}", model, 0, instruments, since_ns, until_ns)
        rows = trial_rows([member], source="judge", run="a file", recipe=RECIPES["candles"], now_ns=7)
        with Lake.open(self.settings) as lake:
            lake.commit(rows, batch_id=model)

    def query(self, sql: str) -> list[dict[str, Any]]:
        with Lake.open(self.settings, read_only=True) as lake:
            return lake.query(sql).to_pylist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    settings = settings_in(Path(tmp_path_factory.mktemp("trials")))
    fill_lake(settings, walk(instruments=2, steps=600, seed=3, signal=0.8, volatility=5e-3))
    recipe = settings.home / "small.toml"
    recipe.write_text(SMALL_RECIPE.format(name="small", rows="served"), encoding="utf-8")
    night = open_night(settings, recipe=str(recipe))
    build_panel(settings, night)
    for fold in plan_folds(settings, night):
        train_fold(settings, night, fold)
    return Home(settings, night)


@pytest.fixture
def home(trained: Home, tmp_path: Path) -> Home:
    shutil.copytree(trained.settings.home, tmp_path / "home")
    return replace(trained, settings=replace(trained.settings, home=tmp_path / "home"))


def test_members_count_once_even_if_their_night_fails_beside_those_of_other_recipes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise FitError("the refit diverged")

    home.add("of the same days", ("hyperliquid|perp|C0", ELSE))
    home.add("of other instruments", (ELSE,))
    home.add("of later days", ("hyperliquid|perp|C0",), hours_later=2)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_refit", diverge)
        for _ in range(2):
            with pytest.raises(FitError):
                home.judge()
    assert home.query("SELECT count(*) AS n FROM versions") == [{"n": 0}]
    failed = home.query(OWN)

    summary = home.judge(second=9)
    assert home.query(OWN) == failed
    nets = [summary["models"][name]["traded"]["net"] for name in ("mlp", "ridge")]
    common = {"run": home.night, "recipe": "small", "seed": 0, "tests": [*home.tests], "who": ""}
    assert failed == [
        common | {"model": name, "net": net} for name, net in zip(("mlp", "ridge"), nets, strict=True)
    ]
    assert summary["trials"] == {"by_source": {"night": 2, "judge": 1}, "may_serve": 3}

    # Judged again after a later trial, it decides as before; a reader sees the later one.
    late = ManualTime((1_800_000_000 + 12) * NS)
    assert record_trial(home.settings, home.night, model="mine", who="me@here", clock=late)
    (home.folder.path / "verdict.json").unlink()
    assert home.judge(second=20) == summary
    with Lake.open(home.settings, read_only=True) as lake:
        assert describe_counts(count_on_tests(lake, home.folder)) == (
            "This home has evaluated 4 members on these test days: 2 in nights, 1 from files of predictions, "
            "1 in notebooks."
        )


def test_trials_are_listed_by_source_recipe_days_and_instruments(home: Home) -> None:
    home.add("early", ("hyperliquid|perp|C0", ELSE))
    home.add("late", (ELSE,), hours_later=2)
    assert record_trial(home.settings, home.night, model="mine", who="me@here")
    since_ns, until_ns = home.tests

    with Lake.open(home.settings, read_only=True) as lake:

        def listed(**filters: Any) -> list[str]:
            return [row["model"] for row in list_trials(lake, **filters)]

        assert listed() == ["early", "late", "mine"]
        assert listed(source="notebook") == listed(recipe="small") == ["mine"]
        assert listed(recipe="candles", instruments=["hyperliquid|perp|C0"]) == ["early"]
        assert listed(until_ns=since_ns) == []
        assert listed(until_ns=since_ns + 1) == listed(until_ns=until_ns) == ["early", "mine"]
        assert listed(since_ns=until_ns) == ["late"]


def test_a_notebook_counts_a_name_once_for_the_tests_that_it_reads(home: Home) -> None:
    def record(model: str = "mine", **more: Any) -> bool:
        return record_trial(home.settings, home.night, model=model, who="me@here", **more)

    assert record(net=0.01, sharpe=0.2)
    assert not record(net=0.5)
    assert not record(folds=[0])
    assert record(seed=1)
    assert record("other")
    with pytest.raises(GateError, match=r"has no folds \[3\].*its folds: \[0\]"):
        record(folds=[3])
    with pytest.raises(GateError, match="needs the name of a model"):
        record(" ")
    assert home.query("SELECT net, sharpe, who, seed FROM trials WHERE model = 'mine' ORDER BY seed") == [
        {"net": 0.01, "sharpe": 0.2, "who": "me@here", "seed": 0},
        {"net": None, "sharpe": None, "who": "me@here", "seed": 1},
    ]


def interrupt(lake: Lake, error: BaseException, rows: dict[str, Any]) -> None:
    with PendingTrials(lake, "night") as trials:
        trials.rows = rows
        raise error


def test_what_was_interrupted_or_not_evaluated_commits_nothing(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        with pytest.raises(KeyboardInterrupt):
            interrupt(lake, KeyboardInterrupt(), {"trials": None})
        with pytest.raises(FitError):
            interrupt(lake, FitError("before any evaluation"), {})
        assert lake.query("SELECT count(*) AS n FROM batches").to_pylist() == [{"n": 0}]
