"""The rule that no position is opened on bars outside of the training rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from storage.errors import SettingsError
from tests.training.memory_night import bounce, context_of, data_of, fold_of, rows_in
from training.evaluation.positions import PositionRule
from training.night.artifacts import Predictions
from training.night.lineage_evidence import lineage_of
from training.night.scoring import traded_prediction
from training.recipe import RECIPES, recipe_from_plain


def test_strangeness_is_the_share_of_known_features_at_the_clip() -> None:
    data = data_of(bounce(steps=600))
    rows = rows_in(data, fold_of(600))
    values, mask = data.block.values.clone(), data.block.mask.clone()
    index = rows.test[:3]
    n_steps = data.panel.n_steps
    for place, row in enumerate(index.tolist()):
        values[row // n_steps, row % n_steps] = torch.tensor([1e3, 1e3 if place else 0.0])
    mask[int(index[2]) // n_steps, int(index[2]) % n_steps, 0] = False
    values[~mask] = 0.0
    strange = replace(data, block=replace(data.block, values=values, mask=mask))
    found = context_of(strange, rows).strangeness(index)
    assert found.tolist() == [0.5, 1.0, 1.0], "a masked feature counts for nothing"
    usual = context_of(data, rows).strangeness(rows.seen)
    assert float(usual.mean()) < 0.05
    assert len(context_of(data, rows).strangeness(index[:0])) == 0


def test_bars_that_are_too_strange_have_no_prediction_to_trade_on() -> None:
    nothing = np.zeros(3, dtype=np.int32)
    part = Predictions(
        nothing,
        nothing,
        np.array([1.0, 2.0, 3.0], np.float32),
        np.zeros(3, np.float32),
        np.array([0.0, 0.1, 0.2]),
    )
    recipe = RECIPES["demo"]
    assert traded_prediction(part, recipe) is part.prediction
    careful = replace(recipe, position=replace(recipe.position, most_strange=0.1))
    assert np.array_equal(traded_prediction(part, careful), [1.0, 2.0, np.nan], equal_nan=True)
    made_elsewhere = replace(part, strangeness=None)
    assert traded_prediction(made_elsewhere, careful) is part.prediction


def test_a_careful_recipe_is_a_lineage_of_its_own_and_one_without_the_rule_keeps_its_name() -> None:
    recipe = RECIPES["candles"]
    plain = recipe.to_plain()
    careful = recipe_from_plain(plain | {"position": plain["position"] | {"most_strange": 0.1}})
    assert careful.position.most_strange == 0.1
    assert lineage_of(careful).name != lineage_of(recipe).name
    assert "most_strange" not in lineage_of(recipe).definition["position"]
    assert {"target", "weights"} & set(lineage_of(recipe).definition["label"]) == set()


@pytest.mark.parametrize("share", [-0.1, 1.0, 3.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=r"position\.most_strange"):
        PositionRule(threshold=1.0, hold_bars=1, most_strange=share)
