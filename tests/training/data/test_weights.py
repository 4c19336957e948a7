"""Uniqueness of labels: equal to the definition, summed bar by bar."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data.weights import uniqueness_weights


def slow_uniqueness(labelled: np.ndarray, horizon: int) -> np.ndarray:
    """Return average uniqueness as Lopez de Prado defines it (2018, snippets 4.1 and 4.2), with mean 1."""
    n_instruments, n_steps = labelled.shape
    weight = np.zeros(labelled.shape)
    for s in range(n_instruments):
        count = np.zeros(n_steps + horizon)
        for t in np.flatnonzero(labelled[s]):
            count[t : t + horizon] += 1
        for t in np.flatnonzero(labelled[s]):
            weight[s, t] = (1 / count[t : t + horizon]).mean()
    return weight / weight[labelled].mean()


@pytest.mark.parametrize("horizon", [1, 3, 12, 50])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.05])
def test_weights_equal_the_definition(horizon: int, share: float) -> None:
    labelled = np.random.default_rng(1).random((3, 40)) < share
    labelled[0, 20] = True
    found = uniqueness_weights(torch.from_numpy(labelled), horizon).numpy()
    np.testing.assert_allclose(found, slow_uniqueness(labelled, horizon), rtol=1e-6)


def test_labels_that_share_no_bar_weigh_the_same_and_none_weighs_nothing() -> None:
    apart = torch.zeros(1, 30, dtype=torch.bool)
    apart[0, ::5] = True
    assert uniqueness_weights(apart, 5)[apart].tolist() == [1.0] * 6
    assert uniqueness_weights(torch.zeros(2, 4, dtype=torch.bool), 5).abs().sum() == 0


def test_bars_before_and_after_change_no_bit() -> None:
    labelled = torch.rand((2, 60), generator=torch.Generator().manual_seed(1)) < 0.5
    gap = torch.zeros(2, 17, dtype=torch.bool)
    alone = uniqueness_weights(labelled, 6)
    assert torch.equal(uniqueness_weights(torch.cat((gap, labelled, gap), dim=1), 6)[:, 17:-17], alone)
