"""Figures of single features: a planted one is found at its horizon, copies are one group, gaps are counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.feature import FeatureBlock
from serving.feature_jobs.feature_report import HORIZONS, names_of, report_features, report_rows, set_of
from storage.errors import SettingsError
from tests.training.builders import GRACE_NS, block_of, panel_of, walk

STEPS = 1_200


def made() -> FeatureBlock:
    """Return features of two instruments: the next but one return, a copy, noise, and one that is rarely known."""
    returns = np.diff(LOG_PRICE, axis=1, append=LOG_PRICE[:, -1:])
    draw = np.random.default_rng(1)
    ahead = np.concatenate(
        [returns[:, 1:], np.zeros((2, 1))], axis=1
    )  # of the bar that an order of this bar enters
    noise = draw.standard_normal((2, STEPS)) * returns.std()
    stack = np.stack([ahead + noise, 2 * (ahead + noise), noise[::-1], noise], axis=-1)
    mask = np.ones(stack.shape, dtype=bool)
    mask[:, ::2, 3] = False
    block = block_of(instruments=2, steps=STEPS)
    return replace(
        block,
        names=("ahead", "copy", "noise", "rare"),
        values=torch.from_numpy(np.where(mask, stack, 0.0).astype(np.float32)),
        mask=torch.from_numpy(mask),
    )


LOG_PRICE = walk(instruments=2, steps=STEPS, seed=2)


def test_a_feature_that_knows_the_return_has_its_ic_at_one_bar_and_none_later() -> None:
    block = made()
    found = {
        item.feature: item
        for item in report_features(panel_of(np.exp(LOG_PRICE)), block, block.names, grace_ns=GRACE_NS)
    }
    ahead = found["ahead"]
    assert ahead.ic[0] == pytest.approx(1 / math.sqrt(2), abs=0.08)
    assert ahead.t[0] > 10
    # Over h bars the same return is one of h.
    assert ahead.ic[HORIZONS.index(15)] == pytest.approx(ahead.ic[0] / math.sqrt(15), abs=0.08)
    assert dict(ahead.decay)[0] == pytest.approx(ahead.ic[0])
    assert abs(dict(ahead.decay)[5]) < 0.1
    assert abs(found["noise"].t[0]) < 4
    assert ahead.nearest == ("copy", pytest.approx(1.0, abs=1e-6))
    assert ahead.group == found["copy"].group != found["noise"].group
    assert (ahead.coverage, found["rare"].coverage) == (1.0, 0.5)
    rows = report_rows(list(found.values()))
    assert rows[0]["ic_1"].startswith("+0.")
    assert rows[0]["nearest"] == "copy (+1.00)"


def test_a_name_is_a_set_or_a_feature() -> None:
    assert names_of("candles")[0] in names_of("live") + names_of("candles")
    assert names_of("log_return_1") == ["log_return_1"]
    assert set_of("live") == "live"
    with pytest.raises(SettingsError, match="no feature or feature set is called 'nothing'"):
        set_of("nothing")
