"""Whole judgements of predictions that were made elsewhere, on a lake with a planted drift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from features.leakage.perturbation import ProofResult
from features.panel.panel import Panel
from features.sets import get_set
from features.versioning.fingerprint import fingerprint
from storage.clock import NS, ManualTime
from storage.errors import GateError, InstrumentError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.builders import GRACE_NS, MINUTE_NS, START_NS, fill_lake, settings_in, walk
from training.evaluation.gate import GateDecision
from training.models.device import derive_seed
from training.night.artifacts import NightArtifacts
from training.night.decision import NightDecision
from training.night.lineage_evidence import Lineage
from training.night.market_data import make_market
from training.night.outside_judgement import (
    PREDICTIONS,
    judge_predictions,
    match_predictions,
    without_service,
)
from training.night.outside_predictions import NO_FOLD, OutsidePredictions, match_folds
from training.night.preparation import read_fold
from training.night.registry import read_versions
from training.night.scoring import backtest, evaluation_window, score_folds, to_dense
from training.night.steps import build_panel, open_night, train_fold

STEPS: Final = 29 * 60
RECIPE: Final = """
base = "demo"
name = "hourly"
feature_set = "candles"
window_bars = 4
controls = ["zero", "ridge"]
challengers = ["mlp"]
[folds]
n_folds = 2
unit = "hour"
test_units = 11
valid_units = 2
train_units = 3
embargo_bars = 6
"""
CLOCK: Final = ManualTime(1_800_000_000 * NS)
LOG_PRICE: Final = walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3)


def file_of(name: str, value: np.ndarray, **changes: Any) -> OutsidePredictions:
    """Return a file with (S, T) values for every bar from the first on; NaN is no opinion."""
    instruments, steps = value.shape
    rows: dict[str, Any] = {
        "instruments": tuple(f"C{number}" for number in range(instruments)),
        "instrument": np.repeat(np.arange(instruments, dtype=np.int32), steps),
        "ts_ns": np.tile(START_NS + MINUTE_NS * np.arange(steps, dtype=np.int64), instruments),
        "fold": np.full(value.size, NO_FOLD, dtype=np.int32),
        "value": value.flatten(),
        "is_open": True,
        "is_return": False,
    }
    return OutsidePredictions(name=name, **rows | changes).sorted()


def smoothed() -> np.ndarray:
    """Return an honest forecast of a model of somebody else: the smoothed past returns of each instrument."""
    returns = np.diff(LOG_PRICE, axis=1, prepend=LOG_PRICE[:, :1]) / 5e-3
    found = np.zeros_like(returns)
    for step in range(1, STEPS):
        found[:, step] = 0.8 * found[:, step - 1] + 0.2 * returns[:, step]
    return found


@dataclass(frozen=True)
class Judgement:
    settings: Settings
    night: str
    verdict: dict[str, Any]

    @property
    def folder(self) -> NightArtifacts:
        return NightArtifacts.find(self.settings, self.night)

    def query(self, sql: str) -> list[dict[str, Any]]:
        with Lake.open(self.settings, read_only=True) as lake:
            return lake.query(sql).to_pylist()

    def counts(self) -> dict[str, int]:
        return {
            table: self.query(f"SELECT count(*) AS n FROM {table}")[0]["n"]
            for table in ("lineages", "gate_days", "trials", "versions")
        }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_in(Path(tmp_path_factory.mktemp("judged")))
    fill_lake(settings, LOG_PRICE)
    (settings.home / "hourly.toml").write_text(RECIPE, encoding="utf-8")
    return settings


def judge(home: Settings, outside: OutsidePredictions) -> Judgement:
    night = open_night(home, recipe=str(home.home / "hourly.toml"), outside=outside)
    build_panel(home, night)
    for fold in match_predictions(home, night):
        train_fold(home, night, fold)
    return Judgement(home, night, judge_predictions(home, night, clock=CLOCK))


@pytest.fixture(scope="module")
def honest(home: Settings) -> Judgement:
    """A judgement; the proof of the features, half of its work, is the subject of other tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.night.preparation.prove", proof_of)
        return judge(home, file_of("smooth", smoothed()))


def proof_of(panel: Panel, feature_set: str, *, seed: int) -> ProofResult:
    code = fingerprint(get_set(feature_set))
    return ProofResult(feature_set, code, seed, panel.n_instruments, panel.n_steps, {}, 0, ())


