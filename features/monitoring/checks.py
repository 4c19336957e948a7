"""Limit checks of a feature block: refusals and warnings with their reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from features.feature import FeatureBlock
from features.monitoring.drift import Figures

PSI_SOME: Final = 0.1
PSI_MUCH: Final = 0.25
"""Population stability index that indicates a moderate or a large shift: the usual limits (Siddiqi, 2006, Credit Risk
Scorecards)."""
USUAL_TIMES: Final = 2.0
"""Drift is reported if it exceeds that of the training window's most distant quarter by this factor: features over
overlapping windows wander, and a limit for independent values would warn every night."""
DEAD_NULLS: Final = 0.95
"""A feature missing on at least this share of the watched bars is dead, if it was alive in training."""
ALIVE_NULLS: Final = 0.5
RESCALED_RANGES: Final = 10.0
"""A median that moved by more than this many widths (1st to 99th percentile in training) indicates another unit, not
another market."""


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """A refusal or warning about a feature.

    Args:
        verdict: `refuse`, or `warn`.
        feature: its name.
        instruments: affected instruments, worst first.
        what: the finding, with figures.
        reason: why it matters.
    """

    verdict: Literal["refuse", "warn"]
    feature: str
    instruments: tuple[str, ...]
    what: str
    reason: str


def find(block: FeatureBlock, figures: dict[str, Figures]) -> Iterator[HealthFinding]:
    """Yield the findings of a block.

    Args:
        block: features.
        figures: (F, S) for each figure of `FeatureHealth`, and for `nulls_trained`, `nulls_recent` (nulls in the
            training window and in the recent window) and `rescaled`.
    """
    if (steps := len(block.ts_open_ns)) <= block.lookback_bars:
        yield HealthFinding(
            "refuse",
            "every feature",
            block.instruments,
            f"is masked: the set has a lookback of {block.lookback_bars} bars, and the range has {steps}",
            "there is nothing to train on or to evaluate; use a longer range, or narrower bars",
        )
    unsound = ~torch.isfinite(block.values) | ((block.values != 0.0) & ~block.mask)
    for place, name in enumerate(block.names):
        of = {figure: numbers[place] for figure, numbers in figures.items()}
        finding = _finding_factory(name, block.instruments)
        bad = unsound[:, :, place].any(dim=1).cpu().numpy()
        if bad.any():
            yield finding(
                "refuse",
                bad,
                bad * 1.0,
                "has values that are not finite, or are not zero where masked",
                "a single NaN ruins a network's weights; no feature function may return one",
            )
        was_alive = of["nulls_trained"] <= ALIVE_NULLS
        died = was_alive & (of["nulls_recent"] >= DEAD_NULLS)
        if died.any():
            yield finding(
                "refuse" if 2 * died.sum() >= was_alive.sum() else "warn",
                died,
                of["nulls_recent"],
                f"is missing on {DEAD_NULLS:.0%} or more of the recent watched bars, but was known in training",
                "its source stopped: a model would be trained on data that it will not get any more",
            )
        rescaled = of["rescaled"] > RESCALED_RANGES
        if rescaled.any():
            yield finding(
                "refuse" if 2 * rescaled.sum() >= np.isfinite(of["psi"]).sum() else "warn",
                rescaled,
                of["rescaled"],
                f"moved by up to {np.nanmax(of['rescaled']):,.0f} times its whole range in training",
                "this indicates a change of unit at its source, not a change of the market",
            )
        yield from _warnings(of, finding, ~died & ~rescaled)


def _warnings(
    of: dict[str, Figures], finding: Callable[..., HealthFinding], left: npt.NDArray[np.bool_]
) -> Iterator[HealthFinding]:
    never = of["coverage"] == 0.0
    if never.any():
        yield finding(
            "warn",
            never,
            of["nulls"],
            "is never known",
            "the data lacks its inputs, or the range is too short; a model sees a column of zeros",
        )
    constant = of["constant"] > 0.0
    if constant.any():
        yield finding(
            "warn",
            constant,
            of["constant"],
            "never varies",
            "it carries no information, or its source is frozen",
        )
    judged = left & np.isfinite(of["psi"])
    drifted = judged & (of["psi"] > PSI_MUCH) & (of["psi"] > USUAL_TIMES * of["usual"])
    if drifted.any() and 2 * drifted.sum() >= judged.sum():
        worst = int(np.nanargmax(np.where(drifted, of["psi"], math.nan)))
        yield finding(
            "warn",
            drifted,
            of["psi"],
            f"drifted: PSI up to {of['psi'][worst]:.2f} (KS {of['ks'][worst]:.2f}), while no quarter of the training "
            f"window exceeded {of['usual'][worst]:.2f} against the whole",
            "the model has rarely seen such values; its test results may not apply to this market",
        )


def _finding_factory(name: str, instruments: tuple[str, ...]) -> Callable[..., HealthFinding]:
    """Return a function that creates findings about a feature, with instruments ordered by a figure."""

    def finding(
        verdict: Literal["refuse", "warn"], where: npt.NDArray[np.bool_], by: Figures, what: str, reason: str
    ) -> HealthFinding:
        order = sorted(np.flatnonzero(where).tolist(), key=lambda row: (-np.nan_to_num(by[row]), row))
        return HealthFinding(verdict, name, tuple(instruments[row] for row in order), what, reason)

    return finding
