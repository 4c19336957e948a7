"""Test of a lineage's history: is the mean net of its path more than luck among the paths of all models?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.clock import DAY_NS
from training.evaluation.e_process import LOSS_SHARE
from training.evaluation.multiple_testing import DRAWS, MeanTest, block_length, detectable_sharpe, step_down
from training.evaluation.period_net import PeriodNet

_YEAR_NS: Final = 365 * DAY_NS


@dataclass(frozen=True, slots=True)
class HistoryTest:
    """Test of a path's history among the paths of all models.

    Args:
        p_value: adjusted for all models; `None` where the history is too short for a test.
        statistic: t-statistic of the path; NaN without a test.
        periods, blocks: of the history.
        detectable_sharpe: smallest annualised Sharpe ratio that it would have found with 80% power; infinite without
            a test.
    """

    p_value: float | None
    statistic: float
    periods: int
    blocks: int
    detectable_sharpe: float


def judge_history(
    path: PeriodNet, members: np.ndarray, *, least_block: int, alpha: float, draws: int = DRAWS, seed: int = 0
) -> HistoryTest:
    """Test the mean net of a path among the paths of all models.

    The error of the path's mean is at least what its positions risked on earlier prices, so that a history which was
    spared a known loss is no proof.

    Args:
        path: of the lineage; or its difference from the champion's, with the risk of the lineage's positions.
        members: (P, K) net of each model in the same periods; K may be 0.
        least_block: periods that horizon and holding cover together.
        alpha: level of the lineage, half of which the history may spend.
        draws: resamples of the bootstrap.
        seed: of the bootstrap.
    """
    count = len(path)
    test = _test_path(path, members, least_block=least_block, draws=draws, seed=seed)
    per_year = _YEAR_NS / path.period_ns
    return HistoryTest(
        p_value=float(test.p_values[-1]) if test.is_possible else None,
        statistic=float(test.statistics[-1]),
        periods=count,
        blocks=test.blocks,
        detectable_sharpe=detectable_sharpe(test, path.net, level=alpha / 2, per_year=per_year),
    )


def _test_path(path: PeriodNet, members: np.ndarray, *, least_block: int, draws: int, seed: int) -> MeanTest:
    count = len(path)
    returns = np.concatenate(
        [members.reshape(count, math.prod(members.shape[1:])), path.net[:, None]], axis=1
    )
    floor = np.zeros(returns.shape[1])
    if count:
        ahead = np.maximum(path.volatility, LOSS_SHARE * path.worst_loss)
        floor[-1] = math.sqrt(float((ahead**2).mean()) / count)
    return step_down(
        returns, block=block_length(count, least=least_block), floor=floor, draws=draws, seed=seed
    )