def test_an_honest_edge_passes_on_paper_and_leaves_evidence_and_a_trial(honest: Judgement) -> None:
    assert honest.night.startswith("judge-smooth-")
    assert honest.verdict["state"] == "paper"
    assert (honest.verdict["promoted"], honest.verdict["version"]) == (False, None)
    assert all(rule["passed"] for rule in honest.verdict["rules"] if rule["name"].startswith("leak"))
    assert honest.verdict["lineage"]["definition"]["predictions"] == "smooth"
    lineages = honest.query("SELECT lineage, k, recipe, night FROM lineages WHERE k = 1")
    assert lineages == [
        {
            "lineage": honest.verdict["lineage"]["name"],
            "k": 1,
            "recipe": "hourly",
            "night": honest.night,
        }
    ]
    days = honest.query(
        f"SELECT net FROM gate_days WHERE lineage = '{lineages[0]['lineage']}' ORDER BY day_ns"
    )
    path = honest.folder.read("summary.json")["path"]
    assert [day["net"] for day in days] == path["periods"]["net"]
    assert len(days) >= 20
    trials = honest.query("SELECT source, model, lineage FROM trials WHERE run = '" + honest.night + "'")
    assert trials == [{"source": "judge", "model": "smooth", "lineage": lineages[0]["lineage"]}]
    assert not honest.folder.has("deploy")
    with Lake.open(honest.settings, read_only=True) as lake:
        assert read_versions(lake) == []


def test_only_controls_are_trained_beside_the_predictions(honest: Judgement) -> None:
    fold = honest.folder.read("folds.json")["folds"][0]["index"]
    assert set(honest.folder.read(f"timings/fits-{fold:02d}.json")) == {"zero", "ridge"}
    assert set(honest.folder.read("summary.json")["models"]) == {"zero", "ridge", "smooth"}


def test_a_file_judged_twice_adds_nothing(honest: Judgement) -> None:
    before, settings = honest.counts(), honest.settings
    recipe = str(settings.home / "hourly.toml")
    assert open_night(settings, recipe=recipe, outside=file_of("smooth", smoothed())) == honest.night
    assert judge_predictions(settings, honest.night) == honest.verdict
    # As after a crash before the verdict was written.
    (honest.folder.path / "verdict.json").unlink()
    assert judge_predictions(settings, honest.night) == honest.verdict
    assert honest.counts() == before


def test_predictions_of_a_control_are_scored_and_traded_as_the_control_itself(honest: Judgement) -> None:
    """Same rows, folds, costs and position rule: a file repeats what ridge predicted on each test."""
    folder, recipe = honest.folder, honest.folder.recipe
    folds = [read_fold(entry) for entry in folder.read("folds.json")["folds"]]
    ridge = [folder.read_predictions(folder.model_path(fold.index, "ridge")) for fold in folds]
    step = np.concatenate([part.step for part in ridge]).astype(np.int64)
    copy = OutsidePredictions(
        "copy",
        ("hyperliquid|perp|C0", "C1"),
        np.concatenate([part.instrument for part in ridge]),
        START_NS + MINUTE_NS * (step + 1) + GRACE_NS,
        np.repeat([fold.index for fold in folds], [len(part.step) for part in ridge]).astype(np.int32),
        np.concatenate([part.prediction for part in ridge]).astype(np.float64),
        is_open=False,
        is_return=False,
    ).sorted()
    data = folder.read_data()
    parts, counts = match_folds(copy, data, folds, recipe, grace_ns=GRACE_NS)
    assert counts["test"] == counts["test_rows"] == counts["rows"] > 1000
    market = make_market(data, recipe, folder.fees, grace_ns=GRACE_NS)
    window = evaluation_window(market, folds, data.labels.ts_decided_ns)
    dense = to_dense([part.test for part in parts], window, recipe)
    assert np.array_equal(dense, to_dense(ridge, window, recipe), equal_nan=True)
    ledger = backtest(dense, window, recipe)
    models = folder.read("summary.json")["models"]
    assert float(ledger.net.sum()) == models["ridge"]["traded"]["net"] != 0
    seed = derive_seed(folder.facts["seed"], "ridge", "all", 0)
    score = score_folds([part.test for part in parts], recipe, seed=seed)
    assert score.rank_ic.value == models["ridge"]["test"]["rank_ic"]["value"]


def test_an_unknown_instrument_is_refused_before_anything_is_built(home: Settings) -> None:
    typo = file_of("typo", np.zeros((1, 9)), instruments=("C9",))
    with pytest.raises(InstrumentError, match=r"'C9' .*the nearest is C"):
        open_night(home, recipe=str(home.home / "hourly.toml"), outside=typo)


def test_a_night_is_no_judgement(honest: Judgement) -> None:
    (honest.folder.path / "outside.safetensors").rename(honest.folder.path / "away")
    (honest.folder.path / PREDICTIONS).rename(honest.folder.path / "away.json")
    try:
        with pytest.raises(GateError, match="judge a file: tickwalk judge"):
            match_predictions(honest.settings, honest.night)
    finally:
        (honest.folder.path / "away").rename(honest.folder.path / "outside.safetensors")
        (honest.folder.path / "away.json").rename(honest.folder.path / PREDICTIONS)


def test_enough_evidence_serves_nothing() -> None:
    decided = without_service(
        NightDecision(
            GateDecision("mine", "champion", (), "evidence suffices"), Lineage("l", {}), (), None, {}
        )
    )
    assert (decided.gate.state, decided.gate.promoted) == ("paper", False)
    assert decided.gate.reason == "evidence suffices; predictions without weights serve nothing"
