"""Weights of rows by the uniqueness of their labels.

Labels of neighbouring steps share most of their returns. The uniqueness of a label is the mean, over the bars of its
span, of one divided by the number of labels whose spans cover that bar (Lopez de Prado, Advances in Financial Machine
Learning, 2018, chapter 4). Rows at the edges of gaps share less and weigh more.
"""

from __future__ import annotations

import torch


def uniqueness_weights(labelled: torch.Tensor, horizon_bars: int) -> torch.Tensor:
    """Return the weight of each row, with mean 1 over labelled rows and 0 elsewhere.

    A span has `horizon_bars` one-bar returns, and starts equally late after each step, so the delay of the entry
    changes nothing. Labels of different instruments count as unique.

    Args:
        labelled: (S, T) bool, rows that are used together.
        horizon_bars: bars from entry to exit, from 1.

    Returns:
        (S, T) float32.
    """
    flags = labelled.to(torch.float64)
    padding = torch.zeros(len(flags), horizon_bars, dtype=torch.float64)

    def sums(values: torch.Tensor, *, stop: int) -> torch.Tensor:
        """Return sums of `horizon_bars` values, of which the last is at steps 0 .. stop."""
        total = torch.cumsum(torch.cat((padding, values), dim=1), dim=1)
        return total[:, horizon_bars : horizon_bars + stop] - total[:, :stop]

    n_steps = flags.shape[1]
    # The span of step t covers bars t .. t + horizon - 1, counted from its entry.
    covering = sums(torch.cat((flags, padding), dim=1), stop=n_steps + horizon_bars)
    inverse = torch.where(covering > 0.5, 1.0 / covering.clamp(min=1.0), 0.0)
    shared = sums(inverse, stop=n_steps + horizon_bars)[:, horizon_bars - 1 : horizon_bars - 1 + n_steps]
    weight = shared / horizon_bars * flags
    # The mean of the used rows alone: its bits do not depend on the bars around them.
    used = weight[labelled]
    return (weight / used.mean() if len(used) else weight).to(torch.float32)
