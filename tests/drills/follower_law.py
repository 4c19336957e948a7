"""Comparison of a follower with a later build, in a home in which anything may have been written in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import numpy as np
import torch

from features.build import build_features
from features.feature import deepest_lookback
from features.follow import Follower
from features.leakage.point_in_time import PointInTimeLake
from features.panel.panel import load_panel
from features.sets import columns_of, get_set
from features.store.manifest import StoreKey
from storage.clock import DAY_NS, NS, US_NS, floor_ns
from storage.lake.lake import Lake

_SET: Final = "candles"
_WIDTH_NS: Final = 60 * NS
_AFTER_NS: Final = 10 * NS
"""A follower looks this long after a bar's close and grace."""


def compare_follower(lake: Lake, spans: Iterable[tuple[int, int]], *, grace_ns: int) -> int:
    """Follow the bars of recordings, with the lake as it was known then, and compare with a build from the whole lake.

    Args:
        lake: holds the bars.
        spans: first and last receipt of each recording, in ns.
        grace_ns: wait after a bar's close.

    Returns:
        The number of bars that were compared.
    """
    compared, joined = 0, columns_of(get_set(_SET))
    for start_ns, last_ns in spans:
        closes = range(floor_ns(start_ns, _WIDTH_NS) + 2 * _WIDTH_NS, last_ns, _WIDTH_NS)
        times = [close_ns + grace_ns + _AFTER_NS for close_ns in closes]
        if len(times) < 2:
            continue
        views = [cast("Lake", PointInTimeLake(lake, at_ns)) for at_ns in times]
        # As a follower does, begin with the day of the first bar that was known then.
        [ends] = views[0].query("SELECT epoch_us(min(ts_open)) AS first_us FROM bars").to_pylist()
        follower = Follower.begin(views[0], StoreKey(_SET, "1m", grace_ns))
        begin_ns = floor_ns(ends["first_us"] * US_NS, DAY_NS)
        lookback_ns = deepest_lookback(get_set(_SET)) * _WIDTH_NS
        panel = load_panel(
            lake,
            width="1m",
            since_ns=max(begin_ns, follower.next_ns - 2 * lookback_ns),
            until_ns=closes[-1] + _WIDTH_NS,
            instruments=follower.instruments,
            joined=joined,
            grace_ns=grace_ns,
        )
        block = build_features(panel, _SET)
        for view in views:
            while (row := follower.step(view)) is not None:
                step = int(np.searchsorted(block.ts_open_ns, row.ts_open_ns))
                assert block.ts_open_ns[step] == row.ts_open_ns
                assert torch.equal(row.mask, block.mask[:, step])
                assert torch.equal(row.values, block.values[:, step])
                compared += 1
    return compared
