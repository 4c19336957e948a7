"""Fits that nights share: what names them, and that a night with reused fits equals one trained from nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch

from storage.clock import iso
from storage.settings import Settings
from tests.training.builders import (
    GRACE_NS,
    MINUTE_NS,
    START_NS,
    block_of,
    fill_lake,
    panel_of,
    settings_in,
    stamp_of,
    walk,
)
from tests.training.night.test_steps import tree
from training.data.labels import LabelRule, make_labels, prices_at_close, trailing_return
from training.models.trainer import EpochLog
from training.night.artifacts import NightArtifacts, NightData
from training.night.fit_store import FitStore, fit_id, rows_digest
from training.night.steps import build_panel, open_night, plan_folds, train_fold

STEPS: Final = 760
RECIPE: Final = """
base = "demo"
name = "shared"
feature_set = "candles"
window_bars = 3
stride = 2
seeds = 1
controls = ["ridge"]
challengers = ["mlp"]
[label]
volatility_bars = 30
[folds]
n_folds = 2
unit = "hour"
test_units = 1
valid_units = 1
train_units = 1
embargo_bars = 6
[fit]
epochs = 2
batch = 128
"""
# The walk begins at 21:20, and the labels of six bars ahead are known an hour later in the second night.
UNTIL: Final = (iso(START_NS + (STEPS - 60) * MINUTE_NS), None)


def train_night(
    settings: Settings, *, until: str | None, at: int | None = None
) -> tuple[NightArtifacts, list[tuple[str, int]]]:
    """Train a night, and return its folder and the models and folds with epochs."""
    recipe = settings.home / "shared.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    name = open_night(settings, recipe=str(recipe), until=until, at=at)
    build_panel(settings, name)
    trained: list[tuple[str, int]] = []

    def note(model: str, fold: int, log: EpochLog) -> None:
        if log.epoch == 1:
            trained.append((model, fold))

    for fold in plan_folds(settings, name):
        train_fold(settings, name, fold, on_epoch=note)
    return NightArtifacts.find(settings, name), trained


def test_night_an_hour_later_trains_only_its_new_fold_and_equals_one_trained_from_nothing(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path)
    fill_lake(settings, walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3))
    first, trained_first = train_night(settings, until=UNTIL[0])
    second, trained_second = train_night(settings, until=UNTIL[1])
    tests = [[fold["test"] for fold in night.read("folds.json")["folds"]] for night in (first, second)]
    assert tests[1][0] == tests[0][1], "the newest fold of the first night is the older one of the second"
    assert trained_first == [("mlp", 0), ("mlp", 1)]
    assert trained_second == [("mlp", 1)]
    fits = [second.read(f"timings/fits-{fold:02d}.json") for fold in (0, 1)]
    assert [[entry["is_reused"] for entry in fold.values()] for fold in fits] == [[True] * 2, [False] * 2]
    reused, snapshot = tree(second.path), second.facts["snapshot"]
    shutil.rmtree(settings.models_dir)
    again, trained_again = train_night(settings, until=UNTIL[1], at=snapshot)
    assert len(trained_again) == 2
    assert again.path == second.path
    afresh = tree(again.path)
    assert sorted(afresh) == sorted(reused)
    assert [name for name in afresh if afresh[name] != reused[name]] == []


def data_of(*, instruments: int = 3, steps: int = 200, seed: int = 5) -> NightData:
    panel = panel_of(np.exp(walk(instruments=instruments, steps=steps, seed=seed)))
    labels = make_labels(panel, LabelRule(horizon_bars=3, volatility_bars=10), grace_ns=GRACE_NS)
    past = trailing_return(prices_at_close(panel), 3) / labels.scale
    return NightData(panel, block_of(instruments=instruments, steps=steps), labels, past, None)


def cut(data: NightData, first: int, stop: int, instruments: slice = slice(None)) -> NightData:
    """Return some steps and instruments of a night's data."""
    at = (instruments, slice(first, stop))
    names = data.block.instruments[instruments]
    block = replace(
        data.block,
        values=data.block.values[at],
        mask=data.block.mask[at],
        instruments=names,
        ts_open_ns=data.block.ts_open_ns[first:stop],
    )
    labels = replace(
        data.labels,
        **{name: getattr(data.labels, name)[at] for name in ("label", "mask", "basis", "scale", "decidable")},
        **{
            name: getattr(data.labels, name)[first:stop]
            for name in ("ts_decided_ns", "ts_span_start_ns", "ts_span_end_ns")
        },
    )
    return replace(data, block=block, labels=labels, past=data.past[at])


WINDOW: Final = 4
ROWS: Final = {"train": (50, 90), "test": (100, 120)}


