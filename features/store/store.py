"""Incrementally updated store of the features of a lake.

A store serves one key (set, code, width, origins, grace, instruments, rows) from day files
(features/store/day_files.py), each named by a hash of everything that it is built from. So a day is rebuilt exactly if
one of the bars that it reads changed, and the result cannot differ from a full rebuild
(tests/features/store/test_store.py).

Late prints, repairs and certifications never change a bar that was built of `served` rows: a panel holds what was known
by the bar's close plus the grace, and they are known later. But rows that were known in time may still enter the lake
afterwards, from imported history or a replayed journal; of `available` rows, repairs are among them. Therefore days
that received rows since the last update are read again and compared; all others are not read at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from features.feature import FeatureBlock
from features.panel.panel import Nanoseconds, Panel
from features.sets import columns_of, get_set
from features.store.atomic_files import FileWriter
from features.store.change_detection import find_changes
from features.store.day_files import DayFiles, PanelDay, consecutive_runs, day_name, max_days
from features.store.eviction import LIMIT_BYTES, trim_days
from features.store.manifest import (
    Manifest,
    StoreKey,
    read_manifest,
    read_started,
    write_manifest,
    write_started,
)
from features.store.panel_cache import load_stretch
from features.store.serialization import block_writer, read_block
from storage.clock import DAY_NS, floor_ns, iso, width_ns
from storage.errors import ContractError, RangeError
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake.lake import Lake

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Outcome of an update.

    Args:
        folder: folder of the day files.
        snapshot: snapshot of the lake that was read.
        since_ns, until_ns: range of the store: open of its first bar, close of its last.
        built: days that were built, as `2026-01-31`; sorted.
        compared: days that were read again but had a matching file.
        kept: number of days that were not read.
        rows: number of bars in the built days.
        instruments: maximum number of instruments on a day.
    """

    folder: Path
    snapshot: int
    since_ns: int
    until_ns: int
    built: tuple[str, ...]
    compared: tuple[str, ...]
    kept: int
    rows: int
    instruments: int


def update(
    root: Path,
    lake: Lake,
    key: StoreKey,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    at: int | None = None,
    on_day: Callable[[int, int, int], None] = lambda *_: None,
) -> UpdateReport:
    """Update a store to the state of the lake; concurrent readers see the old days or the new ones.

    An interrupted update keeps its finished days, and the next call continues after them.

    A store begins at the start of a UTC day. If its bounds change, days within the new bounds are kept.

    Args:
        root: the home's folder of features (`Settings.features_dir`).
        lake: the bars.
        key: which features of which bars.
        since_ns, until_ns: bounds of the bars' open (default: the first and last bar).
        at: a snapshot of the lake (default: the newest).
        on_day: called with the number of days done, the number that may have changed, and the number of bars built.

    Raises:
        RangeError: no bar matches.
        InstrumentError: a requested instrument has no bar.
        SettingsError: there is no such set or width.
    """
    days = key.days(root)
    at = lake.snapshot() if at is None else at
    manifest = read_started(days.folder, key) or read_manifest(days.folder, key) or Manifest()
    new, changed = find_changes(lake, key, manifest, since_ns, until_ns, at)

    # Read the days that may have changed, and build those without a matching file.
    candidates = _candidates(manifest, new, changed, days)
    new.days = {day_name(at): manifest.days[day_name(at)] for at in new.opens if at not in candidates}
    built: list[int] = []
    rows = 0
    done = 0
    on_day(done, len(candidates), rows)
    for run in _stretches(sorted(candidates), max_days(width_ns(key.width), new.instruments)):
        panel = _load(lake, key, new.span(run[0] - days.lookback_ns, run[-1] + DAY_NS), at)
        identified = [days.identify(panel, open_ns) for open_ns in run]
        fresh = [day for day in identified if not days.has(day.file)]
        for part in consecutive_runs(fresh, len(run)):
            for day, block in days.build(panel, part):
                days.write(day, block)
                rows += block.mask.shape[0] * block.mask.shape[1]
                built.append(day.open_ns)
                done += 1
                on_day(done, len(candidates), rows)
        for day in identified:
            new.name_file(day.open_ns, day.file)
        done += len(identified) - len(fresh)
        on_day(done, len(candidates), rows)
        write_started(days.folder, key, new)
    write_manifest(days.folder, key, new)
    if built:
        trim_days(root, limit_bytes=LIMIT_BYTES)
    report = UpdateReport(
        folder=days.folder,
        snapshot=at,
        since_ns=new.start_ns,
        until_ns=new.stop_ns,
        built=tuple(day_name(open_ns) for open_ns in built),
        compared=tuple(day_name(open_ns) for open_ns in sorted(candidates - set(built))),
        kept=len(new.opens) - len(candidates),
        rows=rows,
        instruments=new.instruments,
    )
    logger.info("features updated", store=days.folder.name, built=len(built), kept=report.kept, rows=rows)
    return report


