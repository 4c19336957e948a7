"""Checkpoints of models: format, atomic saving, and loading with verification of origin and hashes.

A checkpoint is a folder. `manifest.json` names the other files by their content hashes, so replacing the manifest in
one rename replaces the whole checkpoint, and a crash leaves the old one intact. Weights are safetensors; the state of
the optimiser and the random generators is a `weights_only` torch file. Nothing in a checkpoint depends on the wall
clock or on its location, so the same training writes the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch

from storage.atomic_write import write_atomic
from storage.errors import CheckpointError
from storage.project import archived_project

FORMAT: Final = 2
_READABLE: Final = (1, FORMAT)
MANIFEST: Final = "manifest.json"
ONE_BY_ONE: Final = "one by one"
"""`stacking` of a fit that is trained alone."""
# These may change while the bits stay equal (a commit message, a rebuilt lake, another model of the project), so they
# are not compared.
INFORMATIVE: Final = frozenset({"code", "snapshot", "project"})


@dataclass(frozen=True, slots=True)
class CheckpointStamp:
    """Origin of a model: code, data and seed.

    Args:
        model: its name in the recipe.
        fold: start of its fold's test, in ns; -1 for the refit on all rows.
        seed: the seed of all its draws.
        recipe: the whole recipe, or the parts that matter to a fold's fit, as plain values.
        feature_names: names of the model's inputs, in order.
        feature_fingerprint: hash of the feature set's code and declaration.
        content_hash: hash of the pinned rows, or of the rows that a fold's fit reads.
        snapshot: the lake's snapshot with the pinned rows; -1 for a fold's fit.
        code: version and commit of the code.
        training_code: hash of the source of `training`.
        lock: hash of the locked environment.
        torch_version: version of torch.
        device: kind of device.
        hardware: name of the GPU, or vector instructions of the CPU.
        threads: threads of torch and LightGBM on the CPU.
        rows: rows of bars that taught.
        stacking: `one by one`, or the lanes of the stack that the fit was trained in.
        project_code: hash of the user's code that the model uses; empty for a built-in model.
        project: hash of all sources of the user's project, which the checkpoint stores; empty where neither the model
            nor the features use it.
    """

    model: str
    fold: int
    seed: int
    recipe: Mapping[str, Any]
    feature_names: tuple[str, ...]
    feature_fingerprint: str
    content_hash: str
    snapshot: int
    code: str
    training_code: str
    lock: str
    torch_version: str
    device: str
    hardware: str
    threads: int
    rows: str
    stacking: str
    project_code: str = ""
    project: str = ""

    def expectations(self) -> dict[str, Any]:
        """Return the fields in which a checkpoint must agree to be continued under this stamp."""
        return {name: value for name, value in asdict(self).items() if name not in INFORMATIVE}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved model.

    Args:
        stamp: its origin, as plain values.
        weights: the best weights so far.
        normaliser: mean, standard deviation and clip by feature.
        cursor: training progress and history, as plain values.
        state: optimiser, current weights and random states; empty for models without epochs.
    """

    stamp: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    normaliser: Mapping[str, Any]
    cursor: Mapping[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    stamp: CheckpointStamp,
    *,
    weights: Mapping[str, torch.Tensor],
    normaliser: Mapping[str, Any],
    cursor: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    """Replace the folder's checkpoint atomically; sources of the user's project are stored where the stamp names them.

    Raises:
        ProjectError: the project folder is not the one that the stamp names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(dict(state or {}), buffer)
    files = {
        "weights": (
            ".safetensors",
            safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()}),
        ),
        "state": (".pt", buffer.getvalue()),
    }
    if stamp.project:
        files["project"] = (".json", archived_project(stamp.project))
    entries: dict[str, dict[str, str]] = {}
    for kind, (suffix, content) in files.items():
        digest = hashlib.sha256(content).hexdigest()
        name = f"{kind}-{digest[:12]}{suffix}"
        entries[kind] = {"name": name, "sha256": digest}
        if not (folder / name).exists():
            write_atomic(folder / name, content)
    manifest = {
        "format": FORMAT,
        "stamp": asdict(stamp),
        "normaliser": dict(normaliser),
        "cursor": dict(cursor),
        "files": entries,
    }
    write_json(folder / MANIFEST, manifest)
    current = {entry["name"] for entry in entries.values()}
    for kind, (suffix, _) in files.items():
        for old in folder.glob(f"{kind}-*{suffix}"):
            if old.name not in current:
                old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, *, expect: Mapping[str, Any]) -> Checkpoint:
    """Load and verify the checkpoint of a folder.

    Those of older releases can be used, but not continued, since their stamp lacks fields.

    Args:
        folder: of the checkpoint.
        expect: required values of fields of its stamp; `CheckpointStamp.expectations()` for all fields.

    Raises:
        CheckpointError: there is none, a file is missing or damaged, or a field of the stamp differs.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint in {folder}", hint="train it with: tickwalk nightly")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"checkpoint manifest {path} is not JSON: {error}", hint=_AGAIN) from error
    if manifest.get("format") not in _READABLE:
        raise CheckpointError(
            f"checkpoint {folder} has format {manifest.get('format')}, "
            f"this code reads {' and '.join(map(str, _READABLE))}",
            hint=_AGAIN,
            field="format",
        )
    stamp = manifest["stamp"]
    for name, value in expect.items():
        required = _plain(value)
        if stamp.get(name) != required:
            raise CheckpointError(
                f"checkpoint {folder} was made with {name} {_short(stamp.get(name))}, "
                f"and {_short(required)} is required",
                hint=_AGAIN,
                field=name,
            )
    weights = safetensors.torch.load(_verified(folder, manifest["files"]["weights"]))
    state = torch.load(io.BytesIO(_verified(folder, manifest["files"]["state"])), weights_only=True)
    return Checkpoint(stamp, weights, manifest["normaliser"], _cursor(manifest), state)


def _cursor(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training progress; format 1 counted it in epochs."""
    names = {"epoch": "point", "best_epoch": "best_point"} if manifest["format"] == 1 else {}
    return {names.get(name, name): value for name, value in manifest["cursor"].items()}


def stored_project(folder: Path) -> tuple[Mapping[str, Any], bytes]:
    """Return a checkpoint's stamp and its stored sources of the user's project, verified by their hash.

    Raises:
        CheckpointError: there is no checkpoint, it uses no user code, or a file is missing or damaged.
    """
    stamp = load_checkpoint(folder, expect={}).stamp
    if not stamp.get("project"):
        raise CheckpointError(
            f"checkpoint {folder} stores no project folder",
            hint="its features and its model are built in: check out the code that it names",
        )
    entry = json.loads((folder / MANIFEST).read_bytes())["files"]["project"]
    return stamp, _verified(folder, entry)


_AGAIN: Final = "train again: tickwalk nightly"


def _verified(folder: Path, entry: Mapping[str, str]) -> bytes:
    path = folder / entry["name"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint file {path} cannot be read: {error.strerror}", hint=_AGAIN
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        raise CheckpointError(
            f"checkpoint file {path} has hash {digest[:12]}, its manifest says {entry['sha256'][:12]}",
            hint=_AGAIN,
        )
    return content


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with sorted keys, atomically; NaN and infinities become null."""
    write_atomic(
        path, (json.dumps(_finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
