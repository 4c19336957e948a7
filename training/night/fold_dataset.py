"""Rows of a night's fold as map-style torch datasets, for models that are trained elsewhere.

A dataset has the rows, windows, masks and labels that the night's own models read: purged, embargoed, and standardised
by the fold's normaliser, which is fitted to its train rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset, Sampler

from storage.errors import CheckpointError, ContractError, SettingsError
from training.data.folds import TimeSpan, split_rows
from training.data.panel import Normaliser
from training.models.device import derive_seed
from training.models.estimators import FoldContext
from training.models.fit_rule import FitRule
from training.models.trainer import epoch_batches
from training.night.artifacts import NightArtifacts, NightData
from training.night.fold_training import FoldRows, fit_normaliser, fold_rows
from training.night.preparation import read_fold
from training.night.scoring import make_fold_context

Part = Literal["train", "valid", "test"]
Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
_PARTS: Final[tuple[Part, ...]] = ("train", "valid", "test")
_CPU: Final = torch.device("cpu")


class FoldDataset(Dataset[Sample]):
    """Rows of one part of a fold: (window, mask, label, weight) each.

    - window: (W, F) float32, oldest bar first; standardised and clipped, 0 where masked.
    - mask: (W, F) bool, the feature was valid.
    - label: () float32, in units of its volatility; 0 where it was not observed.
    - weight: () float32, 1 where the label was observed, else 0; every train and valid row has 1.

    W bars of the recipe's `window_bars`, F features of its feature set.
    """

    def __init__(
        self,
        context: FoldContext,
        index: torch.Tensor,
        *,
        rule: FitRule,
        fold: int,
        ts_decided_ns: np.ndarray,
        instruments: tuple[str, ...],
    ) -> None:
        """Read some rows of a fold; `NightFold.dataset` makes one of these.

        Args:
            context: windows and labels of the fold, on the CPU.
            index: (N,) int64 row numbers.
            rule: batch size and order of `batches`.
            fold: its index.
            ts_decided_ns: (T,) time of the decision of each step.
            instruments: (S,) ids.
        """
        self._context, self._index, self._rule, self.fold = context, index, rule, fold
        rows = context.rows(index)
        self._label = torch.where(rows.mask, rows.label, 0.0).to(torch.float32)
        self._weight = rows.mask.to(torch.float32)
        step = (index % context.windows.n_steps).numpy()
        self.instruments = instruments
        self.instrument = (index // context.windows.n_steps).numpy() % len(instruments)
        self.ts_open_ns: np.ndarray = context.ts_open_ns[step]
        self.ts_decided_ns: np.ndarray = ts_decided_ns[step]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, place: int) -> Sample:
        window, mask, label, weight = self.batch(torch.as_tensor(place).reshape(1))
        return window[0], mask[0], label[0], weight[0]

    def __getitems__(self, places: Sequence[int]) -> list[Sample]:
        """Return several rows by one gather; a `DataLoader` calls this for a batch."""
        return list(zip(*self.batch(torch.as_tensor(places)), strict=True))

    def batch(self, places: torch.Tensor) -> Sample:
        """Return rows as one batch: window and mask (B, W, F), label and weight (B,).

        Args:
            places: (B,) int64, from 0 to `len(self) - 1`.
        """
        window, mask = self._context.windows.batch(self._index[places])
        return window, mask > 0, self._label[places], self._weight[places]

    def batches(self, *, seed: int = 0, batch: int | None = None) -> EpochBatches:
        """Return the batches of an epoch as a night trains them, for `DataLoader(..., batch_sampler=...)`.

        Each iteration is the next epoch: its phase of the recipe's stride, in the recipe's order (`fit.order`).

        Args:
            seed: of a shuffled order; `NightFold.order_seed` has that of the night's own fits.
            batch: rows of a batch (default: `fit.batch` of the recipe).
        """
        return EpochBatches(self, seed=seed, batch=batch)

    def rows(self) -> pa.Table:
        """Return the rows as a table: `instrument`, `ts_open`, `ts_decided` (UTC), `fold`, `label` (null where it was
        not observed).
        """
        observed = self._weight.numpy() > 0
        return self._places().append_column("label", pa.array(self._label.numpy(), mask=~observed))

    def with_predictions(self, prediction: Any) -> pa.Table:
        """Return the rows with predictions, as a table for `tickwalk judge`.

        Args:
            prediction: (N,) numbers in the order of the rows: a tensor, an array or a list.

        Raises:
            ContractError: there is not one prediction per row.
        """
        found = torch.as_tensor(prediction).detach().cpu().to(torch.float64).numpy()
        if found.shape != (len(self),):
            raise ContractError(
                f"predictions have the shape {found.shape}, and this part of fold {self.fold} has {len(self)} rows",
                hint="predict the rows in order, without a shuffle, and squeeze the result to one dimension",
            )
        return self._places().drop_columns("ts_decided").append_column("prediction", pa.array(found))

    def _places(self) -> pa.Table:
        names = pa.DictionaryArray.from_arrays(
            pa.array(self.instrument, pa.int32()), pa.array(self.instruments)
        )
        return pa.table(
            {
                "instrument": names.cast(pa.string()),
                "ts_open": pa.array(self.ts_open_ns, pa.timestamp("ns", "UTC")),
                "ts_decided": pa.array(self.ts_decided_ns, pa.timestamp("ns", "UTC")),
                "fold": pa.array(np.full(len(self), self.fold), pa.int32()),
            }
        )


class EpochBatches(Sampler[list[int]]):
    """Batches of places in a dataset, by epoch; see `FoldDataset.batches`."""

    def __init__(self, dataset: FoldDataset, *, seed: int, batch: int | None) -> None:
        """Begin with epoch 0."""
        self._rows = dataset._context.rows(dataset._index)
        self._rule = dataset._rule if batch is None else replace(dataset._rule, batch=batch)
        self._n_steps, self._seed, self._epoch = dataset._context.windows.n_steps, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Make an epoch the next one."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of the next epoch."""
        return -(-len(self._rows.of_epoch(self._epoch)) // self._rule.batch)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the next epoch."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        for places in epoch_batches(
            self._rows, self._rule, epoch=epoch, seed=self._seed, n_steps=self._n_steps
        ):
            yield places.tolist()