def read(
    root: Path,
    key: StoreKey,
    *,
    instruments: Sequence[str] | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    into: Path | None = None,
) -> FeatureBlock:
    """Return the contents of a store as one block, memory-mapped.

    Args:
        root, key: as for `update`.
        instruments: ids (default: every instrument of the store in the range). One without bars gets the values of
            clock features, and nothing else.
        since_ns, until_ns: bounds of the bars' open.
        into: file to collect the days in, one at a time (default: one in the store's folder, which the next call
            replaces; the returned block stays readable).

    Raises:
        ContractError: nothing was built yet, or a file of the store is damaged.
        RangeError: the store has no bar in the range.
    """
    days = key.days(root)
    manifest = read_manifest(days.folder, key)
    if manifest is None:
        raise ContractError(
            f"nothing was built in {days.folder} yet", hint=f"run: tickwalk features build {days.feature_set}"
        )
    step_ns = width_ns(key.width)
    start_ns = manifest.start_ns if since_ns is None else since_ns + (-since_ns) % step_ns
    start_ns, stop_ns = manifest.span(start_ns, manifest.stop_ns if until_ns is None else until_ns)
    clock: Nanoseconds = np.arange(start_ns, stop_ns, step_ns, dtype=np.int64)
    if not len(clock):
        raise RangeError(f"{days.folder.name} holds no bar from {iso(start_ns)} to {iso(stop_ns)}")
    files = [manifest.file(day) for day in manifest.opens if day < stop_ns and day + DAY_NS > start_ns]
    blocks = [read_block(days.folder / file) for file in files]
    names = sorted({name for block in blocks for name in block.instruments})
    names = names if instruments is None else list(instruments)
    path = into or days.folder / f"{key.name}.safetensors"
    empty = cache(partial(days.blank, step_ns, start_ns, stop_ns, first_ns=manifest.start_ns))
    with block_writer(path, replace(blocks[0], instruments=tuple(names)), clock) as writer:
        for file in files:
            _gather(writer, days.read(file), names, clock, empty)
    return read_block(path)


def _gather(
    writer: FileWriter,
    block: FeatureBlock,
    names: Sequence[str],
    clock: Nanoseconds,
    empty: Callable[[], FeatureBlock],
) -> None:
    """Write the part of a day that belongs to these instruments and this clock.

    Args:
        writer: of the whole block.
        block: the day.
        names, clock: of the whole block.
        empty: returns the features of an instrument without bars on that clock.
    """
    step_ns = block.width_ns
    inside = np.flatnonzero((block.ts_open_ns >= clock[0]) & (block.ts_open_ns <= clock[-1]))
    cut = slice(int(inside[0]), int(inside[-1]) + 1)
    opens = block.ts_open_ns[cut]
    step = int((opens[0] - clock[0]) // step_ns)
    place = {name: row for row, name in enumerate(block.instruments)}
    known = np.array([row for row, name in enumerate(names) if name in place], dtype=np.int64)
    index = torch.tensor([place[names[row]] for row in known], dtype=torch.int64)
    blank = np.setdiff1d(np.arange(len(names)), known)
    for name in ("values", "mask"):
        # Ten times as fast as one index with the slice.
        writer.put(name, getattr(block, name)[:, cut].index_select(0, index), step=step, rows=known)
        if len(blank):
            row = getattr(empty(), name)[:, step : step + len(opens)].expand(len(blank), -1, -1)
            writer.put(name, row, step=step, rows=blank)


def _load(lake: Lake, key: StoreKey, span: tuple[int, int], at: int) -> Panel:
    return load_stretch(
        lake,
        width=key.width,
        start_ns=span[0],
        stop_ns=span[1],
        instruments=key.instruments,
        origins=key.origins,
        joined=columns_of(get_set(key.feature_set)),
        at=at,
        grace_ns=key.grace_ns,
        rows=key.rows,
    )


def _candidates(manifest: Manifest, new: Manifest, changed: Set[int], days: DayFiles) -> set[int]:
    """Return the days that may have changed, by their open."""
    dirty = {day for day in new.opens if day in changed or not manifest.holds(day)}
    if manifest.stop_ns != new.stop_ns:  # the last day was, or becomes, incomplete
        dirty |= {floor_ns(min(manifest.stop_ns, new.stop_ns), DAY_NS)}
    reach = -(-days.lookback_ns // DAY_NS)
    found = {day + DAY_NS * after for day in dirty for after in range(reach + 1)}
    if manifest.start_ns != new.start_ns:  # the first steps are masked over the set's lookback
        first_ns = max(manifest.start_ns, new.start_ns)
        found |= {day for day in new.opens if first_ns <= day < first_ns + days.lookback_ns}
    found |= {day for day in new.opens if manifest.holds(day) and not days.has(manifest.file(day))}
    return found & set(new.opens)


def _stretches(days: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield runs of at most `most` consecutive days."""
    for run in consecutive_runs([PanelDay(open_ns, "", ()) for open_ns in days], most):
        yield [day.open_ns for day in run]
