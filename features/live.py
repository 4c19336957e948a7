"""Incremental features of the newest bar.

Live features are computed from stored history instead of from a window, so a step costs the same however long the
windows are and however long it has run. It is the build's program on blocks of one bar, and its values equal the
build's to the bit (tests/features/test_live.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from features.engine.checked import checked_program
from features.engine.stream_executor import StreamExecutor
from features.feature import Feature, deepest_lookback
from features.inputs import leaves_of
from features.panel.panel import Panel
from features.sets import get_set
from storage.clock import iso
from storage.errors import ContractError


@dataclass(frozen=True, slots=True, eq=False)
class LiveRow:
    """The features of one bar.

    Args:
        ts_open_ns: when the bar opened.
        values: (S, F) float32, 0.0 where invalid.
        mask: (S, F) bool, true where the value is known.
    """

    ts_open_ns: int
    values: Tensor
    mask: Tensor


class LiveFeatures:
    """Stateful features of S instruments, one bar at a time.

    Args:
        features: the set's features, in order.
        instruments: (S,) ids, in the order of every bar's panel.
        width_ns: width of a bar.
    """

    def __init__(self, features: tuple[Feature, ...], instruments: tuple[str, ...], width_ns: int) -> None:
        self._instruments, self._width_ns = instruments, width_ns
        program = checked_program(features)
        self._leaves, self._run = program.leaves, StreamExecutor(program, len(instruments))
        self._lookbacks = torch.tensor([item.lookback_bars for item in features])
        self._bars = 0
        self._next_ns: int | None = None

    @classmethod
    def after(cls, panel: Panel, feature_set: str) -> Self:
        """Return a state warmed up with the newest bars of a panel, as many as the set's lookback."""
        features = get_set(feature_set)
        live = cls(features, panel.instruments, panel.width_ns)
        for at in range(max(panel.n_steps - deepest_lookback(features), 0), panel.n_steps):
            live.step(panel.steps(at, at + 1))
        return live

    def step(self, bar: Panel) -> LiveRow:
        """Append the next bar and return its features.

        Every step of the clock must be given; a bar that nobody observed has the status `unknown`.

        Args:
            bar: a panel of one step.

        Raises:
            ContractError: the bar is not the next one, or has other instruments.
        """
        ts_open_ns = int(bar.ts_open_ns[0])
        if bar.instruments != self._instruments or bar.n_steps != 1:
            raise ContractError(
                f"a live step takes one bar of the {len(self._instruments)} instruments it began with, "
                f"not {bar.n_steps} of {bar.n_instruments}",
                hint="start a new state when instruments are added or removed",
            )
        if ts_open_ns != (self._next_ns if self._next_ns is not None else ts_open_ns):
            raise ContractError(
                f"the next bar opens at {iso(self._next_ns or 0)}, not at {iso(ts_open_ns)}",
                hint="pass every step of the clock once; one without rows has the status unknown",
            )
        with torch.inference_mode():
            leaves = leaves_of(bar)
            self._run.push([leaves[name] for name in self._leaves])
            found = torch.cat(self._run.raw(), 1).to(torch.float32)
            mask = torch.isfinite(found) & (self._bars >= self._lookbacks)
            values = torch.where(mask, found, 0.0)
        self._bars += 1
        self._next_ns = ts_open_ns + self._width_ns
        return LiveRow(ts_open_ns, values, mask)
