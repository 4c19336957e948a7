"""Which days of features were built already, of bars just like these?

A day file holds the features of one UTC day. Its name ends in a hash of all that its values are made from: the bars
of the day, and those before it that the set looks back on, as far as the panel reaches. So it is found by whoever has
the same bars, at any snapshot and in any range, and a day whose lookback reaches before the panel is another file
than the same day with its whole past. Its folder is named by the code that made it.

A file that is missing, damaged or of something else is built again and never trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from features.build import build_features
from features.feature import FeatureBlock, deepest_lookback
from features.multi_width import width_name
from features.panel.panel import UNKNOWN, Panel, content_hash
from features.sets import FEATURE_SETS, get_set
from features.store.atomic_files import note_used, remove
from features.store.serialization import read_block, write_block
from features.versioning.fingerprint import fingerprint
from features.versioning.source_hash import features_code_hash
from storage.clock import DAY_NS, iso
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

STRETCH_CELLS: Final = 2_000_000
"""Bars that are read, or built, at a time: a week of 200 instruments, about 2 GB while the lake answers."""


@dataclass(frozen=True, slots=True)
class PanelDay:
    """A UTC day of a panel.

    Args:
        open_ns: its midnight.
        file: the name of its file.
        rows: which instruments of the panel have a bar in it, or in what it looks back on; all others have the same
            values, and none of them moves the others (tests/features/test_build.py).
    """

    open_ns: int
    file: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DayFiles:
    """The days that were built of one set and width, by one code.

    Args:
        folder: where they lie.
        feature_set: name in `features.sets.FEATURE_SETS`.
        lookback_ns: how far a day reaches back.
    """

    folder: Path
    feature_set: str
    lookback_ns: int

    @classmethod
    def of(cls, root: Path, feature_set: str, step_ns: int) -> DayFiles:
        """Return the days below a home's folder of features, of a width in nanoseconds.

        Raises:
            SettingsError: there is no such set.
        """
        lookback_bars = deepest_lookback(get_set(feature_set))
        return cls(
            root / _folder_name(feature_set, width_name(step_ns)), feature_set, lookback_bars * step_ns
        )

    def look(self, panel: Panel, open_ns: int) -> PanelDay:
        """Return what a day of a panel is called; the panel must reach back as far as there are bars."""
        seen = panel.slice(open_ns - self.lookback_ns, open_ns + DAY_NS)
        rows = _present(seen)
        digest = content_hash(seen if len(rows) == seen.n_instruments else seen.select(rows))
        return PanelDay(open_ns, file_name(open_ns, digest[:16]), tuple(rows))

    def build(self, panel: Panel, run: Sequence[PanelDay]) -> Iterator[tuple[PanelDay, FeatureBlock]]:
        """Yield the features of days in a row, of the instruments that have bars."""
        seen = panel.slice(run[0].open_ns - self.lookback_ns, run[-1].open_ns + DAY_NS)
        if seen.n_instruments:
            block = build_features(seen, self.feature_set)
        else:  # a stretch in which nothing is listed
            first_ns = int(seen.ts_open_ns[0])
            none = self.blank(seen.width_ns, first_ns, int(seen.ts_close_ns[-1]), first_ns=first_ns)
            block = replace(none, values=none.values[:0], mask=none.mask[:0], instruments=())
        for day in run:
            start, stop = np.searchsorted(block.ts_open_ns, [day.open_ns, day.open_ns + DAY_NS])
            rows = index_of(day.rows, len(block.instruments))
            yield (
                day,
                replace(
                    block,
                    values=block.values[rows, start:stop],
                    mask=block.mask[rows, start:stop],
                    instruments=tuple(block.instruments[row] for row in day.rows),
                    ts_open_ns=block.ts_open_ns[start:stop],
                ),
            )

    def write(self, day: PanelDay, part: FeatureBlock) -> None:
        """Write a day; a reader sees it whole or not at all."""
        write_block(self.folder / day.file, part, with_sums=True)

    def has(self, file: str) -> bool:
        """Say whether there is a file of that name."""
        return (self.folder / file).exists()

    def read(self, file: str) -> FeatureBlock:
        """Return a day, memory-mapped and compared with its sums; one that is damaged is removed.

        Raises:
            ContractError: there is none, or it was damaged.
        """
        path = self.folder / file
        try:
            block = read_block(path, with_sums=True)
            note_used(path)
        except FileNotFoundError as error:  # removed a moment ago
            raise ContractError(f"{path} is gone", hint="build it again") from error
        except ContractError as error:
            if path.exists():
                logger.warning("damaged features removed", path=str(path), reason=error.message)
                remove(path)
            raise
        return block

    def blank(self, step_ns: int, start_ns: int, stop_ns: int, *, first_ns: int) -> FeatureBlock:
        """Return what an instrument without any bar gets on the steps from `start_ns` to `stop_ns`.

        Args:
            step_ns: the width of a bar.
            start_ns, stop_ns: open of the first step, and the end of the last.
            first_ns: where the bars begin that the others were built of.
        """
        begin_ns = max(start_ns - self.lookback_ns, first_ns)
        clock = np.arange(begin_ns, stop_ns, step_ns, dtype=np.int64)
        status = torch.full((1, len(clock)), UNKNOWN, dtype=torch.uint8)
        built = build_features(Panel(("",), step_ns, clock, {}, status), self.feature_set)
        skip = (start_ns - begin_ns) // step_ns
        return replace(
            built, values=built.values[:, skip:], mask=built.mask[:, skip:], ts_open_ns=clock[skip:]
        )


def consecutive_runs(days: Sequence[PanelDay], most: int) -> Iterator[list[PanelDay]]:
    """Yield runs of days that follow each other, at most `most` of them."""
    run: list[PanelDay] = []
    for day in days:
        if run and (day.open_ns != run[-1].open_ns + DAY_NS or len(run) == most):
            yield run
            run = []
        run.append(day)
    if run:
        yield run


def max_days(step_ns: int, instruments: int) -> int:
    """Return how many days are read or built at a time."""
    return max(1, STRETCH_CELLS * step_ns // (DAY_NS * max(instruments, 1)))


def day_name(open_ns: int) -> str:
    """Return a day as it is written."""
    return iso(open_ns)[:10]


def file_name(open_ns: int, digest: str) -> str:
    """Return what a day's file is called."""
    return f"{day_name(open_ns)}-{digest}.safetensors"


def _present(panel: Panel) -> list[int]:
    """Return which instruments have a bar."""
    there = (panel.status != UNKNOWN).any(dim=1)
    for value in panel.values.values():
        if bool(there.all()):
            break
        there |= (~torch.isnan(value)).any(dim=1)
    return [row for row, is_there in enumerate(there.tolist()) if is_there]


def index_of(rows: Sequence[int], count: int) -> slice | Tensor:
    """Return an index of these rows: a slice, which copies nothing, where they are all there are."""
    return slice(None) if len(rows) == count else torch.tensor(rows, dtype=torch.int64)


def is_current(folder: Path) -> bool:
    """Say whether a folder's days are what the code as it stands here would build."""
    feature_set, width, *_ = [*folder.name.rsplit("-", 2), "", ""]
    return feature_set in FEATURE_SETS and folder.name == _folder_name(feature_set, width)


def _folder_name(feature_set: str, width: str) -> str:
    """Return a name for the days of a set, a width, and all else that their bits depend on."""
    told = [
        fingerprint(get_set(feature_set)),
        features_code_hash(),
        # Another release or another processor may round a logarithm otherwise.
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
    ]
    return f"{feature_set}-{width}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}"