class NightFold:
    """One fold of a night.

    Its attributes: `index`; `train`, `valid` and `test`, each with `start_ns` and `stop_ns` of the decisions.
    """

    def __init__(self, folder: NightArtifacts, entry: dict[str, Any]) -> None:
        """Read a fold; `NightDetails.fold` makes one of these.

        Args:
            folder: of the night.
            entry: of `folds.json`.
        """
        self._folder, self._entry = folder, entry
        self._fold = read_fold(entry)
        self._loaded: tuple[NightData, FoldRows, FoldContext] | None = None

    @property
    def index(self) -> int:
        """Its place in the night."""
        return self._fold.index

    @property
    def train(self) -> TimeSpan:
        """Time of the train window."""
        return self._fold.train

    @property
    def valid(self) -> TimeSpan:
        """Time of the validation window."""
        return self._fold.valid

    @property
    def test(self) -> TimeSpan:
        """Time of the test window."""
        return self._fold.test

    def __repr__(self) -> str:
        """Return night and index."""
        return f"NightFold({self._folder.path.name!r}, {self.index})"

    def dataset(self, part: Part) -> FoldDataset:
        """Return a part's rows as a torch dataset.

        `train` has every labelled row, of all phases of a stride; `batches` of the dataset reads them as the night
        does. `valid` has the rows that choose the best epoch. `test` has every row on which a live system would have
        decided, also those whose label was not observed. A model that is evaluated on them is a trial of the home:
        record it with `tickwalk.record_trial` (docs/gate.md).

        Args:
            part: `train`, `valid` or `test`.

        Raises:
            SettingsError: there is no such part.
            CheckpointError: this release makes other rows than the one that planned the night.
        """
        if part not in _PARTS:
            raise SettingsError(f"a fold has no part {part!r}", hint=f"use one of: {', '.join(_PARTS)}")
        data, rows, context = self._load()
        return FoldDataset(
            context,
            {"train": rows.seen, "valid": rows.valid, "test": rows.test}[part],
            rule=self._folder.recipe.fit,
            fold=self.index,
            ts_decided_ns=data.labels.ts_decided_ns,
            instruments=data.panel.instruments,
        )

    @property
    def normaliser(self) -> Normaliser:
        """Mean, deviation and clip of each feature, from the fold's train rows; the datasets have applied it."""
        return self._load()[2].normaliser

    def order_seed(self, model: str, number: int = 0) -> int:
        """Return the seed of the order of rows in the night's own fit of a network and seed."""
        fit = derive_seed(self._folder.facts["seed"], model, self._fold.test.start_ns, number)
        return derive_seed(fit, "order")

    def _load(self) -> tuple[NightData, FoldRows, FoldContext]:
        """Return data, rows and windows of the fold, read once."""
        if self._loaded is None:
            data, recipe = self._folder.read_data(), self._folder.recipe
            parts = split_rows(self._fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
            rows = fold_rows(data, parts, recipe)
            found = {name: len(getattr(rows, name)) for name in _PARTS}
            planned = {name: self._entry["rows"][name] for name in _PARTS}
            if found != planned:
                raise CheckpointError(
                    f"fold {self.index} of night {self._folder.path.name} has {found} rows by this release, and "
                    f"{planned} by the one that planned it",
                    hint="open a new night: tickwalk nightly",
                )
            context = make_fold_context(data, fit_normaliser(data, rows.seen), recipe, _CPU)
            self._loaded = data, rows, context
        return self._loaded
