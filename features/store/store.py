"""Which features were built already of all that a lake holds, and which days must be built anew?

A store answers one question (set, code, width, origins, grace, instruments) from day files
(features/store/day_files.py), each named by a hash of all that it is made from. So a day is built anew exactly where
one of the bars changed that it reads, and the result cannot differ from building everything again
(tests/features/store/test_store.py).

What can change a bar that was built already? Never a late print, repair or certification: a panel holds the last
revision that was knowable by the bar's close plus the grace, and what comes later is later. Rows may still enter the
lake afterwards that were knowable in time: imported history, and a journal that is replayed. Days that got rows
since the last update are therefore read again and compared; all others are not even read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
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
    """What an update did.

    Args:
        folder: where the days lie.
        snapshot: of the lake that was read.
        since_ns, until_ns: what the store holds now: open of its first bar, close of its last.
        built: days that were built, as `2026-01-31`; sorted.
        compared: days that were read again and not built, as their file was there.
        kept: how many days were not touched.
        rows: bars in the days that were built.
        instruments: the most that a day holds.
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
    question: StoreKey,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    at: int | None = None,
    on_day: Callable[[int, int, int], None] = lambda *_: None,
) -> UpdateReport:
    """Bring a store up to what the lake holds; whoever reads meanwhile sees the old days or the new ones.

    Cut short, it keeps the days that it finished; called again, it goes on behind them.

    A store begins at the start of a UTC day. One that was begun later than `since_ns`, or is asked to end earlier
    than before, keeps the days that are asked for.

    Args:
        root: the home's folder of features (`Settings.features_dir`).
        lake: the bars.
        question: which features of which bars.
        since_ns, until_ns: bounds of the bars' open; open ones end where the bars do.
        at: a snapshot of the lake; by default the newest.
        on_day: told how many days are done, of how many that may have changed, and how many bars were built.

    Raises:
        RangeError: no bar fits.
        InstrumentError: an instrument that was asked for has none.
        SettingsError: there is no such set or width.
    """
    days = question.days(root)
    at = lake.snapshot() if at is None else at
    held = read_started(days.folder, question) or read_manifest(days.folder, question) or Manifest()
    new, touched = find_changes(lake, question, held, since_ns, until_ns, at)

    # Read the days that may have changed, and build those that are not there.
    doubtful = _doubtful(held, new, touched, days)
    new.days = {day_name(at): held.days[day_name(at)] for at in new.opens if at not in doubtful}
    built: list[int] = []
    rows = 0
    done = 0
    on_day(done, len(doubtful), rows)
    for run in _stretches(sorted(doubtful), max_days(width_ns(question.width), new.instruments)):
        panel = _load(lake, question, new.span(run[0] - days.lookback_ns, run[-1] + DAY_NS), at)
        looked = [days.look(panel, open_ns) for open_ns in run]
        fresh = [day for day in looked if not days.has(day.file)]
        for part in consecutive_runs(fresh, len(run)):
            for day, block in days.build(panel, part):
                days.write(day, block)
                rows += block.mask.shape[0] * block.mask.shape[1]
                built.append(day.open_ns)
                done += 1
                on_day(done, len(doubtful), rows)
        for day in looked:
            new.name_file(day.open_ns, day.file)
        done += len(looked) - len(fresh)
        on_day(done, len(doubtful), rows)
        write_started(days.folder, question, new)
    write_manifest(days.folder, question, new)
    if built:
        trim_days(root, limit_bytes=LIMIT_BYTES)
    report = UpdateReport(
        folder=days.folder,
        snapshot=at,
        since_ns=new.start_ns,
        until_ns=new.stop_ns,
        built=tuple(day_name(open_ns) for open_ns in built),
        compared=tuple(day_name(open_ns) for open_ns in sorted(doubtful - set(built))),
        kept=len(new.opens) - len(doubtful),
        rows=rows,
        instruments=new.instruments,
    )
    logger.info("features updated", store=days.folder.name, built=len(built), kept=report.kept, rows=rows)
    return report


