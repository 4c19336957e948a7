"""Bitwise comparison of feature values, and the errors that report a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor

from features.feature import Feature, evaluate
from features.inputs import InputView, leaves_of
from features.panel.panel import Panel
from storage.clock import iso
from storage.errors import LeakError

Results: TypeAlias = list[tuple[Tensor, Tensor]]
"""Value, (S, T) float64, and mask of each feature."""

ALL: Final = slice(0, None)


def evaluate_on(panel: Panel, features: Sequence[Feature]) -> Results:
    """Return value and mask of each feature on a panel, in float64, before rounding to float32."""
    return evaluate(InputView(leaves_of(panel)), features, shape=(panel.n_instruments, panel.n_steps))


def first_difference(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], seen: slice = ALL
) -> tuple[int, int] | None:
    """Return instrument and step of the earliest value in the steps `seen` whose bits or mask differ, if any."""
    bits_type = torch.int64 if before[0].dtype == torch.float64 else torch.int32
    bits = [value.contiguous().view(bits_type) for value in (before[0], after[0])]
    differs = ((bits[0] != bits[1]) | (before[1] != after[1]))[:, seen]
    if not bool(differs.any()):
        return None
    step, row = differs.t().nonzero()[0].tolist()
    return int(row), int(step) + (seen.start or 0)


def leak_error(check: str, item: Feature, panel: Panel, place: tuple[int, int], event: str) -> LeakError:
    """Return the error for a value that differs; it names the feature, the instrument and the bar.

    Args:
        check: name of the check that found it.
        item: the feature.
        panel: the panel to which `place` refers.
        place: instrument and step.
        event: the change that must not matter, such as "the panel was cut to steps 3 to 9".
    """
    row, step = place
    instrument, ts_open_ns = panel.instruments[row], int(panel.ts_open_ns[step])
    return LeakError(
        f"feature {item.name} of {instrument} moved at bar {iso(ts_open_ns)} (step {step}) when {event}",
        hint=f"it declares a lookback of {item.lookback_bars} bars of {', '.join(item.inputs)}; "
        "fix the function or its declaration",
        check=check,
        feature=item.name,
        instrument=instrument,
        ts_open_ns=ts_open_ns,
        step=step,
    )


def missed_canary_error(check: str, canary: str) -> LeakError:
    """Return the error for a check that did not catch its canary."""
    return LeakError(
        f"the proof is blind: its check of the {check} did not catch {canary}",
        hint="fix features/leakage/perturbation.py before anything else; until then nothing is proven",
        check=check,
        feature=canary,
    )
