"""What are the features of a panel, where most of its days were built before?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from features.days import Day, Days, index_of, most_days, runs
from features.panel import Panel
from features.sets import fingerprint, get_set
from features.spec import FeatureBlock
from features.upkeep import LIMIT_BYTES, trim_days
from storage.clock import DAY_NS, floor_ns
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)


def built_block(
    root: Path, panel: Panel, feature_set: str, *, limit_bytes: int = LIMIT_BYTES
) -> FeatureBlock:
    """Return what `build_features` returns of a panel, to the bit, building only the days that are not there yet.

    Several processes may do so at once: each writes whole files under names that tell what is in them.

    Args:
        root: the home's folder of features (`Settings.features_dir`).
        panel: (S, T), on the CPU.
        feature_set: name in `features.sets.FEATURE_SETS`.
        limit_bytes: what days that no store names may take on the disk.

    Raises:
        SettingsError: there is no such set.
    """
    days, features = Days.of(root, feature_set, panel.width_ns), get_set(feature_set)
    shape = (panel.n_instruments, panel.n_steps, len(features))
    made = FeatureBlock(
        names=tuple(item.name for item in features),
        values=torch.empty(shape, dtype=torch.float32),
        mask=torch.empty(shape, dtype=torch.bool),
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        fingerprint=fingerprint(features),
        feature_set=feature_set,
        lookback_bars=max(item.lookback_bars for item in features),
    )
    first_ns, stop_ns = (int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1])) if panel.n_steps else (0, 0)
    asked = [days.look(panel, at) for at in range(floor_ns(first_ns, DAY_NS), stop_ns, DAY_NS)]
    missing = [day for day in asked if not _take(days, day, made)]
    keep = _keeper(days)
    for run in runs(missing, most_days(panel.width_ns, panel.n_instruments)):
        for day, part in days.build(panel, run):
            _place(made, day, part, days)
            keep(day, part)
    logger.info("features put together", feature_set=feature_set, days=len(asked), built=len(missing))
    if missing:
        trim_days(root, limit_bytes=limit_bytes, keep={days.folder / day.file for day in asked})
    return made


def _take(days: Days, day: Day, made: FeatureBlock) -> bool:
    """Put a day that was built before into a block; say whether there was one."""
    if not days.has(day.file):
        return False
    try:
        part = days.read(day.file)
    except ContractError:
        return False
    names = tuple(made.instruments[row] for row in day.rows)
    told = (part.instruments, part.fingerprint, part.names, part.width_ns)
    if told != (names, made.fingerprint, made.names, made.width_ns):
        return False
    _place(made, day, part, days)
    return True


def _place(made: FeatureBlock, day: Day, part: FeatureBlock, days: Days) -> None:
    """Put a day into a block; instruments without bars get what they would get."""
    start = int(np.searchsorted(made.ts_open_ns, part.ts_open_ns[0]))
    cut = slice(start, start + len(part.ts_open_ns))
    rows = index_of(day.rows, len(made.instruments))
    made.values[rows, cut] = part.values
    made.mask[rows, cut] = part.mask
    if len(day.rows) == len(made.instruments):
        return
    other = torch.ones(len(made.instruments), dtype=torch.bool)
    other[list(day.rows)] = False
    clock = part.ts_open_ns
    blank = days.blank(
        made.width_ns, int(clock[0]), int(clock[-1]) + made.width_ns, first_ns=int(made.ts_open_ns[0])
    )
    made.values[other, cut] = blank.values.expand(int(other.sum()), -1, -1)
    made.mask[other, cut] = blank.mask.expand(int(other.sum()), -1, -1)


def _keeper(days: Days) -> Callable[[Day, FeatureBlock], None]:
    """Return what writes days for the next time; where the disk takes no more, it says so and goes on without."""
    is_full = False

    def keep(day: Day, part: FeatureBlock) -> None:
        nonlocal is_full
        if is_full:
            return
        try:
            days.write(day, part)
        except OSError as error:
            is_full = True
            logger.warning("features not kept", folder=str(days.folder), reason=str(error))

    return keep
