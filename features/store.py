"""Which features were built already, day by day, and which days must be built anew?

A store holds one file for each UTC day of one question (set, code, width, origins, grace, instruments). A file's
name ends in a hash of all that its values are made from: the bars of the day, and those before it that the set looks
back on. So a day is built anew exactly where one of those bars changed, and the result cannot differ from building
everything again (tests/features/test_store.py).

What can change a bar that was built already? Never a late print, repair or certification: a panel holds the last
revision that was knowable by the bar's close plus the grace, and what comes later is later. Rows may still enter the
lake afterwards that were knowable in time: imported history, and a journal that is replayed. Days that got rows
since the last update are therefore read again and compared; all others are not even read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from features.build import build_features
from features.cache import STRETCH_CELLS, load_stretch
from features.files import block_writer, read_block, write_block, write_text
from features.panel import (
    ORIGINS,
    UNKNOWN,
    Nanoseconds,
    Panel,
    content_hash,
    no_bars,
    open_bounds_us,
)
from features.sets import columns_of, fingerprint, get_set
from features.spec import FeatureBlock
from storage.clock import DAY_NS, NS, US_NS, floor_ns, iso, width_ns
from storage.errors import ContractError, RangeError
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake import Lake

logger = get_logger(__name__)

_OVERLAP_NS: Final = 3600 * NS
"""Batches are looked for that the lake stamped up to this long before the newest one seen: clocks are set back."""
_MANIFEST: Final = "manifest.json"

# The days that got asked bars by batches not seen yet, and from when to when those reach.
_TOUCHED: Final = """
SELECT epoch_us(ts_open) // 86400000000 AS day, epoch_us(min(ts_open)) AS first_us,
       epoch_us(max(ts_open)) AS last_us, max(ts_ingested_ns) AS mark_ns, count(DISTINCT instrument) AS instruments
FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
  AND ts_knowable_ns <= epoch_us(ts_close) * 1000 + ?
  AND ts_ingested_ns >= ? AND batch NOT IN (SELECT unnest(?::VARCHAR[]))
GROUP BY day ORDER BY day
"""
_JOINED: Final = ("books", "funding", "lags")
"""Tables that a panel may join as of the close; a row counts for less than a day."""
_JOINED_TOUCHED: Final = """
SELECT DISTINCT ts_knowable_ns // 86400000000000 AS day FROM {table}
WHERE ts_ingested_ns >= ? AND batch NOT IN (SELECT unnest(?::VARCHAR[]))
"""
_BATCHES: Final = "SELECT batch_id FROM batches WHERE ts_ingested_ns >= ? ORDER BY batch_id"


@dataclass(frozen=True, slots=True)
class Question:
    """Which bars features are built of, and which features.

    Args:
        feature_set: name in `features.sets.FEATURE_SETS`.
        width: width of the bars.
        grace_ns: as in `load_panel`.
        origins: likewise.
        instruments: ids, or `None` for every one that has bars.
    """

    feature_set: str
    width: str
    grace_ns: int
    origins: tuple[str, ...] = ORIGINS
    instruments: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The name of its folder: another set, code or question has another."""
        told = asdict(self) | {"fingerprint": fingerprint(get_set(self.feature_set))}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return f"{self.feature_set}-{self.width}-{digest[:12]}"


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update did.

    Args:
        folder: where the days lie.
        snapshot: of the lake that was read.
        since_ns, until_ns: what the store holds now: open of its first bar, close of its last.
        built: days that were built, as `2026-01-31`; sorted.
        compared: days that were read again and found unchanged.
        kept: how many days were not touched.
        rows: bars in the days that were built.
    """

    folder: Path
    snapshot: int
    since_ns: int
    until_ns: int
    built: tuple[str, ...]
    compared: tuple[str, ...]
    kept: int
    rows: int


@dataclass(slots=True)
class _Manifest:
    """What a store's folder says about itself.

    Args:
        asked: the bounds that were asked for.
        start_ns, stop_ns: open of the first day, and close of the last bar.
        mark_ns: when the newest row was ingested that was seen; -1: none was.
        batches: those seen that the lake stamped in the hour up to then.
        snapshot: of the lake that was read last.
        instruments: the most that a day holds.
        days: by day, the hash of all that it was made from.
    """

    asked: list[int | None] = field(default_factory=lambda: [None, None])
    start_ns: int = 0
    stop_ns: int = 0
    mark_ns: int = -1
    batches: list[str] = field(default_factory=list)
    snapshot: int = -1
    instruments: int = 0
    days: dict[str, str] = field(default_factory=dict)

    @property
    def opens(self) -> list[int]:
        """When each of its days opens."""
        return list(range(self.start_ns, self.stop_ns, DAY_NS))

    def span(self, start_ns: int, stop_ns: int) -> tuple[int, int]:
        """Cut a span to what the store holds."""
        return max(start_ns, self.start_ns), min(stop_ns, self.stop_ns)

    def file(self, day_ns: int) -> str:
        """The name of a day's file."""
        return f"{_name(day_ns)}-{self.days[_name(day_ns)]}.safetensors"


