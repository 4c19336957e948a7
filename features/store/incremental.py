"""Incremental build of a panel's features from cached day files."""

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
    """Return the block that `build_features` returns, to the bit, building only the days that are not cached.

    Several processes may do so concurrently: files are written atomically under content-addressed names.

    Args:
        root: the home's folder of features (`Settings.features_dir`).
        panel: (S, T), on the CPU.
        feature_set: name in `features.sets.feature_sets`.
        limit_bytes: disk space for day files that no store refers to.

    Raises:
        SettingsError: there is no such set.
    """
    days = DayFiles.of(root, feature_set, panel.width_ns)
    shape = (panel.n_instruments, panel.n_steps, len(get_set(feature_set)))
    block = block_of(panel, feature_set, torch.empty(shape), torch.empty(shape, dtype=torch.bool))
    first_ns, stop_ns = (int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1])) if panel.n_steps else (0, 0)
    opens = range(floor_ns(first_ns, DAY_NS), stop_ns, DAY_NS)
    # Hashing, checking and copying all release the interpreter lock.
    with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
        wanted = list(pool.map(partial(days.identify, panel), opens))
        cached = list(pool.map(partial(_load_day, days, block), wanted))
        missing = [day for day, is_cached in zip(wanted, cached, strict=True) if not is_cached]
        save = _writer(days)
    for run in consecutive_runs(missing, max_days(panel.width_ns, panel.n_instruments)):
        for day, part in days.build(panel, run):
            _place(block, day, part)
            save(day, part)
    _fill_absent(block, [day for day in wanted if len(day.rows) < panel.n_instruments], days)
    logger.info("features assembled", feature_set=feature_set, days=len(wanted), built=len(missing))
    if missing:
        trim_days(root, limit_bytes=limit_bytes, keep={days.folder / day.file for day in wanted})
    return block


def _load_day(days: DayFiles, block: FeatureBlock, day: PanelDay) -> bool:
    """Copy a cached day into a block; return whether there was one."""
    if not days.has(day.file):
        return False
    try:
        part = days.read(day.file)
    except ContractError:
        return False
    names = tuple(block.instruments[row] for row in day.rows)
    found = (part.instruments, part.fingerprint, part.names, part.width_ns)
    if found != (names, block.fingerprint, block.names, block.width_ns):
        return False
    _place(block, day, part)
    return True


def _place(block: FeatureBlock, day: PanelDay, part: FeatureBlock) -> None:
    """Copy a day into a block."""
    start = int(np.searchsorted(block.ts_open_ns, part.ts_open_ns[0]))
    cut = slice(start, start + len(part.ts_open_ns))
    rows = index_of(day.rows, len(block.instruments))
    block.values.numpy()[rows, cut] = part.values.numpy()
    block.mask.numpy()[rows, cut] = part.mask.numpy()


def _fill_absent(block: FeatureBlock, wanted: Sequence[PanelDay], days: DayFiles) -> None:
    """Fill in the features of instruments on days without bars."""
    if not wanted:
        return
    first_ns, stop_ns = int(block.ts_open_ns[0]), int(block.ts_open_ns[-1]) + block.width_ns
    blank = days.blank(block.width_ns, first_ns, stop_ns, first_ns=first_ns)
    for day in wanted:
        start, stop = np.searchsorted(block.ts_open_ns, [day.open_ns, day.open_ns + DAY_NS])
        absent = sorted(set(range(len(block.instruments))) - set(day.rows))
        block.values.numpy()[absent, start:stop] = blank.values[:, start:stop].numpy()
        block.mask.numpy()[absent, start:stop] = blank.mask[:, start:stop].numpy()


def _writer(days: DayFiles) -> Callable[[PanelDay, FeatureBlock], None]:
    """Return a function that caches days, and that logs a warning and stops caching if the disk is full."""
    is_full = False

    def save(day: PanelDay, part: FeatureBlock) -> None:
        nonlocal is_full
        if is_full:
            return
        try:
            days.write(day, part)
        except OSError as error:
            is_full = True
            logger.warning("features not kept", folder=str(days.folder), reason=str(error))

    return save
