"""Whole nights on a real lake: findings, refusals, restarts and the champion."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from storage.clock import ManualTime, iso
from storage.errors import (
    CheckpointError,
    FitError,
    GateError,
    LakeError,
    LeakError,
    RangeError,
    SettingsError,
)
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, START_NS, fill_lake, settings_in, walk
from training.data.folds import Fold, SplitRows, split_rows
from training.data.panel import Normaliser
from training.models.checkpoint import ONE_BY_ONE, load_checkpoint
from training.models.estimators import load_model
from training.models.trainer import EpochLog
from training.night.artifacts import NightArtifacts
from training.night.registry import VersionEvent, current_champion, promote_version, read_versions
from training.night.scoring import make_fold_context
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

STEPS = 1100
RECIPE = """
base = "demo"
name = "tiny"
feature_set = "candles"
window_bars = 4
stride = 2
seeds = 1
[folds]
n_folds = 2
unit = "hour"
test_units = 3
valid_units = 2
train_units = 3
embargo_bars = 6
[fit]
epochs = 5
batch = 128
checks = 2
learning_rate = 3e-3
"""
CLOCK = ManualTime(1_800_000_000 * 10**9)


@dataclass(frozen=True)
class Night:
    settings: Settings
    name: str
    verdict: dict[str, Any]

    @property
    def folder(self) -> NightArtifacts:
        return NightArtifacts.find(self.settings, self.name)


def recipe_in(folder: Path) -> str:
    path = folder / "tiny.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return str(path)


def home_with(home: Path, log_price: np.ndarray) -> Settings:
    settings = settings_in(home)
    fill_lake(settings, log_price)
    return settings


def run_night(settings: Settings, *, until: str | None = None, clock: ManualTime = CLOCK) -> Night:
    name = open_night(settings, recipe=recipe_in(settings.home), until=until)
    build_panel(settings, name)
    for fold in plan_folds(settings, name):
        train_fold(settings, name, fold)
    return Night(settings, name, judge_night(settings, name, clock=clock))


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a night except its timings."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "timings" not in path.parts
    }


# The first night uses all bars except the last ones, which are for the second night.
LONGER = walk(instruments=2, steps=STEPS + 150, seed=3, signal=0.8, volatility=5e-3)
LEARNABLE = LONGER[:, :STEPS]
UNTIL_NS = START_NS + STEPS * MINUTE_NS
UNTIL = iso(UNTIL_NS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return run_night(home_with(Path(tmp_path_factory.mktemp("trained")), LONGER), until=UNTIL)


def test_planted_signal_is_found_and_its_short_history_proves_nothing(trained: Night) -> None:
    models = trained.folder.read("summary.json")["models"]
    for name in ("ridge", "mlp", "lightgbm"):
        assert models[name]["test"]["r2"] > models["zero"]["test"]["r2"] == 0
        # The tests have fifteen blocks of time, too few for an interval.
        assert models[name]["test"]["ic"]["value"] > 0.1
        assert models[name]["test"]["ic"]["low"] is None
        assert models[name]["traded"]["net"] > 0
    assert all(rule["passed"] for rule in trained.verdict["rules"][:-1])
    # Its tests cover five complete hours, and a test of the history needs twenty.
    assert trained.verdict["state"] == "rejected"
    assert trained.verdict["reason"] == "too little evidence: 1 of 40 that it earns more than zero"
    assert [event.event for event in events_of(trained)] == ["registered", "rejected"]
    path = trained.folder.read("summary.json")["path"]
    assert path["by_fold"] == ["ridge", "ridge"]
    assert len(path["periods"]["net"]) == 5


def events_of(night: Night) -> list[VersionEvent]:
    with Lake.open(night.settings, read_only=True) as lake:
        return [event for event in read_versions(lake, recipe="tiny") if event.night == night.name]


def test_night_records_its_whole_origin(trained: Night) -> None:
    facts = trained.folder.facts
    assert facts["night"] == trained.name
    assert facts["instruments"] == ["hyperliquid|perp|C0", "hyperliquid|perp|C1"]
    assert all(
        facts[name]
        for name in (
            "snapshot",
            "content_hash",
            "feature_fingerprint",
            "training_code",
            "code",
            "lock",
            "device",
        )
    )
    with Lake.open(trained.settings, read_only=True) as lake:
        pins = lake.query("SELECT pin, snapshot, content FROM pins").to_pylist()
    assert {"pin": trained.name, "snapshot": facts["snapshot"], "content": facts["content_hash"]} in pins


def test_folds_have_no_leak_and_every_model_predicts_the_same_rows(trained: Night) -> None:
    plan = trained.folder.read("folds.json")
    assert plan["leaks"] == 0
    assert len(plan["folds"]) == 2
    assert "embargo" in plan["drawing"]
    for fold in plan["folds"]:
        assert min(fold["rows"].values()) > 0
        predictions = [
            trained.folder.read_predictions(trained.folder.model_path(fold["index"], model))
            for model in trained.folder.recipe.models
        ]
        assert all(len(found.step) == fold["rows"]["test"] for found in predictions)
        assert all(np.array_equal(found.step, predictions[0].step) for found in predictions)
        assert all(np.array_equal(found.label, predictions[0].label, equal_nan=True) for found in predictions)


def test_steps_run_again_change_nothing(trained: Night) -> None:
    before = tree(trained.folder.path)
    assert open_night(trained.settings, recipe=recipe_in(trained.settings.home), until=UNTIL) == trained.name
    build_panel(trained.settings, trained.name)
    for fold in plan_folds(trained.settings, trained.name):
        train_fold(trained.settings, trained.name, fold)
    assert judge_night(trained.settings, trained.name) == trained.verdict
    assert tree(trained.folder.path) == before
    assert len(events_of(trained)) == 2


def test_night_judged_again_after_a_crash_meets_the_same_champion(trained: Night) -> None:
    before = tree(trained.folder.path)
    (trained.folder.path / "verdict.json").unlink()
    (trained.folder.path / "summary.json").unlink()
    assert judge_night(trained.settings, trained.name, clock=CLOCK) == trained.verdict
    assert tree(trained.folder.path) == before
    assert len(events_of(trained)) == 2


def test_killed_night_in_another_home_ends_with_the_same_bits(trained: Night, tmp_path: Path) -> None:
    settings = home_with(tmp_path, LONGER)
    name = open_night(settings, recipe=recipe_in(tmp_path), until=UNTIL)
    assert name == trained.name
    build_panel(settings, name)

    def kill(model: str, fold: int, log: EpochLog) -> None:
        if (model, fold, log.epoch) == ("lstm", 1, 1.5):
            raise KeyboardInterrupt

    plan_folds(settings, name)
    train_fold(settings, name, 0, on_epoch=kill)
    with pytest.raises(KeyboardInterrupt):
        train_fold(settings, name, 1, on_epoch=kill)
    seen: list[tuple[str, float]] = []
    train_fold(settings, name, 1, on_epoch=lambda model, fold, log: seen.append((model, log.epoch)))
    assert seen[0] == ("lstm", 2.0)
    assert {model for model, _ in seen} == {"lstm"}
    judge_night(settings, name, clock=CLOCK)
    here, there = tree(tmp_path / "models" / "nights" / name), tree(trained.folder.path)
    assert sorted(here) == sorted(there)
    assert [path for path in here if here[path] != there[path]] == []


def test_weights_and_predictions_do_not_depend_on_later_bars(trained: Night, tmp_path: Path) -> None:
    first = trained.folder.read("folds.json")["folds"][0]
    stop = int((first["test"][1] - trained.folder.facts["since_ns"]) // (60 * 10**9))
    changed = LEARNABLE.copy()
    changed[:, stop:] = LEARNABLE[:, stop - 1 : stop] + np.cumsum(
        np.random.default_rng(9).standard_normal((2, STEPS - stop)) * 0.01, axis=1
    )
    settings = home_with(tmp_path, changed)
    name = open_night(settings, recipe=recipe_in(tmp_path))
    assert name != trained.name
    build_panel(settings, name)
    plan_folds(settings, name)
    train_fold(settings, name, 0)
    other = NightArtifacts.find(settings, name)
    assert other.read("folds.json")["folds"][0]["test"] == first["test"]
    for model in trained.folder.recipe.models:
        path = trained.folder.model_path(0, model)
        before, after = trained.folder.read_predictions(path), other.read_predictions(path)
        assert len(before.step) > 100
        assert np.array_equal(before.prediction, after.prediction), model
        weights = [
            safetensors.torch.load_file(next((folder.path / path).glob("weights-*.safetensors")))
            for folder in (trained.folder, other)
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), model


def test_next_night_compares_with_the_champion_on_unseen_steps(trained: Night) -> None:
    with Lake.open(trained.settings) as lake:
        serving = current_champion(lake, "tiny")
        if serving is None:
            promote_version(lake, trained.verdict["version"], reason="by hand", now_ns=CLOCK.now_ns() + 1)
    night = run_night(trained.settings, clock=ManualTime(CLOCK.now_ns() + 86_400 * 10**9))
    assert night.name != trained.name
    assert night.verdict["champion"] == trained.verdict["version"]
    # Its drift is measured against the training window of that champion; the first night had no champion.
    first, second = (item.folder.read("health.json") for item in (trained, night))
    assert (first["champion"], second["champion"]) == ("", trained.verdict["version"])
    assert (second["trained_since_ns"], second["trained_until_ns"]) == (START_NS, second["split_ns"])
    # The epochs of a stride train every row, so the last training label ends with the first night.
    assert trained.folder.read("deploy.json")["cutoff_ns"] == UNTIL_NS
    # Bar 1099 closes at the cut-off and is decided after it; the last test ends at 18:00 and the cut-off is 15:40.
    comparison = night.verdict["comparison"]
    assert comparison["version"] == trained.verdict["version"]
    assert comparison["unseen_steps"] == 2 * 60 + 20
    assert comparison["champion_net"] != 0
    # Both are of one lineage, so that the new fit renews the champion.
    assert (night.verdict["state"], len(night.verdict["evidence"])) == ("champion", 1)
    assert [event.event for event in events_of(night)] == ["registered", "champion"]
    # Each complete hour entered once: those of the first night as its history, the others in order.
    with Lake.open(trained.settings, read_only=True) as lake:
        days = lake.query("SELECT day_ns, source, night FROM gate_days ORDER BY day_ns").to_pylist()
    by_night = [[day for day in days if day["night"] == name] for name in (trained.name, night.name)]
    assert [{day["source"] for day in entered} for entered in by_night] == [{"history"}, {"path"}]
    assert [day["day_ns"] for day in days] == [
        days[0]["day_ns"] + 60 * MINUTE_NS * i for i in range(len(days))
    ]
    assert night.verdict["evidence"][0]["days"] == len(by_night[1]) > 0


def test_noise_is_refused_with_reasons(tmp_path: Path) -> None:
    noise = walk(instruments=2, steps=STEPS, seed=11, volatility=5e-3)
    night = run_night(home_with(tmp_path, noise))
    assert not night.verdict["promoted"]
    failed = {rule["name"] for rule in night.verdict["rules"] if not rule["passed"]}
    assert failed == {"earns more than zero"}
    assert night.verdict["reason"].startswith("too little evidence: ")
    assert [event.event for event in events_of(night)] == ["registered", "rejected"]
    with Lake.open(night.settings, read_only=True) as lake:
        assert current_champion(lake, "tiny") is None


OTHER = ("other features", "other code of its features", "no checkpoint", "no network")


@pytest.mark.parametrize("case", OTHER)
def test_champion_that_cannot_be_evaluated_counts_as_none_or_blocks_if_damaged(
    trained: Night, tmp_path: Path, case: str
) -> None:
    shutil.copytree(trained.settings.home, tmp_path, dirs_exist_ok=True)
    night = Night(settings_in(tmp_path), trained.name, trained.verdict)
    champion = night.folder.path / "deploy"
    manifest = json.loads((champion / "manifest.json").read_bytes())
    stamp = manifest["stamp"]
    if case == "other features":
        stamp["feature_names"] = [*stamp["feature_names"], "removed"]
    elif case == "other code of its features":
        stamp["feature_fingerprint"] = "0" * 64
    elif case == "no network":
        stamp["model"] = "gru"
    (champion / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if case == "no checkpoint":
        shutil.rmtree(champion)
    name = copy_of(night, "after", *BUILT, "folds.json", "leak_suite.json")
    for fold in (0, 1):
        shutil.copytree(
            night.folder.path / f"fold-{fold:02d}", night.folder.path.with_name(name) / f"fold-{fold:02d}"
        )
    with Lake.open(night.settings) as lake:
        version = trained.verdict["version"]
        if (serving := current_champion(lake, "tiny")) is None or serving.version != version:
            promote_version(lake, version, reason="by hand", now_ns=CLOCK.now_ns() + 2 * 86_400 * 10**9)
    clock = ManualTime(CLOCK.now_ns() + 3 * 86_400 * 10**9)
    verdict = judge_night(night.settings, name, clock=clock)
    assert verdict["champion"] == version
    obstacle = verdict["champion_obstacle"]
    assert case in obstacle
    assert str(tmp_path) not in obstacle
    rule = verdict["rules"][3]
    is_damaged = case == "no checkpoint"
    consequence = (
        "cannot be evaluated" if is_damaged else "counts as no champion, since it cannot be evaluated"
    )
    assert rule["reason"].startswith(f"{version} {consequence}: {obstacle}")
    assert (rule["name"], rule["passed"], rule["value"]) == ("champion's files", not is_damaged, None)
    # Its lineage serves, whatever has become of its files' format; only damage needs somebody.
    assert verdict["promoted"] == (not is_damaged)
    assert rule["reason"] in NightArtifacts.find(night.settings, name).read("summary.json")["notes"]


def copy_of(night: Night, name: str, *files: str, **facts: object) -> str:
    """Copy some files of a night to a night of another name, which has not yet done its other steps."""
    copied = NightArtifacts(night.folder.path.with_name(name))
    for file in files:
        copied.path.mkdir(exist_ok=True)
        shutil.copy(night.folder.path / file, copied.path / file)
    copied.write("night.json", night.folder.facts | {"night": name} | facts)
    return name


BUILT = ("panel.json", "panel.safetensors", "features.safetensors", "labels.safetensors", "proof.json")


def test_steps_out_of_order_are_refused(trained: Night) -> None:
    settings = trained.settings
    opened = copy_of(trained, "opened")
    with pytest.raises(GateError, match=r"has no panel.json yet .*build_panel"):
        plan_folds(settings, opened)
    with pytest.raises(GateError, match=r"has no folds.json yet .*plan_folds"):
        train_fold(settings, opened, 0)
    planned = copy_of(trained, "planned", *BUILT, "folds.json")
    with pytest.raises(GateError, match=r"has no fold 7 \(its folds: \[0, 1\]\)"):
        train_fold(settings, planned, 7)
    with pytest.raises(GateError, match=r"has no fold-00/zero/metrics.json yet"):
        judge_night(settings, planned)
    with pytest.raises(GateError, match="no night is called 'nothing'"):
        build_panel(settings, "nothing")


def test_rows_that_changed_under_the_pin_are_refused(trained: Night) -> None:
    name = copy_of(trained, "edited", content_hash="0" * 64)
    with pytest.raises(LakeError, match="was opened on rows with hash 000000000000, they now have"):
        build_panel(trained.settings, name)


def test_features_of_other_code_are_refused(trained: Night) -> None:
    name = copy_of(trained, "other-features", feature_fingerprint="0" * 64)
    with pytest.raises(CheckpointError, match="was opened with features 000000000000, their code is now"):
        build_panel(trained.settings, name)


def test_planted_leak_stops_the_night_on_every_run(trained: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, name = trained.settings, copy_of(trained, "leaking", *BUILT)

    def forget_to_purge(fold: Fold, decided_ns: np.ndarray, span_end_ns: np.ndarray) -> SplitRows:
        return split_rows(fold, decided_ns, decided_ns)

    with monkeypatch.context() as patched:
        patched.setattr("training.night.preparation.split_rows", forget_to_purge)
        with pytest.raises(LeakError, match=r"\d+ leaked rows in the folds of night .*; the count must be 0"):
            plan_folds(settings, name)
    with pytest.raises(LeakError, match="must be 0"):
        plan_folds(settings, name)
    leaks = [fold["leaks"] for fold in NightArtifacts.find(settings, name).read("folds.json")["folds"]]
    # Labels of five bars cross each boundary: those that open 6 to 2 minutes before it, which is a full hour. All of
    # them train in some epoch, and with a stride of two, two of them validate: phase 0 has two neighbours of each four.
    assert [leak["label"] for leak in leaks] == [2 * (5 + 2)] * 2


@pytest.mark.parametrize("field", ["training_code", "torch_version", "lock"])
def test_night_of_other_code_is_refused(trained: Night, field: str) -> None:
    name = copy_of(trained, f"other-{field}", *BUILT, "folds.json", **{field: "other"})
    with pytest.raises(CheckpointError, match=f"was opened with {field} other, and this is"):
        train_fold(trained.settings, name, 0)


def test_threads_are_part_of_the_identity_and_later_steps_use_those_of_the_night(
    trained: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and two threads give different weights, and had one id."""
    two = replace(trained.settings, training=replace(trained.settings.training, threads=2))
    other = open_night(two, recipe=recipe_in(two.home), until=UNTIL)
    assert other != trained.name
    assert NightArtifacts.find(two, other).facts["threads"] == 2
    used: list[int] = []

    def train(*_: object, **__: object) -> dict[str, float]:
        used.append(torch.get_num_threads())
        return {}

    monkeypatch.setattr("training.night.steps.train_models", train)
    train_fold(two, trained.name, 0)
    assert used == [1]
    stamp = json.loads((trained.folder.path / "deploy" / "manifest.json").read_bytes())["stamp"]
    facts = trained.folder.facts
    for name in ("device", "hardware", "threads", "rows"):
        assert stamp[name] == facts[name], name
    assert stamp["stacking"] == ONE_BY_ONE


