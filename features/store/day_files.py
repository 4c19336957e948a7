"""Content-addressed files of built features, one per UTC day.

The name of a day file ends in a hash of everything that its values are derived from: the bars of the day, and those of
the lookback before it, as far as the panel reaches. So a file is found for the same bars at any snapshot and in any
range, and a day whose lookback reaches before the panel is a different file from the same day with its full history.
The folder is named by the code that built the file.

A file that is missing, damaged or of other content is rebuilt and never trusted.
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
from features.sets import feature_sets, get_set
from features.store.atomic_files import note_used, remove
from features.store.serialization import read_block, write_block
from features.versioning.fingerprint import fingerprint
from features.versioning.source_hash import features_code_hash
from storage.clock import DAY_NS, iso
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

STRETCH_CELLS: Final = 2_000_000
"""Bars read or built at a time: a week of 200 instruments, about 2 GB during the lake query."""


@dataclass(frozen=True, slots=True)
class PanelDay:
    """A UTC day of a panel.

    Args:
        open_ns: its midnight.
        file: the name of its file.
        rows: indices of the instruments with a bar in the day or its lookback; all others have the same values, and do
            not affect those with bars (tests/features/test_build.py).
    """

    open_ns: int
    file: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DayFiles:
    """The day files of one set, width and code version.

    Args:
        folder: their folder.
        feature_set: name in `features.sets.feature_sets`.
        lookback_ns: lookback of a day.
    """

    folder: Path
    feature_set: str
    lookback_ns: int

    @classmethod
    def of(cls, root: Path, feature_set: str, step_ns: int) -> DayFiles:
        """Return the day files in a home's folder of features, for a width in nanoseconds.

        Raises:
            SettingsError: there is no such set.
        """
        lookback_bars = deepest_lookback(get_set(feature_set))
        return cls(
            root / _folder_name(feature_set, width_name(step_ns)), feature_set, lookback_bars * step_ns
        )

    def identify(self, panel: Panel, open_ns: int) -> PanelDay:
        """Identify a day of a panel, which must reach back over the lookback or to the first bar there is."""
        seen = panel.slice(open_ns - self.lookback_ns, open_ns + DAY_NS)
        rows = _rows_with_bars(seen)
        digest = content_hash(seen if len(rows) == seen.n_instruments else seen.select(rows))
        return PanelDay(open_ns, file_name(open_ns, digest[:16]), tuple(rows))

    def build(self, panel: Panel, run: Sequence[PanelDay]) -> Iterator[tuple[PanelDay, FeatureBlock]]:
        """Build consecutive days, each for the instruments that have bars."""
        seen = panel.slice(run[0].open_ns - self.lookback_ns, run[-1].open_ns + DAY_NS)
        if seen.n_instruments:
            block = build_features(seen, self.feature_set)
        else:  # no instrument has bars
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
                    # Whole, as it is read twice: for its checksum, and to write it.
                    values=block.values[rows, start:stop].contiguous(),
                    mask=block.mask[rows, start:stop].contiguous(),
                    instruments=tuple(block.instruments[row] for row in day.rows),
                    ts_open_ns=block.ts_open_ns[start:stop],
                ),
            )

    def write(self, day: PanelDay, part: FeatureBlock) -> None:
        """Write a day atomically."""
        write_block(self.folder / day.file, part, with_sums=True)

    def has(self, file: str) -> bool:
        """Return whether a file of that name exists."""
        return (self.folder / file).exists()

    def read(self, file: str) -> FeatureBlock:
        """Return a day, memory-mapped and verified against its checksums; remove a damaged file.

        Raises:
            ContractError: the file is missing or damaged.
        """
        path = self.folder / file
        try:
            block = read_block(path, with_sums=True)
            note_used(path)
        except FileNotFoundError as error:  # removed concurrently
            raise ContractError(f"{path} is gone", hint="build it again") from error
        except ContractError as error:
            if path.exists():
                logger.warning("damaged features removed", path=str(path), reason=error.message)
                remove(path)
            raise
        return block

    def blank(self, step_ns: int, start_ns: int, stop_ns: int, *, first_ns: int) -> FeatureBlock:
        """Return the features of an instrument without any bars on the steps from `start_ns` to `stop_ns`.

        Args:
            step_ns: the width of a bar.
            start_ns, stop_ns: open of the first step, and end of the last.
            first_ns: open of the first bar from which the other instruments were built.
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
    """Yield runs of at most `most` consecutive days."""
    run: list[PanelDay] = []
    for day in days:
        if run and (day.open_ns != run[-1].open_ns + DAY_NS or len(run) == most):
            yield run
            run = []
        run.append(day)
    if run:
        yield run


def max_days(step_ns: int, instruments: int) -> int:
    """Return the number of days to read or build at a time."""
    return max(1, STRETCH_CELLS * step_ns // (DAY_NS * max(instruments, 1)))


def day_name(open_ns: int) -> str:
    """Format a day as `2026-01-31`."""
    return iso(open_ns)[:10]


def file_name(open_ns: int, digest: str) -> str:
    """Return the name of a day's file."""
    return f"{day_name(open_ns)}-{digest}.safetensors"


def _rows_with_bars(panel: Panel) -> list[int]:
    """Return the indices of the instruments that have a bar."""
    has_bar = (panel.status != UNKNOWN).any(dim=1)
    for value in panel.values.values():
        if bool(has_bar.all()):
            break
        has_bar |= (~torch.isnan(value)).any(dim=1)
    return [row for row, is_present in enumerate(has_bar.tolist()) if is_present]


def index_of(rows: Sequence[int], count: int) -> slice | Tensor:
    """Return an index of these rows, which is a slice, to avoid a copy, if they are all rows."""
    return slice(None) if len(rows) == count else torch.tensor(rows, dtype=torch.int64)


def is_current(folder: Path) -> bool:
    """Return whether the days of a folder were built by the current code."""
    feature_set, width, *_ = [*folder.name.rsplit("-", 2), "", ""]
    return feature_set in feature_sets() and folder.name == _folder_name(feature_set, width)


def _folder_name(feature_set: str, width: str) -> str:
    """Return the folder name for a set and a width, with a hash of everything else that the bits depend on."""
    versions = [
        fingerprint(get_set(feature_set)),
        features_code_hash(),
        # Another torch release or processor may round a logarithm differently.
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
    ]
    return f"{feature_set}-{width}-{hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:12]}"
