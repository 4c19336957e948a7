"""Live steps, equal to the build bar by bar whenever they began."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from features.build import build_features
from features.engine.checked import checked_program, comparison_panel
from features.feature import evaluate, feature
from features.inputs import InputView, leaves_of
from features.live import LiveFeatures
from features.sets import FEATURE_SETS, get_set
from storage.errors import ContractError
from tests.features.panels import MINUTE_NS, random_panel, with_quotes

PANEL = random_panel(5, 500, seed=2)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_every_step_has_the_bits_of_the_build(name: str) -> None:
    # Windows of mids are never known where a fifth of the quotes is missing.
    panel = with_quotes(PANEL) if name == "mids" else PANEL
    block = build_features(panel, name)
    live = LiveFeatures(get_set(name), panel.instruments, panel.width_ns)
    for at in range(panel.n_steps):
        row = live.step(panel.steps(at, at + 1))
        assert row.ts_open_ns == panel.ts_open_ns[at]
        assert torch.equal(row.mask, block.mask[:, at])
        assert torch.equal(row.values.view(torch.int32), block.values[:, at].contiguous().view(torch.int32))
    assert block.mask.any(dim=1).any(dim=0).all()


def test_a_state_started_late_equals_one_that_always_ran() -> None:
    block = build_features(PANEL, "live")
    live = LiveFeatures.after(PANEL.steps(0, 300), "live")
    for at in range(300, 330):
        row = live.step(PANEL.steps(at, at + 1))
        assert torch.equal(row.mask, block.mask[:, at])
        assert torch.equal(row.values, block.values[:, at])


def test_a_skipped_bar_or_other_instruments_are_refused() -> None:
    live = LiveFeatures.after(PANEL.steps(0, 20), "candles")
    with pytest.raises(ContractError, match=r"the next bar opens at 2025-.*, not at 2025-"):
        live.step(PANEL.steps(21, 22))
    with pytest.raises(ContractError, match="takes one bar of the 5 instruments it began with, not 1 of 4"):
        live.step(PANEL.select([0, 1, 2, 3]).steps(20, 21))
    later = replace(PANEL.steps(20, 21), ts_open_ns=PANEL.ts_open_ns[20:21])
    assert live.step(later).ts_open_ns - PANEL.ts_open_ns[19] == MINUTE_NS


@feature(lookback_bars=3, inputs=("volume",), unit="base", source="planted")
def looks_back_by_itself(volume: Tensor) -> Tensor:
    """Volume three bars ago.

    Formula: v[t-3]

    Missing: no volume then.
    """
    return torch.roll(volume, 3, dims=1)


@feature(lookback_bars=0, inputs=("volume",), unit="base", source="planted")
def chooses_by_value(volume: Tensor) -> Tensor:
    """Volume, if any is positive.

    Formula: v

    Missing: never.
    """
    return volume if bool(volume.sum() > 0) else -volume


@feature(lookback_bars=0, inputs=("volume",), unit="base", source="planted")
def writes_into_its_input(volume: Tensor) -> Tensor:
    """Volume and one.

    Formula: v + 1

    Missing: no volume.
    """
    return volume.add_(1.0)


@feature(lookback_bars=0, inputs=("volume",), unit="base", source="planted")
def returns_places(volume: Tensor) -> Tensor:
    """Position of the volume among the instruments' volumes.

    Formula: argsort(v)

    Missing: never.
    """
    return volume.argsort(dim=0)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_every_feature_is_known_on_the_comparison_panel(name: str) -> None:
    features = get_set(name)
    panel = comparison_panel(features)
    found = evaluate(InputView(leaves_of(panel)), features, shape=(panel.n_instruments, panel.n_steps))
    known = {item.name: int(mask.sum()) for item, (_, mask) in zip(features, found, strict=True)}
    assert min(known.values()) > 8, known


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (returns_places, "a feature returns a type or a shape that a table cannot hold"),
        (looks_back_by_itself, "looks_back_by_itself gives other values block by block"),
        (chooses_by_value, "chooses_by_value cannot be traced to a graph"),
        (writes_into_its_input, "calls add_ on a tensor"),
    ],
)
def test_a_feature_that_cannot_be_streamed_is_refused_by_name(planted: object, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        checked_program((planted,))  # type: ignore[arg-type]
