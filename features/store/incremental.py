"""What are the features of a panel, where most of its days were built before?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from features.build import block_of
from features.feature import FeatureBlock
from features.panel.panel import Panel
from features.sets import get_set
from features.store.day_files import DayFiles, PanelDay, consecutive_runs, index_of, max_days
from features.store.eviction import LIMIT_BYTES, trim_days
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
    days = DayFiles.of(root, feature_set, panel.width_ns)
    shape = (panel.n_instruments, panel.n_steps, len(get_set(feature_set)))
    made = block_of(panel, feature_set, torch.empty(shape), torch.empty(shape, dtype=torch.bool))
    first_ns, stop_ns = (int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1])) if panel.n_steps else (0, 0)
    opens = range(floor_ns(first_ns, DAY_NS), stop_ns, DAY_NS)
    # Hashing, checking and copying all let go of the interpreter.
    with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
        asked = list(pool.map(partial(days.look, panel), opens))
        there = list(pool.map(partial(_take, days, made), asked))
    missing = [day for day, is_there in zip(asked, there, strict=True) if not is_there]
    keep = _keeper(days)
    for run in consecutive_runs(missing, max_days(panel.width_ns, panel.n_instruments)):
        for day, part in days.build(panel, run):
            _place(made, day, part)
            keep(day, part)
    _fill_absent(made, [day for day in asked if len(day.rows) < panel.n_instruments], days)
    logger.info("features put together", feature_set=feature_set, days=len(asked), built=len(missing))
    if missing:
        trim_days(root, limit_bytes=limit_bytes, keep={days.folder / day.file for day in asked})
    return made


def _take(days: DayFiles, made: FeatureBlock, day: PanelDay) -> bool:
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
    _place(made, day, part)
    return True


def _place(made: FeatureBlock, day: PanelDay, part: FeatureBlock) -> None:
    """Put a day into a block."""
    start = int(np.searchsorted(made.ts_open_ns, part.ts_open_ns[0]))
    cut = slice(start, start + len(part.ts_open_ns))
    rows = index_of(day.rows, len(made.instruments))
    made.values.numpy()[rows, cut] = part.values.numpy()
    made.mask.numpy()[rows, cut] = part.mask.numpy()


def _fill_absent(made: FeatureBlock, asked: Sequence[PanelDay], days: DayFiles) -> None:
    """Give instruments on days without bars what they would get."""
    if not asked:
        return
    first_ns, stop_ns = int(made.ts_open_ns[0]), int(made.ts_open_ns[-1]) + made.width_ns
    blank = days.blank(made.width_ns, first_ns, stop_ns, first_ns=first_ns)
    for day in asked:
        start, stop = np.searchsorted(made.ts_open_ns, [day.open_ns, day.open_ns + DAY_NS])
        absent = sorted(set(range(len(made.instruments))) - set(day.rows))
        made.values.numpy()[absent, start:stop] = blank.values[:, start:stop].numpy()
        made.mask.numpy()[absent, start:stop] = blank.mask[:, start:stop].numpy()


def _keeper(days: DayFiles) -> Callable[[PanelDay, FeatureBlock], None]:
    """Return what writes days for the next time; where the disk takes no more, it says so and goes on without."""
    is_full = False

    def keep(day: PanelDay, part: FeatureBlock) -> None:
        nonlocal is_full
        if is_full:
            return
        try:
            days.write(day, part)
        except OSError as error:
            is_full = True
            logger.warning("features not kept", folder=str(days.folder), reason=str(error))

    return keep