def test_night_of_other_hardware_is_refused(trained: Night) -> None:
    name = copy_of(trained, "other-hardware", *BUILT, "folds.json", hardware="Other GPU")
    with pytest.raises(CheckpointError, match="was opened with hardware Other GPU, and this is"):
        train_fold(trained.settings, name, 0)


def test_missing_gpu_is_found_before_the_lake_is_read(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    settings = settings_in(tmp_path)
    settings = replace(settings, training=replace(settings.training, device="cuda"))
    with pytest.raises(SettingsError, match=r"training.device is 'cuda'"):
        open_night(settings, recipe="demo")
    assert list(tmp_path.iterdir()) == []


def test_fold_that_cannot_train_is_refused_before_training(trained: Night) -> None:
    files = tuple(file for file in BUILT if file != "labels.safetensors")
    name = copy_of(trained, "constant", *files, "folds.json")
    tensors = safetensors.torch.load_file(trained.folder.path / "labels.safetensors")
    tensors["label"] = torch.where(tensors["mask"], 0.5, 0.0)
    folder = NightArtifacts.find(trained.settings, name)
    safetensors.torch.save_file(tensors, folder.path / "labels.safetensors")
    with pytest.raises(FitError, match=r"fold 0 cannot train: all \d+ train labels are 0.5"):
        train_fold(trained.settings, name, 0)
    assert not folder.has("fold-00")


def test_refit_agrees_with_its_folds(trained: Night) -> None:
    assert 0.5 < trained.folder.read("deploy.json")["agreement"] <= 1


def test_weights_of_another_network_are_refused(trained: Night) -> None:
    data, recipe = trained.folder.read_data(), trained.folder.recipe
    saved = load_checkpoint(
        trained.folder.path / trained.folder.model_path(0, "mlp"), expect={"model": "mlp"}
    )
    wider = replace(recipe, window_bars=recipe.window_bars + 1)
    shared = make_fold_context(data, Normaliser.from_plain(saved.normaliser), wider, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="weights of mlp do not fit the network"):
        load_model(shared, saved)


def test_range_that_is_too_short_or_empty_is_refused(trained: Night) -> None:
    settings = trained.settings
    with pytest.raises(RangeError, match="no 1m bar"):
        open_night(settings, recipe=recipe_in(settings.home), since="2030-01-01")
    plain = trained.folder.recipe.to_plain()
    plain["folds"]["unit"] = "week"
    with pytest.raises(RangeError, match="are too few for one fold of 8 weeks"):
        plan_folds(settings, copy_of(trained, "short", *BUILT, recipe=plain))
