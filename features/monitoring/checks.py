"""What do the limits say of a block: what refuses it, what does a person have to know, and why?"""

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
"""Population stability index from which on a distribution has shifted somewhat, or much: the usual limits
(Siddiqi, 2006, Credit Risk Scorecards)."""
USUAL_TIMES: Final = 2.0
"""A drift is told where it is so many times that of the training window's own farthest quarter: features of
overlapping windows wander, and a limit for independent values would warn every night."""
DEAD_NULLS: Final = 0.95
"""A feature that is missing on more of the bars that somebody watched is dead, where it was alive in training."""
ALIVE_NULLS: Final = 0.5
RESCALED_RANGES: Final = 10.0
"""A median that moved by more such widths (1st to 99th percentile in training) is another unit, not a market."""


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """Something that a limit says.

    Args:
        verdict: `refuse`, or `warn`.
        feature: which.
        instruments: on which of them, worst first.
        what: what was found, with figures.
        reason: why that matters.
    """

    verdict: Literal["refuse", "warn"]
    feature: str
    instruments: tuple[str, ...]
    what: str
    reason: str


def find(block: FeatureBlock, figures: dict[str, Figures]) -> Iterator[HealthFinding]:
    """Yield what the limits say of a block.

    Args:
        block: features.
        figures: (F, S) of each field of `FeatureHealth`, and `ago`, `of_late` (nulls in the training window, and in
            the newest share) and `rescaled`.
    """
    if (steps := len(block.ts_open_ns)) <= block.lookback_bars:
        yield HealthFinding(
            "refuse",
            "every feature",
            block.instruments,
            f"is masked: the set looks back on {block.lookback_bars} bars, and the range holds {steps}",
            "there is nothing to learn from or to judge; ask for a longer range, or for narrower bars",
        )
    unsound = ~torch.isfinite(block.values) | ((block.values != 0.0) & ~block.mask)
    for place, name in enumerate(block.names):
        of = {figure: numbers[place] for figure, numbers in figures.items()}
        told = _teller(name, block.instruments)
        bad = unsound[:, :, place].any(dim=1).cpu().numpy()
        if bad.any():
            yield told(
                "refuse",
                bad,
                bad * 1.0,
                "holds values that are not numbers, or are not zero where masked",
                "a network that meets NaN forgets everything; no function may let one out",
            )
        was_alive = of["ago"] <= ALIVE_NULLS
        died = was_alive & (of["of_late"] >= DEAD_NULLS)
        if died.any():
            yield told(
                "refuse" if 2 * died.sum() >= was_alive.sum() else "warn",
                died,
                of["of_late"],
                f"is missing on {DEAD_NULLS:.0%} or more of the watched bars of late, and was there in training",
                "its source stopped: a model would learn from what it will never see again",
            )
        rescaled = of["rescaled"] > RESCALED_RANGES
        if rescaled.any():
            yield told(
                "refuse" if 2 * rescaled.sum() >= np.isfinite(of["psi"]).sum() else "warn",
                rescaled,
                of["rescaled"],
                f"moved by up to {np.nanmax(of['rescaled']):,.0f} times all that training saw of it",
                "that is another unit at its source, not another market",
            )
        yield from _warnings(of, told, ~died & ~rescaled)


def _warnings(
    of: dict[str, Figures], told: Callable[..., HealthFinding], left: npt.NDArray[np.bool_]
) -> Iterator[HealthFinding]:
    never = of["coverage"] == 0.0
    if never.any():
        yield told(
            "warn",
            never,
            of["nulls"],
            "is never known",
            "the data does not carry what it reads, or the range is too short; it is a column of zeros to a model",
        )
    constant = of["constant"] > 0.0
    if constant.any():
        yield told(
            "warn", constant, of["constant"], "never varies", "it teaches nothing, or its source is frozen"
        )
    judged = left & np.isfinite(of["psi"])
    drifted = judged & (of["psi"] > PSI_MUCH) & (of["psi"] > USUAL_TIMES * of["usual"])
    if drifted.any() and 2 * drifted.sum() >= judged.sum():
        worst = int(np.nanargmax(np.where(drifted, of["psi"], math.nan)))
        yield told(
            "warn",
            drifted,
            of["psi"],
            f"drifted: PSI up to {of['psi'][worst]:.2f} (KS {of['ks'][worst]:.2f}), where no quarter of the training "
            f"window was further than {of['usual'][worst]:.2f} from the whole",
            "the model meets what it has seldom seen; its test figures may be of another market",
        )


def _teller(name: str, instruments: tuple[str, ...]) -> Callable[..., HealthFinding]:
    """Return a function that makes findings about a feature, the instruments ordered by a figure."""

    def told(
        verdict: Literal["refuse", "warn"], where: npt.NDArray[np.bool_], by: Figures, what: str, reason: str
    ) -> HealthFinding:
        order = sorted(np.flatnonzero(where).tolist(), key=lambda row: (-np.nan_to_num(by[row]), row))
        return HealthFinding(verdict, name, tuple(instruments[row] for row in order), what, reason)

    return told