def digest_of(data: NightData, *, first: int = 0, rows: dict[str, tuple[int, int]] = ROWS) -> str:
    """Return the digest of instruments 0 and 1 at steps of the whole panel."""
    n_steps = data.labels.mask.shape[1]
    index = {
        use: torch.cat([s * n_steps + torch.arange(a - first, b - first) for s in (0, 1)])
        for use, (a, b) in rows.items()
    }
    return rows_digest(data, index, window_bars=WINDOW)


def test_digest_does_not_depend_on_bars_and_instruments_outside_its_windows() -> None:
    data = data_of()
    whole = digest_of(data)
    assert digest_of(cut(data, 0, 120)) == whole
    assert digest_of(cut(data, 50 - WINDOW + 1, 200), first=50 - WINDOW + 1) == whole
    assert digest_of(cut(data, 0, 200, slice(0, 2))) == whole
    outside = data_of()
    outside.block.values[:, 120:], outside.block.values[2] = 7.0, 7.0
    outside.labels.label[:, 120:], outside.past[:, 120:] = 7.0, 7.0
    assert digest_of(outside) == whole
    masked = data_of()
    masked.block.values[~masked.block.mask] = 1e9
    assert digest_of(masked) == whole


@pytest.mark.parametrize("field", ["values", "mask", "label", "past", "label mask"])
@pytest.mark.parametrize("step", [50, 89, 100, 119])
def test_digest_depends_on_every_value_that_a_fit_reads(field: str, step: int) -> None:
    data = data_of()
    whole = digest_of(data)
    data.block.mask[1, step, 0] = data.labels.mask[1, step] = True
    known = digest_of(data)
    if field in ("values", "mask"):
        tensor = getattr(data.block, field)
        tensor[1, step, 0] = ~tensor[1, step, 0] if field == "mask" else tensor[1, step, 0] + 1
    elif field == "label mask":
        data.labels.mask[1, step] = False
    else:
        (data.labels.label if field == "label" else data.past)[1, step] += 1
    assert digest_of(data) != known
    data.block.mask[0, 50 - WINDOW + 1, 1] = ~data.block.mask[0, 50 - WINDOW + 1, 1]
    assert digest_of(data) not in (whole, known)


def test_digest_depends_on_the_use_of_a_row() -> None:
    data = data_of()
    assert len({digest_of(data, rows={"train": a, "test": b}) for a, b in [((50, 90), (100, 120)),
               ((50, 91), (100, 120)), ((50, 90), (101, 120)), ((100, 120), (50, 90))]}) == 4  # fmt: skip


def test_identity_depends_on_seed_threads_device_and_code_and_not_on_the_commit() -> None:
    stamp = stamp_of()
    assert fit_id(replace(stamp, code="another commit", snapshot=9)) == fit_id(stamp)
    others = [{"seed": 8}, {"device": "cuda"}, {"hardware": "AVX512"}, {"threads": 2}, {"training_code": "x"},
              {"content_hash": "x"}, {"lock": "x"}]  # fmt: skip
    ids = [fit_id(replace(stamp, **change)) for change in others]  # type: ignore[arg-type]
    assert len({*ids, fit_id(stamp)}) == len(others) + 1


def finished(store: FitStore) -> None:
    with store.locked("f") as folder:
        (folder / "weights.bin").write_bytes(b"weights")
        (folder / "metrics.json").write_text("{}")
        store.finish("f")


@pytest.mark.parametrize("damage", ["changed", "missing", "no json"])
def test_damaged_fit_is_removed_and_counts_as_not_trained(tmp_path: Path, damage: str) -> None:
    store = FitStore(tmp_path / "fits")
    finished(store)
    assert store.is_done("f")
    if damage == "changed":
        (store.folder("f") / "weights.bin").write_bytes(b"weightz")
    elif damage == "missing":
        (store.folder("f") / "weights.bin").unlink()
    else:
        (store.folder("f") / "fit.json").write_text("{")
    assert not store.is_done("f")
    assert [path.name for path in store.folder("f").iterdir()] == [".lock"]
    finished(store)
    assert store.is_done("f")


def test_links_survive_the_store_and_an_interrupted_linking(tmp_path: Path) -> None:
    store, target = FitStore(tmp_path / "fits"), tmp_path / "night" / "fold-00" / "ridge"
    finished(store)
    target.mkdir(parents=True)
    (target / "weights.bin").write_bytes(b"half")
    for _ in range(2):
        store.link("f", target)
    assert (target / "weights.bin").samefile(store.folder("f") / "weights.bin")
    assert sorted(path.name for path in target.iterdir()) == ["fit.json", "metrics.json", "weights.bin"]
    shutil.rmtree(store.path)
    assert (target / "weights.bin").read_bytes() == b"weights"
