"""Feature declarations and blocks of computed features.

A feature is a small pure torch function over inputs (features/inputs.py). It returns float64 of shape (S, T),
or (T,) where it reads only the clock, with NaN where the value is unknown. Its declaration gives the lookback,
unit and source; its docstring gives the formula and how missing bars affect it:

    @feature(lookback_bars=0, inputs=("bid", "ask"), unit="bp", source="...")
    def relative_spread(bid: Tensor, ask: Tensor) -> Tensor:
        '''Spread of the best quotes, over their mid.

        Formula: 1e4 (ask - bid) / mid

        Missing: where a side is missing.
        '''
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.inputs import INPUTS, InputView, lookback_of, reads_clock

_SECTIONS: Final = ("Formula", "Missing")


@dataclass(frozen=True, slots=True)
class Feature:
    """One declared feature.

    Args:
        name: unique among all features; a family's members end in their window.
        function: called with the tensors of `inputs` in order, then `params`; pure and backward-looking.
        inputs: names in `features.inputs.INPUTS`.
        own_lookback_bars: number of earlier bars that the function itself reads.
        unit: of the value.
        source: paper or venue documentation.
        summary, formula, missing: from the docstring.
        params: keyword arguments of `function`.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    own_lookback_bars: int
    unit: str
    source: str
    summary: str
    formula: str
    missing: str
    params: tuple[tuple[str, int], ...] = ()

    @property
    def lookback_bars(self) -> int:
        """Number of earlier bars that can affect a value, including the lookback of the inputs."""
        return self.own_lookback_bars + lookback_of(self.inputs)

    @property
    def is_clock(self) -> bool:
        """Whether an input is derived from the clock."""
        return reads_clock(self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBlock:
    """Computed features of S instruments on T steps.

    Args:
        names: (F,) names, in the order of the set.
        values: (S, T, F) float32, 0.0 where invalid.
        mask: (S, T, F) bool, true where the value is known.
        instruments: (S,) ids.
        width_ns: width of a bar.
        ts_open_ns: (T,) int64, increasing by `width_ns`.
        fingerprint: version of the code that computed it (`features.versioning.fingerprint`).
        feature_set: name of the set.
        lookback_bars: the deepest lookback of the set; earlier steps of the panel are invalid.
    """

    names: tuple[str, ...]
    values: Tensor
    mask: Tensor
    instruments: tuple[str, ...]
    width_ns: int
    ts_open_ns: npt.NDArray[np.int64]
    fingerprint: str
    feature_set: str = ""
    lookback_bars: int = 0


def feature(
    *, lookback_bars: int, inputs: tuple[str, ...], unit: str, source: str
) -> Callable[[Callable[..., Tensor]], Feature]:
    """Declare a function as a feature with the function's name.

    Args:
        lookback_bars: number of earlier bars that the function reads of its inputs.
        inputs: names in `features.inputs.INPUTS`, in the order of the function's arguments.
        unit, source: as in `Feature`.

    Raises:
        ValueError: an input does not exist, or the docstring lacks its formula or missing policy.
    """

    def declare(function: Callable[..., Tensor]) -> Feature:
        return _declare(function.__name__, function, lookback_bars, inputs, unit, source, ())

    return declare


def family(
    *,
    bars: Iterable[int],
    lookback_bars: Callable[[int], int],
    inputs: tuple[str, ...],
    unit: str,
    source: str,
) -> Callable[[Callable[..., Tensor]], dict[int, Feature]]:
    """Declare one feature per window; the function receives the window as `bars`.

    Args:
        bars: the windows; each gives a feature named `NAME_WINDOW`.
        lookback_bars: maps a window to the number of earlier bars that the function reads of its inputs.
        inputs, unit, source: as in `feature`.

    Returns:
        A decorator, which returns the features by window.
    """

    def declare(function: Callable[..., Tensor]) -> dict[int, Feature]:
        return {
            n: _declare(
                f"{function.__name__}_{n}", function, lookback_bars(n), inputs, unit, source, (("bars", n),)
            )
            for n in bars
        }

    return declare


def deepest_lookback(features: Iterable[Feature]) -> int:
    """Return the largest lookback of these features, in bars."""
    return max(item.lookback_bars for item in features)


def evaluate(
    view: InputView, features: Iterable[Feature], *, shape: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """Compute value and mask of each feature.

    A step whose lookback reaches before the start of the panel is invalid, so that no value depends on where the panel
    begins: the last bar of a short and of a long panel agree to the bit, or the short one's is invalid.

    Args:
        view: the inputs.
        shape: (S, T) of the panel.

    Returns:
        For each feature its value, (S, T) float64, 0.0 where invalid, and its mask, (S, T) bool.
    """
    results = []
    for item in features:
        raw = item.function(*(view[name] for name in item.inputs), **dict(item.params)).expand(shape)
        step = torch.arange(shape[1], device=raw.device)
        # Blocks are stored as float32, so a value that overflows float32 is invalid.
        mask = torch.isfinite(raw.to(torch.float32)) & (step >= item.lookback_bars)
        results.append((torch.where(mask, raw, 0.0), mask))
    return results


def _declare(
    name: str,
    function: Callable[..., Tensor],
    lookback_bars: int,
    inputs: tuple[str, ...],
    unit: str,
    source: str,
    params: tuple[tuple[str, int], ...],
) -> Feature:
    if unknown := [item for item in inputs if item not in INPUTS]:
        raise ValueError(f"feature {name} reads {unknown[0]!r}, which is none of {', '.join(INPUTS)}")
    if lookback_bars < 0:
        raise ValueError(f"feature {name} declares a lookback of {lookback_bars} bars; a feature looks back")
    paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(function) or "").split("\n\n")]
    sections = {}
    for section in _SECTIONS:
        found = [part for part in paragraphs if part.startswith(f"{section}:")]
        if not found:
            raise ValueError(f"feature {name} has no paragraph '{section}: ...' in its docstring")
        sections[section] = found[0].removeprefix(f"{section}:").strip()
    return Feature(
        name=name,
        function=function,
        inputs=inputs,
        own_lookback_bars=lookback_bars,
        unit=unit,
        source=source,
        summary=paragraphs[0],
        formula=sections["Formula"],
        missing=sections["Missing"],
        params=params,
    )
