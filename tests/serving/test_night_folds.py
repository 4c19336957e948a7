"""Folds of a finished night as Python sees them: the rows, normaliser and order of its own fits."""

from __future__ import annotations

import json

import pytest

import tickwalk
from storage.errors import GateError, SettingsError
from storage.settings import Settings
from training.models.device import derive_seed
from training.night.fold_dataset import NightFold


def test_a_fold_has_the_rows_normaliser_and_order_of_the_nights_fits(judged: tuple[Settings, str]) -> None:
    settings, night = judged
    with tickwalk.open(settings.home) as home:
        details = home.night(night)
        folds = details.folds()
        assert [fold.index for fold in folds] == [0, 1]
        fold = details.fold(1)
        assert isinstance(fold, NightFold)
        with pytest.raises(GateError, match=rf"night {night} has no fold 7 \(its folds: \[0, 1\]\)"):
            details.fold(7)
    with pytest.raises(SettingsError, match=r"no part 'tests' \(use one of: train, valid, test\)"):
        fold.dataset("tests")  # type: ignore[arg-type]
    metrics = json.loads((details.folder / "fold-01" / "mlp" / "metrics.json").read_bytes())
    assert len(fold.dataset("valid")) == metrics["rows"]["valid"]
    assert len(fold.dataset("test")) == metrics["rows"]["test"]
    assert fold.valid.stop_ns == fold.test.start_ns > fold.train.stop_ns
    manifest = json.loads((details.folder / "fold-01" / "mlp" / "manifest.json").read_bytes())
    assert fold.order_seed("mlp") == derive_seed(manifest["stamp"]["seed"], "order")
    assert fold.normaliser.to_plain() == manifest["normaliser"]
    assert len(fold.dataset("train")) == len(fold.dataset("train").rows()) >= metrics["rows"]["train"]
