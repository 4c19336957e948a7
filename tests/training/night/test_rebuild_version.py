"""A version packed, and its weights trained again from the pack alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from storage.clock import NS, ManualTime
from storage.errors import CheckpointError, GateError
from storage.settings import Settings
from tests.paths import ROOT
from tests.training.builders import SMALL_RECIPE, fill_lake, settings_in, walk
from tests.training.night.test_project import FILES
from training.night.artifacts import NightArtifacts
from training.night.rebuild import CHECKPOINT, pack_version, rebuild_version
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

NOISE = walk(instruments=2, steps=500, seed=5, volatility=5e-3)


def version_of(settings: Settings, model: str, *, rows: str = "served") -> str:
    """Run a night whose only model that may serve is this one, and return the version."""
    text = SMALL_RECIPE.format(name=model, rows=rows)
    if model != "ridge":
        text = text.replace('"ridge"', '"zero"').replace('"mlp"', f'"{model}"')
    if model == "linear":
        text = text.replace('"candles"', '"reversal"')
    path = settings.home / f"{model}.toml"
    path.write_text(text, encoding="utf-8")
    night = open_night(settings, recipe=str(path))
    build_panel(settings, night)
    for fold in plan_folds(settings, night):
        train_fold(settings, night, fold)
    version: str = judge_night(settings, night, clock=ManualTime(1_800_000_000 * NS))["version"]
    assert version.startswith(model)
    return version


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of a network that was trained on repaired bars, too."""
    home = tmp_path_factory.mktemp("home")
    settings = settings_in(home)
    fill_lake(settings, NOISE)
    return pack_version(settings, version_of(settings, "mlp", rows="available"), home / "pack")


def test_weights_are_made_again_to_the_bit_without_the_home(packed: Path, tmp_path: Path) -> None:
    found = rebuild_version(packed, tmp_path)
    assert found.model == "mlp"
    assert found.tensors > 2
    assert found.differing == {}
    assert list(tmp_path.iterdir()) == []


def copied(packed: Path, folder: Path) -> Path:
    for path in packed.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(packed)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def test_one_changed_bit_of_a_weight_is_named(packed: Path, tmp_path: Path) -> None:
    folder = copied(packed, tmp_path / "pack")
    manifest = json.loads((folder / CHECKPOINT / "manifest.json").read_bytes())
    file = folder / CHECKPOINT / manifest["files"]["weights"]["name"]
    weights = load_file(file)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    flat = weights[name].flatten()
    flat[0] = torch.nextafter(flat[0], torch.tensor(1e9))
    save_file(weights, file)
    with pytest.raises(CheckpointError, match="has hash"):
        rebuild_version(folder, tmp_path)
    manifest["files"]["weights"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / CHECKPOINT / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = rebuild_version(folder, tmp_path)
    assert list(found.differing) == [name]
    assert 0 < found.differing[name] < 1e-6


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training_code", "0" * 16, r"trained with training_code 0000.*check out the code"),
        ("torch_version", "1.0", r"trained with torch_version 1\.0.*install its requirements\.lock"),
        ("hardware", "Other GPU", r"trained with hardware Other GPU.*a machine like that one"),
    ],
)
def test_another_origin_is_refused(
    packed: Path, tmp_path: Path, field: str, value: str, message: str
) -> None:
    folder = copied(packed, tmp_path / "pack")
    manifest = json.loads((folder / CHECKPOINT / "manifest.json").read_bytes())
    manifest["stamp"][field] = value
    (folder / CHECKPOINT / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        rebuild_version(folder, tmp_path)


@pytest.mark.parametrize("file", ["night.json", "deploy.json", "panel.safetensors", "lessons.safetensors"])
def test_an_incomplete_pack_is_refused(packed: Path, tmp_path: Path, file: str) -> None:
    folder = copied(packed, tmp_path / "pack")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"the pack lacks {re.escape(file)}"):
        rebuild_version(folder, tmp_path)


def test_other_bars_are_refused(packed: Path, tmp_path: Path) -> None:
    folder = copied(packed, tmp_path / "pack")
    facts = json.loads((folder / "night.json").read_bytes())
    (folder / "night.json").write_text(json.dumps(facts | {"content_hash": "0" * 64}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"has rows with hash .* was trained on 000000000000"):
        rebuild_version(folder, tmp_path)


def test_a_pack_needs_a_version_and_an_empty_folder(packed: Path, tmp_path: Path) -> None:
    settings = settings_in(packed.parent)
    with pytest.raises(GateError, match="no version is called 'nothing'"):
        pack_version(settings, "nothing", tmp_path / "new")
    with pytest.raises(GateError, match="is not empty"):
        pack_version(settings, "nothing", packed)


@pytest.mark.drill
def test_five_versions_are_rebuilt_in_an_empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind, and one with features and a network of the user's; each in a process that finds no home."""
    desk = tmp_path / "desk"
    for name, text in FILES.items():
        path = desk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(desk)
    settings = settings_in(tmp_path / "home")
    fill_lake(settings, NOISE)
    for model in ("ridge", "lightgbm", "mlp", "lstm", "linear"):
        pack = pack_version(settings, version_of(settings, model), tmp_path / "packs" / model)
        empty = tmp_path / "roots" / model
        empty.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-m", "serving.cli", "models", "rebuild", str(pack)],
            cwd=empty,
            env={"HOME": str(empty), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the same weights, to the bit" in done.stdout
        assert (empty / "tickwalk_project").exists() == (model == "linear")
    assert not any(NightArtifacts.ids(settings_in(path)) for path in (tmp_path / "roots").iterdir())
