"""What a night shows of its fits while they train: fold, model, epoch, loss, IC and pace."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from training.models.trainer import EpochLog

_RECENT: Final = 20
"""Validation points over which the pace is measured."""


@dataclass(frozen=True, slots=True)
class FitPoint:
    """A fit at a validation point.

    Args:
        fold, folds: number of the fold, from 1, and of all.
        model: its name, with `+1` for the second seed.
        log: losses at the point.
        rows_per_s: rows trained per second lately, in all fits together; NaN until two points were passed.
    """

    fold: int
    folds: int
    model: str
    log: EpochLog
    rows_per_s: float

    @property
    def cells(self) -> tuple[str, ...]:
        """Fold, model, epoch, train loss, validation loss, IC, rows per second and the best epoch as text."""
        log = self.log
        return (
            f"{self.fold} of {self.folds}",
            self.model,
            f"{log.epoch:g}",
            _text(log.train_loss, ".5f"),
            _text(log.valid_loss, ".5f"),
            _text(log.valid_ic, "+.4f"),
            _text(self.rows_per_s, ",.0f"),
            f"{log.best_epoch:g}",
        )

    def __str__(self) -> str:
        fold, model, epoch, _, loss, ic, pace, best = self.cells
        return f"training fold {fold}: {model}, epoch {epoch}, loss {loss}, IC {ic}, {pace} rows/s, best epoch {best}"


class FitWatch:
    """Turns the logs of validation points into `FitPoint`s.

    Args:
        folds: of the night.
        clock: returns seconds.
    """

    def __init__(self, folds: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folds, self._clock = folds, clock
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def point(self, model: str, fold: int, log: EpochLog) -> FitPoint:
        """Return the point of a log; to be called when it was passed."""
        self._recent.append((self._clock(), log.rows))
        (first_s, first_rows), last_s = self._recent[0], self._recent[-1][0]
        rows = sum(count for _, count in self._recent) - first_rows
        pace = rows / (last_s - first_s) if last_s > first_s and rows else math.nan
        return FitPoint(fold + 1, self._folds, model, log, pace)


def _text(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