def read(
    root: Path,
    question: StoreKey,
    *,
    instruments: Sequence[str] | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    into: Path | None = None,
) -> FeatureBlock:
    """Return what a store holds as one block, memory-mapped.

    Args:
        root, question: as `update` was given them.
        instruments: ids; by default every one that the store knows in the range. One that has no bar gets what a
            panel without its bars would give: values of the clock, and nothing else.
        since_ns, until_ns: bounds of the bars' open.
        into: the file to gather the days in, one at a time; by default one in the store's own folder, which the
            next reader overwrites and this one keeps.

    Raises:
        ContractError: nothing was built yet, or a file of the store is damaged.
        RangeError: the store holds nothing of the range.
    """
    days = question.days(root)
    held = read_manifest(days.folder, question)
    if held is None:
        raise ContractError(
            f"nothing was built in {days.folder} yet", hint=f"run: tickwalk features build {days.feature_set}"
        )
    step_ns = width_ns(question.width)
    start_ns = held.start_ns if since_ns is None else since_ns + (-since_ns) % step_ns
    start_ns, stop_ns = held.span(start_ns, held.stop_ns if until_ns is None else until_ns)
    clock: Nanoseconds = np.arange(start_ns, stop_ns, step_ns, dtype=np.int64)
    if not len(clock):
        raise RangeError(f"{days.folder.name} holds no bar from {iso(start_ns)} to {iso(stop_ns)}")
    files = [held.file(day) for day in held.opens if day < stop_ns and day + DAY_NS > start_ns]
    told = [read_block(days.folder / file) for file in files]
    names = sorted({name for block in told for name in block.instruments})
    names = names if instruments is None else list(instruments)
    path = into or days.folder / f"{question.name}.safetensors"
    with block_writer(path, replace(told[0], instruments=tuple(names)), clock) as writer:
        for file in files:
            _gather(writer, days.read(file), names, clock, days, held)
    return read_block(path)


def _gather(
    writer: FileWriter,
    block: FeatureBlock,
    names: Sequence[str],
    clock: Nanoseconds,
    days: DayFiles,
    held: Manifest,
) -> None:
    """Write what a day holds of these instruments and this clock."""
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
        writer.put(name, getattr(block, name)[index, cut], step=step, rows=known)
    if len(blank):
        nothing = days.blank(step_ns, int(opens[0]), int(opens[-1]) + step_ns, first_ns=held.start_ns)
        for name in ("values", "mask"):
            row = getattr(nothing, name).expand(len(blank), -1, -1)
            writer.put(name, row, step=step, rows=blank)


def _load(lake: Lake, question: StoreKey, span: tuple[int, int], at: int) -> Panel:
    return load_stretch(
        lake,
        width=question.width,
        start_ns=span[0],
        stop_ns=span[1],
        instruments=question.instruments,
        origins=question.origins,
        joined=columns_of(get_set(question.feature_set)),
        at=at,
        grace_ns=question.grace_ns,
    )


def _doubtful(held: Manifest, new: Manifest, touched: Set[int], days: DayFiles) -> set[int]:
    """Return the days that may not be what they were, by their open."""
    moved = {day for day in new.opens if day in touched or not held.holds(day)}
    if held.stop_ns != new.stop_ns:  # a day that was not over, or is not any more
        moved |= {floor_ns(min(held.stop_ns, new.stop_ns), DAY_NS)}
    reach = -(-days.lookback_ns // DAY_NS)
    found = {day + DAY_NS * after for day in moved for after in range(reach + 1)}
    if held.start_ns != new.start_ns:  # the first steps are masked, as far as the set looks back
        first_ns = max(held.start_ns, new.start_ns)
        found |= {day for day in new.opens if first_ns <= day < first_ns + days.lookback_ns}
    found |= {day for day in new.opens if held.holds(day) and not days.has(held.file(day))}
    return found & set(new.opens)


def _stretches(days: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield days that follow each other, at most `most` at a time."""
    for run in consecutive_runs([PanelDay(open_ns, "", ()) for open_ns in days], most):
        yield [day.open_ns for day in run]