def update(
    root: Path,
    lake: Lake,
    question: Question,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    at: int | None = None,
) -> UpdateReport:
    """Bring a store up to what the lake holds; whoever reads meanwhile sees the old days or the new ones.

    A store begins at the start of a UTC day. One that was begun later than `since_ns`, or is asked to end earlier
    than before, keeps the days that are asked for.

    Args:
        root: the home's folder of features (`Settings.features_dir`).
        lake: the bars.
        question: which features of which bars.
        since_ns, until_ns: bounds of the bars' open; open ones end where the bars do.
        at: a snapshot of the lake; by default the newest.

    Raises:
        RangeError: no bar fits.
        SettingsError: there is no such set or width.
    """
    step_ns = width_ns(question.width)
    lookback_ns = step_ns * max(item.lookback_bars for item in get_set(question.feature_set))
    folder = root / question.name
    at = lake.snapshot() if at is None else at
    held = _read_manifest(folder)
    new, touched = _look(lake, question, held, since_ns, until_ns, at)

    # Read the days that may have changed, and build those that did.
    doubtful = _doubtful(held, new, touched, lookback_ns)
    new.days = {_name(day): held.days[_name(day)] for day in new.opens if day not in doubtful}
    most = max(1, STRETCH_CELLS * step_ns // (DAY_NS * new.instruments))
    built: list[int] = []
    rows = 0
    for run in _runs(sorted(doubtful), most):
        span = new.span(run[0] - lookback_ns, run[-1] + DAY_NS)
        panel = load_stretch(
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
        for day in run:
            seen = panel.slice(*new.span(day - lookback_ns, day + DAY_NS))
            new.days[_name(day)] = content_hash(seen.select(_present(seen)))[:16]
        fresh = [day for day in run if new.days[_name(day)] != held.days.get(_name(day))]
        for part in _runs(fresh, most):
            rows += _build(folder, panel, question.feature_set, part, new, lookback_ns)
        built += fresh
    _write_manifest(folder, new)
    report = UpdateReport(
        folder=folder,
        snapshot=at,
        since_ns=new.start_ns,
        until_ns=new.stop_ns,
        built=tuple(_name(day) for day in built),
        compared=tuple(_name(day) for day in sorted(doubtful - set(built))),
        kept=len(new.opens) - len(doubtful),
        rows=rows,
    )
    logger.info("features updated", store=folder.name, built=len(built), kept=report.kept, rows=rows)
    return report


def read(
    root: Path,
    question: Question,
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
    folder = root / question.name
    if not (folder / _MANIFEST).exists():
        raise ContractError(
            f"nothing was built in {folder} yet", hint="build it first with features.store.update"
        )
    held = _read_manifest(folder)
    step_ns = width_ns(question.width)
    start_ns = held.start_ns if since_ns is None else since_ns + (-since_ns) % step_ns
    start_ns, stop_ns = held.span(start_ns, held.stop_ns if until_ns is None else until_ns)
    clock: Nanoseconds = np.arange(start_ns, stop_ns, step_ns, dtype=np.int64)
    if not len(clock):
        raise RangeError(f"{folder.name} holds no bar from {iso(start_ns)} to {iso(stop_ns)}")
    days = [day for day in held.opens if day < stop_ns and day + DAY_NS > start_ns]
    blocks = {day: read_block(folder / held.file(day)) for day in days}
    names = sorted({name for block in blocks.values() for name in block.instruments})
    names = names if instruments is None else list(instruments)
    path = into or folder / "gathered.safetensors"
    with block_writer(path, replace(blocks[days[0]], instruments=tuple(names)), clock) as file:
        for block in blocks.values():
            inside = np.flatnonzero((block.ts_open_ns >= start_ns) & (block.ts_open_ns < stop_ns))
            cut = slice(int(inside[0]), int(inside[-1]) + 1)
            step = int((block.ts_open_ns[cut][0] - clock[0]) // step_ns)
            place = {name: row for row, name in enumerate(block.instruments)}
            known = np.array([row for row, name in enumerate(names) if name in place], dtype=np.int64)
            index = torch.tensor([place[names[row]] for row in known], dtype=torch.int64)
            blank = np.setdiff1d(np.arange(len(names)), known)
            nothing = _blank(block, held)
            for name in ("values", "mask"):
                file.put(name, getattr(block, name)[index, cut], step=step, rows=known)
                if len(blank):
                    row = getattr(nothing, name)[:, cut].expand(len(blank), -1, -1)
                    file.put(name, row, step=step, rows=blank)
    return read_block(path)


def _look(
    lake: Lake, question: Question, held: _Manifest, since_ns: int | None, until_ns: int | None, at: int
) -> tuple[_Manifest, set[int]]:
    """Ask the lake for what is new since a store was updated; return the new manifest, still without its days.

    Rows that were seen are not asked for again, so this costs what is new and not what there is.
    """
    since_ns = None if since_ns is None else floor_ns(since_ns, DAY_NS)
    is_same = held.asked == [since_ns, until_ns] and held.snapshot <= at and held.mark_ns >= 0
    asked = (
        question.width,
        list(question.origins),
        question.instruments is None,
        list(question.instruments or ()),
        *open_bounds_us(since_ns, until_ns),
        question.grace_ns,
        held.mark_ns - _OVERLAP_NS if is_same else 0,
        held.batches if is_same else [],
    )
    found = lake.query(_TOUCHED, asked, at=at).to_pylist()
    if not found and not is_same:
        raise no_bars(question.width, question.origins, since_ns, until_ns)
    mark_ns = max([row["mark_ns"] for row in found] + [held.mark_ns] * is_same)
    seen = lake.query(_BATCHES, (mark_ns - _OVERLAP_NS,), at=at)
    new = _Manifest(
        asked=[since_ns, until_ns],
        start_ns=min(
            [floor_ns(row["first_us"] * US_NS, DAY_NS) for row in found] + [held.start_ns] * is_same
        ),
        stop_ns=max(
            [row["last_us"] * US_NS + width_ns(question.width) for row in found] + [held.stop_ns] * is_same
        ),
        mark_ns=mark_ns,
        batches=[str(row["batch_id"]) for row in seen.to_pylist()],
        instruments=max([row["instruments"] for row in found] + [held.instruments] * is_same),
        snapshot=at,
    )
    if not is_same:
        return new, set(new.opens)
    touched = {row["day"] * DAY_NS for row in found}
    for table in _JOINED:
        rows = lake.query(_JOINED_TOUCHED.format(table=table), asked[-2:], at=at).to_pylist()
        touched |= {(row["day"] + after) * DAY_NS for row in rows for after in (0, 1)}
    return new, touched & set(new.opens)


def _build(
    folder: Path, panel: Panel, feature_set: str, days: list[int], new: _Manifest, lookback_ns: int
) -> int:
    """Build days in a row from a panel that reaches back far enough, and return how many bars they hold."""
    block = build_features(panel.slice(*new.span(days[0] - lookback_ns, days[-1] + DAY_NS)), feature_set)
    rows = 0
    for day in days:
        present = _present(panel.slice(*new.span(day - lookback_ns, day + DAY_NS)))
        start, stop = np.searchsorted(block.ts_open_ns, new.span(day, day + DAY_NS))
        index = torch.tensor(present, dtype=torch.int64)
        part = replace(
            block,
            values=block.values[index, start:stop],
            mask=block.mask[index, start:stop],
            instruments=tuple(block.instruments[row] for row in present),
            ts_open_ns=block.ts_open_ns[start:stop],
        )
        write_block(folder / new.file(day), part)
        rows += part.mask.shape[0] * part.mask.shape[1]
    return rows


def _blank(block: FeatureBlock, held: _Manifest) -> FeatureBlock:
    """Return what an instrument without any bar gets on the steps of a block."""
    lookback_ns = block.lookback_bars * block.width_ns
    start_ns = max(int(block.ts_open_ns[0]) - lookback_ns, held.start_ns)
    clock = np.arange(start_ns, int(block.ts_open_ns[-1]) + block.width_ns, block.width_ns, dtype=np.int64)
    status = torch.full((1, len(clock)), UNKNOWN, dtype=torch.uint8)
    built = build_features(Panel(("",), block.width_ns, clock, {}, status), block.feature_set)
    skip = len(clock) - len(block.ts_open_ns)
    return replace(built, values=built.values[:, skip:], mask=built.mask[:, skip:])


def _present(panel: Panel) -> list[int]:
    """Return which instruments have a bar; those without do not move the others (tests/features/test_build.py)."""
    there = (panel.status != UNKNOWN).any(dim=1)
    for value in panel.values.values():
        there |= (~torch.isnan(value)).any(dim=1)
    return [row for row, is_there in enumerate(there.tolist()) if is_there]


def _doubtful(held: _Manifest, new: _Manifest, touched: Set[int], lookback_ns: int) -> set[int]:
    """Return the days that may not be what they were, by their open."""
    moved = {day for day in new.opens if day in touched or _name(day) not in held.days}
    if held.stop_ns != new.stop_ns:  # a day that was not over, or is not any more
        moved |= {floor_ns(min(held.stop_ns, new.stop_ns), DAY_NS)} & set(new.opens)
    reach = -(-lookback_ns // DAY_NS)
    after = {day + DAY_NS * days for day in moved for days in range(reach + 1)}
    if held.start_ns != new.start_ns:  # the first steps are masked, as far as the set looks back
        first_ns = max(held.start_ns, new.start_ns)
        after |= {day for day in new.opens if first_ns <= day < first_ns + lookback_ns}
    return after & set(new.opens)


def _runs(days: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield runs of days that follow each other, at most `most` of them."""
    run: list[int] = []
    for day in days:
        if run and (day != run[-1] + DAY_NS or len(run) == most):
            yield run
            run = []
        run.append(day)
    if run:
        yield run


def _name(day_ns: int) -> str:
    return iso(day_ns)[:10]


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    return _Manifest(**json.loads(path.read_bytes())) if path.exists() else _Manifest()


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    """Show the new days, then remove the files that no manifest names any more."""
    write_text(folder / _MANIFEST, json.dumps(asdict(manifest), sort_keys=True))
    named = {manifest.file(day) for day in manifest.opens}
    for path in folder.glob("????-??-??-*.safetensors"):
        if path.name not in named:
            path.unlink(missing_ok=True)
