"""How a network is trained: the table `fit` of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from storage.errors import SettingsError
from training.models.losses import LOSSES, LossName
from training.models.rate_schedule import RATE_SCHEDULES, RateSchedule, rate_factor
from training.models.row_order import ROW_ORDERS, RowOrder


@dataclass(frozen=True, slots=True)
class FitRule:
    """How a network is trained.

    Args:
        epochs: upper limit.
        batch: rows per step.
        learning_rate: of AdamW, the largest of the schedule.
        weight_decay: of AdamW.
        clip_norm: largest norm of a step's gradient.
        checks: validations per epoch, at equal distances; one more comes before the first step.
        patience: epochs without a better validation loss before training stops.
        huber_delta: label size, in volatilities, beyond which the loss `huber` is linear.
        order: of the training rows within an epoch: `shuffled`, drawn anew in each epoch, or `chronological`, by the
            time of the decision; with a stride, each epoch reads its own rows, one bar of each `stride`, in this order.
        loss: `huber`; `ic`: correlation over the batch, with the relative squared error for the scale; `time_ic`: the
            same with the mean correlation within each time, which needs the order `chronological`; `r2`: squared error
            relative to that of zero; `quantiles`: pinball loss of the quantiles 0.05, 0.5 and 0.95.
        schedule: of the learning rate after the warm-up: `constant`, or `cosine` down to `final_rate` at the end.
        warmup_epochs: epochs, or parts of one, over which the learning rate rises from 1 % to `learning_rate`.
        final_rate: learning rate at the end of the cosine, as a share of `learning_rate`.
        bfloat16: compute in bf16 on a CUDA GPU, with weights in float32; the CPU always computes in float32.
        cuda_graphs: replay each step as one CUDA graph on a GPU.
    """

    epochs: int = 12
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    checks: int = 4
    patience: int = 3
    huber_delta: float = 1.0
    order: RowOrder = "shuffled"
    loss: LossName = "huber"
    schedule: RateSchedule = "constant"
    warmup_epochs: float = 0.0
    final_rate: float = 0.05
    bfloat16: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if (
            self.epochs < 1
            or self.batch < 1
            or self.checks < 1
            or self.patience < 1
            or not 0 < self.learning_rate < math.inf
            or self.clip_norm <= 0
        ):
            raise SettingsError(
                f"fit rule {self} is out of range",
                hint="epochs, batch, checks and patience from 1; learning_rate and clip_norm above 0",
            )
        named: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
            ("order", self.order, ROW_ORDERS),
            ("loss", self.loss, LOSSES),
            ("schedule", self.schedule, RATE_SCHEDULES),
        )
        for key, value, allowed in named:
            if value not in allowed:
                raise SettingsError(f"fit.{key} is {value!r}", hint=f"use one of: {', '.join(allowed)}")
        if not 0 <= self.warmup_epochs < self.epochs or not 0 <= self.final_rate <= 1:
            raise SettingsError(
                f"fit.warmup_epochs is {self.warmup_epochs} and fit.final_rate {self.final_rate}",
                hint=f"warmup_epochs is from 0 and below epochs, 0 .. {self.epochs}; final_rate lies in 0 .. 1",
            )
        if self.loss == "time_ic" and self.order != "chronological":
            raise SettingsError(
                "fit.loss is 'time_ic', and a shuffled batch has few rows of one time",
                hint='set fit.order = "chronological", or use the loss ic',
            )

    def rate_at(self, epoch: float) -> float:
        """Return the learning rate of the step that comes after `epoch` epochs, in parts of an epoch."""
        return self.learning_rate * rate_factor(
            self.schedule,
            epoch,
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            final=self.final_rate,
        )
