"""Rows of a fold for the leak suite: labels at a shift, features and price history as tables.

Axes: S instruments, T steps; a row is one instrument at one step, numbered `s * T + t`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch

from training.data.folds import Fold, split_rows
from training.data.labels import Prices, prices_at_close
from training.data.panel import Normaliser
from training.models.baseline import BarRows
from training.night.artifacts import NightData
from training.night.fold_training import fit_normaliser, fold_rows
from training.night.scoring import night_phase
from training.recipe import Recipe

MOST_ROWS: Final = 10_000
"""Rows of one part of a fold that are used; of more, every n-th."""
_BLOCK_SPANS: Final = 2
_CLIP: Final = 10.0


def shifts_of(data: NightData) -> tuple[int, ...]:
    """Return the shifts in bars: labels that are over, half over, the row's own, and later ones."""
    enter, leave = span_bars(data)
    horizon = leave - enter
    return tuple(
        sorted({-leave - horizon, -leave, -enter - horizon // 2, 0, horizon, 2 * horizon, 4 * horizon})
    )


def span_bars(data: NightData) -> tuple[int, int]:
    """Return the bars from a row's close to the start and the end of its label's span."""
    close_ns, labels = data.panel.ts_close_ns[0], data.labels
    spans = (labels.ts_span_start_ns[0], labels.ts_span_end_ns[0])
    enter, leave = (int((at_ns - close_ns) // data.panel.width_ns) for at_ns in spans)
    return enter, leave


class LabelShiftRows:
    """Rows of one fold as tables of features and of price history."""

    def __init__(self, data: NightData, fold: Fold, recipe: Recipe) -> None:
        self.fold = fold
        self._data = data
        self._on_stride = torch.from_numpy(night_phase(data, recipe) == 0)
        self._prices = prices_at_close(data.panel)
        self.enter, self.leave = span_bars(data)
        self._horizon = self.leave - self.enter
        parts = split_rows(fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
        seen = fold_rows(data, parts, recipe).seen
        self._normaliser: Normaliser = fit_normaliser(data, seen)
        served = data.block.mask.any(dim=-1)
        # Of rows that teach, and of others.
        self._known = (served if data.lessons is None else data.lessons.block.mask.any(dim=-1), served)
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return self._data.block.names

    @property
    def block_steps(self) -> int:
        return _BLOCK_SPANS * self.leave

    def rows(self, bars: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the row numbers of train, valid and test whose label `bars` later is known, purged by its span."""
        if bars not in self._rows:
            self._rows[bars] = self._find_rows(bars)
        return self._rows[bars]

    def _find_rows(self, bars: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        labels, width_ns = self._data.labels, self._data.panel.width_ns
        parts = split_rows(self.fold, labels.ts_decided_ns, labels.ts_span_end_ns + bars * width_ns)
        found = []
        for steps, teaches in ((parts.train, True), (parts.valid, False), (parts.test, False)):
            lessons = self._data.teaching if teaches else self._data
            use = (
                torch.from_numpy(steps) if steps is parts.test else torch.from_numpy(steps) & self._on_stride
            )
            known = _ahead(lessons.labels.mask, bars, False) & self._known[0 if teaches else 1] & use
            index = torch.nonzero(known.flatten()).squeeze(-1)
            found.append(index[:: max(1, -(-len(index) // MOST_ROWS))])
        return found[0], found[1], found[2]

    def label(self, index: torch.Tensor, bars: int, *, teaches: bool) -> torch.Tensor:
        """Return the labels `bars` after some rows, (N,) float64."""
        labels = (self._data.teaching if teaches else self._data).labels
        return _ahead(labels.label, bars, 0.0).flatten()[index].to(torch.float64)

    def features(self, index: torch.Tensor, label: torch.Tensor, *, teaches: bool) -> BarRows:
        """Return the standardised features of rows."""
        block = (self._data.teaching if teaches else self._data).block
        values, mask = block.values.flatten(0, 1)[index], block.mask.flatten(0, 1)[index]
        return BarRows(
            self._normaliser.apply(values, mask), mask.to(torch.float32), torch.zeros(len(index)), label
        )

    def prices(self, index: torch.Tensor, label: torch.Tensor) -> BarRows:
        """Return returns up to each row's close over several windows, in units of its volatility."""
        n_steps, scale = self._data.panel.n_steps, self._data.labels.scale.flatten()[index]
        columns = []
        for window in price_windows(self._horizon):
            back = index - window
            change = _log_change(self._prices, index, back) / scale * math.sqrt(self._horizon / window)
            columns.append(torch.where(index % n_steps >= window, change, torch.nan))
        x = torch.stack(columns, dim=1)
        mask = torch.isfinite(x)
        x = torch.where(mask, x, 0.0).clamp(-_CLIP, _CLIP)
        return BarRows(x.to(torch.float32), mask.to(torch.float32), torch.zeros(len(index)), label)

    def steps(self, index: torch.Tensor) -> np.ndarray:
        found: np.ndarray = (index % self._data.panel.n_steps).numpy()
        return found

    def instruments(self, index: torch.Tensor) -> np.ndarray:
        found: np.ndarray = (index // self._data.panel.n_steps).numpy()
        return found


def price_windows(horizon: int) -> tuple[int, ...]:
    """Return the windows of price history in bars; their differences give each label that is over or half over."""
    return tuple(sorted({1, 2, 3, 4, 5, max(horizon // 2, 1), horizon - horizon // 2, horizon, 2 * horizon}))


def _log_change(prices: Prices, index: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    price, basis = prices.price.flatten(), prices.basis.flatten()
    before = back.clamp(min=0)
    change = torch.log(price[index] / price[before])
    return torch.where(basis[index] == basis[before], change, torch.nan)


def _ahead(values: torch.Tensor, bars: int, fill: float) -> torch.Tensor:
    """Return the values `bars` steps later, (S, T), with `fill` beyond the ends."""
    if bars == 0:
        return values
    moved = torch.full_like(values, fill)
    if abs(bars) < values.shape[1]:
        if bars > 0:
            moved[:, :-bars] = values[:, bars:]
        else:
            moved[:, -bars:] = values[:, :bars]
    return moved
