"""Export of a whole set as one graph for any number of instruments, with the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from features.feature import Feature, evaluate
from features.inputs import CLOCK, InputView, leaves_of
from features.sets import get_set
from tests.features.panels import random_panel

STEPS = 160


class Graph(nn.Module):
    """Module that maps the leaves of a panel to its last step's values and masks."""

    def __init__(self, features: tuple[Feature, ...]) -> None:
        super().__init__()
        self.features = features

    def forward(self, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        results = evaluate(InputView(leaves), self.features, shape=tuple(leaves["panel.status"].shape))
        values, masks = zip(*results, strict=True)
        return torch.stack([value[:, -1] for value in values], 1), torch.stack(
            [mask[:, -1] for mask in masks], 1
        )


# Tracing takes a quarter of a second a function, so every run exports a few functions alone.
LONG = pytest.mark.drill


@pytest.mark.parametrize(
    ("name", "functions", "least"),
    [
        pytest.param("live", 5, 150, id="some of live"),
        pytest.param("live", None, 400, id="live", marks=LONG),
        pytest.param("wide", None, 400, id="wide", marks=LONG),
    ],
)
def test_a_set_is_one_graph_with_a_free_number_of_instruments(
    name: str, functions: int | None, least: int
) -> None:
    def leaves(n_instruments: int, seed: int) -> dict[str, Tensor]:
        return leaves_of(random_panel(n_instruments, STEPS, seed=seed))

    # One window of each family is enough to trace its function.
    windows = {item.function: item for item in reversed(get_set(name))}
    eager = Graph(tuple(windows.values())[:functions])
    example = leaves(4, 0)
    free = {"leaves": {leaf: None if leaf == CLOCK else {0: Dim("S", min=1, max=200)} for leaf in example}}
    graph = export(eager, (example,), dynamic_shapes=free).module()
    valid = 0
    for n_instruments in (1, 3, 7, 40):
        given = leaves(n_instruments, n_instruments)
        value, mask = graph(given)
        expected, known = eager(given)
        assert torch.equal(mask, known)
        assert torch.equal(value.view(torch.int64), expected.contiguous().view(torch.int64))
        valid += int(known.sum())
    assert valid > least
