"""Rebuild of a version: its weights trained again from a pack, and compared bit by bit.

A pack is a folder with everything that a version was made from but its code, which its checkpoint names (the user's
project is inside the checkpoint):

    checkpoint/             as the night deployed it
    night.json              facts of the night (training.night.steps)
    deploy.json             version, model and budget
    panel.safetensors       the pinned bars
    lessons.safetensors     the bars that taught, where those are others

The pack, a checkout of that code, and the packages of its lock are enough: no lake and no home is read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from features.build import build_features
from features.panel.panel import Panel, content_hash
from features.sets import get_set
from features.store.serialization import read_panel, write_panel
from features.versioning.fingerprint import fingerprint
from storage.errors import CheckpointError, GateError
from storage.lake.lake import Lake
from storage.lake.point_in_time import Basis
from storage.settings import Settings
from training.models.checkpoint import Checkpoint, CheckpointStamp, load_checkpoint
from training.models.device import compute_identity, prepare_device
from training.models.networks import network_code
from training.night.artifacts import NightArtifacts, NightData, code_facts
from training.night.pinned_inputs import read_pinned
from training.night.preparation import learn_rows
from training.night.project_restore import restore_project
from training.night.refit import refit
from training.night.registry import find_version, read_versions
from training.recipe import Recipe, recipe_from_plain

CHECKPOINT: Final = "checkpoint"
_PANEL: Final = "panel.safetensors"
_LESSONS: Final = "lessons.safetensors"
_FACTS: Final = ("night.json", "deploy.json")


@dataclass(frozen=True, slots=True)
class RebuiltVersion:
    """Result of a rebuild.

    Args:
        version: its id.
        model: name of the model.
        tensors: number of weight tensors.
        differing: names of those that differ in a bit, with the largest difference; empty: it is the same model.
    """

    version: str
    model: str
    tensors: int
    differing: Mapping[str, float]


def pack_version(settings: Settings, version: str, folder: Path) -> Path:
    """Write the pack of a version into an empty or new folder, and return the folder.

    Args:
        settings: the home, whose lake has the pinned rows.
        version: its id.
        folder: of the pack.

    Raises:
        GateError: no such version, or the folder has other content.
        LakeError: the pinned rows differ from those of the night.
        CheckpointError: the checkpoint is missing or damaged.
    """
    if folder.exists() and any(folder.iterdir()):
        raise GateError(f"{folder} is not empty", hint="name a new folder for the pack")
    with Lake.open(settings, read_only=True) as lake:
        event = find_version(read_versions(lake), version)[0]
        night = NightArtifacts.find(settings, event.night)
        source = settings.models_dir / event.artefact
        load_checkpoint(source, expect={})
        pinned = read_pinned(night, lake, features_dir=settings.features_dir)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, folder / CHECKPOINT)
    for name in _FACTS:
        shutil.copyfile(night.path / name, folder / name)
    write_panel(folder / _PANEL, pinned.panel)
    if pinned.lessons is not None:
        write_panel(folder / _LESSONS, pinned.lessons)
    return folder


def rebuild_version(pack: Path, root: Path) -> RebuiltVersion:
    """Train the weights of a pack again, and compare them with those of its checkpoint.

    Args:
        pack: the folder.
        root: directory, the current one or above it, that gets the user's project where the version uses one.

    Raises:
        CheckpointError: the pack is incomplete or damaged, or code, packages or hardware are not those that trained it.
        SettingsError: this machine lacks the device.
        FitError: the training diverged.
    """
    saved = load_checkpoint(pack / CHECKPOINT, expect={})
    facts, deployed = (_read(pack / name) for name in _FACTS)
    if saved.stamp.get("project"):
        restore_project(pack / CHECKPOINT, root)
    stamp = _stamp_of(saved)
    device = prepare_device(stamp.device, threads=stamp.threads)
    recipe = recipe_from_plain(stamp.recipe)
    _refuse_other_origin(stamp, recipe, device)
    data = _data_of(pack, facts, recipe)
    with tempfile.TemporaryDirectory(prefix="tickwalk-rebuild-") as made:
        folder = Path(made) / CHECKPOINT
        refit(data, recipe, stamp, device, budget=deployed["budget"], folder=folder)
        again = load_checkpoint(folder, expect={})
    return RebuiltVersion(deployed["version"], stamp.model, len(saved.weights), _compare(saved, again))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"the pack lacks {path.name}: {error.strerror}", hint=_AGAIN) from error
    except ValueError as error:
        raise CheckpointError(f"{path} of the pack is not JSON: {error}", hint=_AGAIN) from error


_AGAIN: Final = "pack the version again: tickwalk models pack VERSION FOLDER"


def _stamp_of(saved: Checkpoint) -> CheckpointStamp:
    try:
        stamp = CheckpointStamp(**saved.stamp)
    except TypeError as error:
        raise CheckpointError(
            "its checkpoint is of an older format, which lacks a part of the origin",
            hint="check out the code that it names, and rebuild it with that",
        ) from error
    return replace(stamp, feature_names=tuple(stamp.feature_names))


def _refuse_other_origin(stamp: CheckpointStamp, recipe: Recipe, device: torch.device) -> None:
    """Refuse code, packages and hardware that may give other bits."""
    code = code_facts() | {
        "feature_fingerprint": fingerprint(get_set(recipe.feature_set)),
        "project_code": network_code(stamp.model),
    }
    for name, value in (code | compute_identity(device)).items():
        if getattr(stamp, name) != value:
            elsewhere = (
                f"check out the code {stamp.code}, install its requirements.lock, and rebuild it there"
            )
            raise CheckpointError(
                f"the version was trained with {name} {getattr(stamp, name)}, and this is {value}",
                hint=elsewhere
                if name in code
                else "rebuild it on a machine like that one, which rounds alike",
                field=name,
            )


def _data_of(pack: Path, facts: Mapping[str, Any], recipe: Recipe) -> NightData:
    """Return features and labels of the pinned bars, whose hashes are checked."""
    grace_ns = facts["grace_ms"] * 1_000_000
    panel = _panel_of(pack / _PANEL, facts["content_hash"])
    block = build_features(panel, recipe.feature_set)
    served, lessons = learn_rows(panel, block, recipe, grace_ns=grace_ns), None
    if facts.get("lessons_hash") is not None:
        taught = _panel_of(pack / _LESSONS, facts["lessons_hash"], recipe.rows)
        lessons = learn_rows(taught, build_features(taught, recipe.feature_set), recipe, grace_ns=grace_ns)
    # A refit reads no market data, and therefore no funding.
    return NightData(panel, block, served.labels, served.past, funding_paid=None, lessons=lessons)


def _panel_of(path: Path, expected: str, rows: Basis = "served") -> Panel:
    if not path.exists():
        raise CheckpointError(f"the pack lacks {path.name}", hint=_AGAIN)
    panel = read_panel(path)
    found = content_hash(panel, rows)
    if found != expected:
        raise CheckpointError(
            f"{path} has rows with hash {found[:12]}, and the version was trained on {expected[:12]}",
            hint=_AGAIN,
        )
    return panel


def _compare(saved: Checkpoint, again: Checkpoint) -> dict[str, float]:
    """Return the largest difference of each tensor that differs in a bit; infinite where one has no such tensor."""
    differing = {}
    for name in saved.weights.keys() | again.weights.keys():
        one, other = saved.weights.get(name), again.weights.get(name)
        if one is None or other is None or one.shape != other.shape:
            differing[name] = float("inf")
        elif one.numpy().tobytes() != other.numpy().tobytes():
            differing[name] = float((one.double() - other.double()).abs().max())
    if saved.normaliser != again.normaliser:
        differing["normaliser"] = float("nan")
    return dict(sorted(differing.items()))
