"""Order of the training rows of a network within an epoch.

`shuffled` draws a new order in every epoch from the seed. `chronological` reads the rows of an epoch by the time of
their decision, all instruments of a bar in the order of the panel, so that no batch is older than the one before it.
With a stride, either order is that of the epoch's own rows: one bar of each `stride`, a different one in the next epoch
(training/data/stride.py). So after `stride` epochs every row has been read once, in as many passes through time. In
chronological order the seed decides the first weights and dropout only.
"""

from __future__ import annotations

from typing import Final, Literal

import torch

from training.models.device import derive_seed

RowOrder = Literal["shuffled", "chronological"]
ROW_ORDERS: Final[tuple[RowOrder, ...]] = ("shuffled", "chronological")


def order_rows(
    chosen: torch.Tensor, index: torch.Tensor, *, order: RowOrder, n_steps: int, epoch: int, seed: int
) -> torch.Tensor:
    """Return the rows of an epoch in the order in which they train.

    Args:
        chosen: (M,) int64 on the CPU, positions of the epoch's rows in `index`, ascending.
        index: (N,) int64, row numbers `s * n_steps + t` (training/data/panel.py), on any device.
        order: see above.
        n_steps: T.
        epoch, seed: of the draw.

    Returns:
        (M,) int64, positions in `index`, on its device.
    """
    if order == "chronological":
        step = index.cpu()[chosen] % n_steps
        return chosen[torch.sort(step, stable=True).indices].to(index.device)
    draw = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
    return chosen[torch.randperm(len(chosen), generator=draw)].to(index.device)
