"""Features of wider bars joined to narrower ones.

Features of wider bars are computed on those bars, by the same functions, and joined to the narrow clock as of each
close: the last wider bar that had closed by then, with its age. A panel holds each bar as it was knowable at its own
close plus the grace (`features.panel.panel.load_panel`), so the joined values were knowable at the narrow close plus
the same grace; later revisions are ignored, as for the narrow bars themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch

from features.feature import FeatureBlock
from features.panel.panel import Nanoseconds
from storage.clock import DAY_NS, NS
from storage.errors import ContractError


def newest_closed(ts_close_ns: Nanoseconds, wide_ts_close_ns: Nanoseconds) -> Nanoseconds:
    """Return for each close the index of the newest wider bar closed by then; -1 where there is none.

    >>> newest_closed(np.array([59, 60, 61, 120]), np.array([60, 120])).tolist()
    [-1, 0, 0, 1]
    """
    found: Nanoseconds = np.searchsorted(wide_ts_close_ns, ts_close_ns, side="right") - 1
    return found


def join_wider(block: FeatureBlock, wide: FeatureBlock) -> FeatureBlock:
    """Append the features of wider bars to a block.

    Args:
        block: features of narrow bars.
        wide: features of wider bars; instruments absent from it get masked values.

    Returns:
        The narrow block with each wide feature as `name@1h`, and `age@1h`, the number of narrow bars since that bar
        closed, which is known wherever a wide feature is.

    Raises:
        ContractError: the wide bars are not wider, or their width is not a multiple of the narrow one.
    """
    if wide.width_ns <= block.width_ns or wide.width_ns % block.width_ns:
        raise ContractError(
            f"bars of {width_name(wide.width_ns)} cannot be joined to bars of {width_name(block.width_ns)}",
            hint="join bars whose width is a whole multiple, such as 1h to 1m",
        )
    close_ns = block.ts_open_ns + block.width_ns
    newest = newest_closed(close_ns, wide.ts_open_ns + wide.width_ns)
    step = torch.from_numpy(np.maximum(newest, 0))
    place = {name: row for row, name in enumerate(wide.instruments)}
    row = torch.tensor([place.get(name, 0) for name in block.instruments])
    there = torch.tensor([name in place for name in block.instruments])[:, None] & torch.from_numpy(
        newest >= 0
    )
    mask = wide.mask[row[:, None], step] & there[..., None]
    values = torch.where(mask, wide.values[row[:, None], step], 0.0)

    wide_close_ns = wide.ts_open_ns[np.maximum(newest, 0)] + wide.width_ns
    age = torch.from_numpy(((close_ns - wide_close_ns) // block.width_ns).astype(np.float32))
    is_aged = mask.any(dim=2, keepdim=True)
    suffix = f"@{width_name(wide.width_ns)}"
    payload = f"{block.fingerprint} {wide.fingerprint}{suffix}"
    return replace(
        block,
        names=(*block.names, *(name + suffix for name in wide.names), "age" + suffix),
        values=torch.cat((block.values, values, torch.where(is_aged, age[None, :, None], 0.0)), 2),
        mask=torch.cat((block.mask, mask, is_aged), 2),
        fingerprint=hashlib.sha256(payload.encode()).hexdigest(),
        feature_set=f"{block.feature_set}+{wide.feature_set}{suffix}",
        lookback_bars=max(
            block.lookback_bars, (wide.lookback_bars + 2) * (wide.width_ns // block.width_ns) - 1
        ),
    )


def width_name(width_ns: int) -> str:
    """Format a width in the largest unit that divides it.

    >>> width_name(3_600_000_000_000)
    '1h'
    """
    for unit, size_ns in (("d", DAY_NS), ("h", 3600 * NS), ("m", 60 * NS)):
        if width_ns % size_ns == 0:
            return f"{width_ns // size_ns}{unit}"
    return f"{width_ns // NS}s"
