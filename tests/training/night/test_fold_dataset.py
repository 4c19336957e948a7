"""Folds as torch datasets: their batches are those of the night's own trainer, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from serving.prediction_files import read_predictions
from storage.errors import ContractError, SettingsError
from tests.training.builders import GRACE_NS, panel_of, walk
from tests.training.memory_night import RECIPE, context_of, data_of, fold_of, rows_in
from training.data.folds import Fold
from training.models.fit_rule import FitRule
from training.models.row_order import RowOrder
from training.models.trainer import fit_network
from training.night.artifacts import NightData
from training.night.fold_dataset import FoldDataset, Sample
from training.night.fold_training import FoldRows
from training.night.outside_predictions import match_folds
from training.recipe import Recipe, recipe_from_plain

STEPS: Final = 500
STRIDED: Final = replace(RECIPE, stride=3)
# The hole makes rows whose label was not observed.
STATUS: Final = [["blind" if 440 <= step < 444 else "printed" for step in range(STEPS)] for _ in range(2)]
DATA: Final = data_of(panel_of(np.exp(walk(instruments=2, steps=STEPS, seed=1)), status=STATUS), STRIDED)
FOLD: Final = fold_of(STEPS)
ROWS: Final = rows_in(DATA, FOLD, STRIDED)


def dataset_of(
    part: str,
    *,
    data: NightData = DATA,
    fold: Fold = FOLD,
    rows: FoldRows = ROWS,
    recipe: Recipe = STRIDED,
    order: RowOrder = "shuffled",
) -> FoldDataset:
    index = {"train": rows.seen, "valid": rows.valid, "test": rows.test}[part]
    return FoldDataset(
        context_of(data, rows, recipe),
        index,
        rule=FitRule(epochs=4, batch=32, checks=1, patience=9, order=order),
        fold=fold.index,
        ts_decided_ns=data.labels.ts_decided_ns,
        instruments=data.panel.instruments,
    )


class Recorder(nn.Module):
    """A network that keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        self.seen.append((x_BTF.clone(), mask_BTF.clone()))
        return self.weight * x_BTF[:, -1, 0]


@pytest.mark.parametrize(("order", "workers"), [("shuffled", 0), ("chronological", 0), ("shuffled", 2)])
def test_a_loader_yields_the_batches_that_the_trainer_reads(order: RowOrder, workers: int) -> None:
    train = dataset_of("train", order=order)
    context, network = context_of(DATA, ROWS, STRIDED), Recorder()
    rule = FitRule(epochs=4, batch=32, checks=1, patience=9, order=order)
    fit_network(network, context.windows, context.rows(ROWS.seen), None, rule, seed=11)
    loader = DataLoader(train, batch_sampler=train.batches(seed=11), num_workers=workers)
    got: list[Sample] = []
    for _ in range(rule.epochs):
        expected = len(got) + len(loader)
        got += list(loader)
        assert len(got) == expected
    assert len(got) == len(network.seen) > 12
    for (window, mask, label, weight), (x_BTF, mask_BTF) in zip(got, network.seen, strict=True):
        assert torch.equal(window, x_BTF)
        assert torch.equal(mask, mask_BTF > 0)
        assert mask.dtype == torch.bool
        assert label.shape == weight.shape == (len(window),)
        assert bool((weight == 1).all())


def test_a_row_is_the_same_alone_and_in_any_batch() -> None:
    test = dataset_of("test")
    window, mask, label, weight = test[5]
    assert window.shape == mask.shape == (STRIDED.window_bars, 2)
    together = test.__getitems__([9, 5])[1]
    assert all(
        torch.equal(one, other) for one, other in zip((window, mask, label, weight), together, strict=True)
    )
    assert all(torch.equal(one, other) for one, other in zip(test[len(test) - 1], test[-1], strict=True))
    with pytest.raises(IndexError):
        test[len(test)]


def test_rows_are_purged_embargoed_and_standardised_by_the_train_rows() -> None:
    parts = {part: dataset_of(part) for part in ("train", "valid", "test")}
    steps = DATA.labels.ts_decided_ns
    reach = DATA.labels.ts_span_end_ns
    ends = reach[np.searchsorted(steps, parts["train"].ts_decided_ns)]
    assert ends.max() <= FOLD.valid.start_ns
    for part, span in (("valid", FOLD.valid), ("test", FOLD.test)):
        decided = parts[part].ts_decided_ns
        assert span.start_ns + FOLD.embargo_ns <= decided.min()
        assert decided.max() < span.stop_ns
    # Other values in the test change no window of the train part.
    first = int(np.searchsorted(steps, FOLD.test.start_ns))
    values = DATA.block.values.clone()
    values[:, first:] = 1e6
    other = replace(DATA, block=replace(DATA.block, values=values))
    changed = dataset_of("train", data=other)
    every = torch.arange(len(changed))
    assert torch.equal(changed.batch(every)[0], parts["train"].batch(every)[0])


def test_a_label_that_was_not_observed_has_no_weight() -> None:
    test = dataset_of("test")
    _, _, label, weight = test.batch(torch.arange(len(test)))
    lost = weight == 0
    assert 0 < int(lost.sum()) < len(test) / 2
    assert bool((label[lost] == 0).all())
    rows = test.rows()
    assert rows["label"].null_count == int(lost.sum())
    assert rows["instrument"].to_pylist()[0] == "hyperliquid|perp|C0"
    assert rows["fold"].to_pylist() == [0] * len(test)


def test_predictions_of_a_dataset_are_a_file_that_covers_the_test() -> None:
    test = dataset_of("test")
    values = torch.randn(len(test), generator=torch.Generator().manual_seed(0))
    read = read_predictions(test.with_predictions(values), name="mine")
    parts, counts = match_folds(read.rows, DATA, [FOLD], STRIDED, grace_ns=GRACE_NS)
    assert counts["test"] == counts["test_rows"] == counts["rows"] == len(test)
    assert np.array_equal(parts[0].test.prediction, values.numpy())
    with pytest.raises(ContractError, match=r"shape \(3,\), and this part of fold 0 has \d+ rows .*squeeze"):
        test.with_predictions([0.1, 0.2, 0.3])


def test_chronological_batches_never_go_back_and_read_every_row_once_in_a_stride_of_epochs() -> None:
    train = dataset_of("train", order="chronological")
    batches = train.batches()
    read: list[int] = []
    for _ in range(STRIDED.stride):
        epoch = [place for batch in batches for place in batch]
        assert np.all(np.diff(train.ts_open_ns[epoch]) >= 0)
        read += epoch
    assert sorted(read) == list(range(len(train)))
    again = train.batches()
    again.set_epoch(1)
    other = [place for batch in again for place in batch]
    assert other == [place for place in read if place in set(other)]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"fit.order is 'random' .*shuffled, chronological"):
        FitRule(order="random")  # type: ignore[arg-type]
    plain = RECIPE.to_plain()
    plain["fit"]["order"] = "random"
    with pytest.raises(SettingsError, match="does not fit"):
        recipe_from_plain(plain)
