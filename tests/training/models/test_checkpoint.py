"""Checkpoints: equal bytes, atomic saving, and refusal of other origins and damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from storage.atomic_write import write_atomic
from storage.errors import CheckpointError
from tests.training.builders import stamp_of
from training.models.checkpoint import (
    MANIFEST,
    CheckpointStamp,
    load_checkpoint,
    save_checkpoint,
    write_json,
)


def save(folder: Path, *, value: float = 1.0, made: CheckpointStamp | None = None) -> None:
    save_checkpoint(
        folder,
        made or stamp_of(),
        weights={"w": torch.full((3,), value)},
        normaliser={"mean": [0.5], "std": [2.0], "clip": 5.0},
        cursor={"epoch": 2, "is_done": False},
        state={"rng": torch.get_rng_state(), "step": 4},
    )


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    save(tmp_path)
    loaded = load_checkpoint(tmp_path, expect=stamp_of().expectations())
    assert loaded.weights["w"].tolist() == [1.0, 1.0, 1.0]
    assert loaded.normaliser == {"mean": [0.5], "std": [2.0], "clip": 5.0}
    assert loaded.cursor == {"epoch": 2, "is_done": False}
    assert torch.equal(loaded.state["rng"], torch.get_rng_state())
    assert loaded.stamp["snapshot"] == 3


def test_same_training_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert len(files[0]) == 3
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "lstm"),
        ("fold", 2),
        ("seed", 8),
        ("recipe", {"name": "demo", "stride": 2}),
        ("feature_names", ("b", "a")),
        ("feature_fingerprint", "x"),
        ("content_hash", "x"),
        ("training_code", "x"),
        ("lock", "x"),
        ("torch_version", "2.14.0"),
        ("device", "cuda"),
        ("hardware", "AVX512"),
        ("threads", 2),
        ("rows", "available"),
        ("stacking", "together"),
    ],
)
def test_other_origin_is_refused_with_the_field(tmp_path: Path, field: str, value: object) -> None:
    save(tmp_path)
    with pytest.raises(CheckpointError, match=f"was made with {field} ") as caught:
        load_checkpoint(tmp_path, expect=replace(stamp_of(), **{field: value}).expectations())
    assert caught.value.facts["field"] == field


def test_snapshot_and_code_label_are_not_compared(tmp_path: Path) -> None:
    save(tmp_path)
    load_checkpoint(tmp_path, expect=replace(stamp_of(), snapshot=9, code="0.1.0+gdef.dirty").expectations())


@pytest.mark.parametrize("kind", ["weights", "state"])
def test_damaged_file_is_refused(tmp_path: Path, kind: str) -> None:
    save(tmp_path)
    path = next(tmp_path.glob(f"{kind}-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"has hash .* its manifest says"):
        load_checkpoint(tmp_path, expect={})


def test_missing_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    next(tmp_path.glob("weights-*")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        load_checkpoint(tmp_path, expect={})


def test_absent_damaged_or_unknown_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        load_checkpoint(tmp_path, expect={})
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_checkpoint(tmp_path, expect={})
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has format 99, this code reads 1 and 2"):
        load_checkpoint(tmp_path, expect={})


def test_checkpoint_of_an_older_release_is_read_and_not_continued(tmp_path: Path) -> None:
    save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_bytes())
    manifest["format"] = 1
    manifest["cursor"] = {"epoch": 3, "best_epoch": 2, "is_done": True, "history": []}
    for name in ("hardware", "threads", "rows", "stacking"):
        del manifest["stamp"][name]
    write_json(tmp_path / MANIFEST, manifest)
    saved = load_checkpoint(tmp_path, expect={"model": "mlp"})
    assert saved.weights["w"].tolist() == [1.0, 1.0, 1.0]
    assert saved.cursor == {"point": 3, "best_point": 2, "is_done": True, "history": []}
    with pytest.raises(CheckpointError, match="was made with hardware null"):
        load_checkpoint(tmp_path, expect=stamp_of().expectations())


def test_crash_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, value=1.0)

    def die(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.models.checkpoint.write_json", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, value=2.0)
    assert load_checkpoint(tmp_path, expect={}).weights["w"].tolist() == [1.0, 1.0, 1.0]
    save(tmp_path, value=2.0)
    assert load_checkpoint(tmp_path, expect={}).weights["w"].tolist() == [2.0, 2.0, 2.0]
    assert len(list(tmp_path.iterdir())) == 3


def test_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def die(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", die)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, b"half")
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}


def test_undefined_figures_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": float("nan"), "a": [1.5, float("inf")]})
    assert (tmp_path / "x.json").read_text(
        encoding="utf-8"
    ) == '{\n "a": [\n  1.5,\n  null\n ],\n "b": null\n}\n'
