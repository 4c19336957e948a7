"""A small random panel, on which compiled programs are compared with torch."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from features.inputs import LEADERS
from features.panel.panel import AMOUNTS, COLUMNS, PRINTED, Panel
from storage.clock import NS
from storage.contracts.tables import SESSIONS, STATUSES

SAMPLE_INSTRUMENTS: Final = 4


def sample_panel(steps: int) -> Panel:
    """Return a random panel in which every input occurs: most bars printed, some quiet, some missing.

    It has both leaders among its instruments and both cadences among its books.
    """
    random = torch.Generator().manual_seed(0)
    shape = (SAMPLE_INSTRUMENTS, steps)
    values = {name: torch.exp(torch.randn(shape, generator=random, dtype=torch.float64)) for name in COLUMNS}
    drawn = torch.rand(shape, generator=random)
    for name in AMOUNTS:
        values[name][drawn > 0.98] = 0.0
    values["ask"] = values["bid"] * (1.0 + values["ask"] / 1_000.0)
    values["book_cadence_ms"] = torch.tensor([[500.0], [5_000.0]] * 2, dtype=torch.float64).expand(shape)
    values["session"] = torch.floor(len(SESSIONS) * torch.rand(shape, generator=random, dtype=torch.float64))
    status = torch.full(shape, PRINTED, dtype=torch.uint8)
    status[drawn < 0.2] = STATUSES.index("quiet")
    status[drawn < 0.02] = STATUSES.index("blind")
    clock = 60 * NS * np.arange(steps, dtype=np.int64)
    names = tuple(f"hyperliquid|perp|{name}" for name in (*LEADERS.values(), "0", "1"))
    return Panel(names, 60 * NS, clock, values, status)
