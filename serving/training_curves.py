"""Training curves of a night as TensorBoard scalars, one run per fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from storage.errors import SettingsError
from training.models.trainer import EpochLog

CURVES: Final = ("train_loss", "valid_loss", "valid_ic", "learning_rate")


class CurveWriter:
    """Writes the logs of validation points below a folder, which `tensorboard --logdir` reads.

    A point that is written again, by a night that was interrupted, replaces the one before.

    Args:
        folder: of the night's curves.

    Raises:
        SettingsError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise SettingsError(
                "training.curves is 'tensorboard', and tensorboardX is not installed",
                hint="pip install 'tickwalk[tensorboard]', or leave training.curves empty",
            ) from error
        self._make, self._folder = SummaryWriter, folder
        # Several fits train at once.
        self._writers: dict[str, Any] = {}

    def write(self, model: str, fold: int, log: EpochLog) -> None:
        """Write a validation point; the step is its epoch in hundredths."""
        step, name = round(100 * log.epoch), f"fold-{fold:02d}-{model}"
        if name not in self._writers:
            # TensorBoard drops points from this step on that an earlier process left.
            self._writers[name] = self._make(str(self._folder / name), purge_step=step)
        writer = self._writers[name]
        for curve in CURVES:
            value = getattr(log, curve)
            if math.isfinite(value):
                writer.add_scalar(curve, value, step)
        writer.flush()

    def __enter__(self) -> CurveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
