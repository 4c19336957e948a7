"""Which panels were read from the lake before, so that they need not be read again?

A panel that was asked for is kept as a file under the home, named by all that it depends on: the lake's snapshot,
the question, and the code that reads. The same question is then that file, memory-mapped. A panel is read and written
in stretches of time, so it may be larger than memory. Files beyond a limit go, the longest unused first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from features.files import panel_writer, read_panel
from features.panel import COLUMNS, ORIGINS, UNKNOWN, Panel, load_panel, no_bars, open_bounds_us
from storage.clock import DAY_NS, US_NS, floor_ns, width_ns
from storage.errors import RangeError
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake import Lake

logger = get_logger(__name__)

LIMIT_BYTES: Final = 32 * 1024**3
"""What panels may take on the disk; a year of 200 instruments at one minute takes 18 GB."""
STRETCH_CELLS: Final = 2_000_000
"""Bars that are read at a time: a week of 200 instruments, about 2 GB while the lake answers."""

_HELD: Final = """
SELECT instrument, epoch_us(min(ts_open)) AS first_us, epoch_us(max(ts_open)) AS last_us
FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
  AND ts_knowable_ns <= epoch_us(ts_close) * 1000 + ?
GROUP BY instrument ORDER BY instrument
"""
_MADE: Final = "SELECT epoch_us(snapshot_time) AS made_us FROM lake.snapshots() WHERE snapshot_id = ?"


def cached_panel(
    root: Path,
    lake: Lake,
    *,
    width: str,
    since_ns: int | None = None,
    until_ns: int | None = None,
    instruments: Sequence[str] | None = None,
    origins: Sequence[str] = ORIGINS,
    joined: Collection[str] = (),
    at: int | None = None,
    grace_ns: int,
) -> Panel:
    """Return what `load_panel` returns, memory-mapped, from the file of an earlier call where there is one.

    Args:
        root: the home's folder of features (`Settings.features_dir`); panels lie in `panels` below it.
        lake, width, since_ns, until_ns, instruments, origins, joined, at, grace_ns: as in `load_panel`.

    Raises:
        RangeError: no bar fits.
    """
    at = lake.snapshot() if at is None else at
    wanted = None if instruments is None else sorted(set(instruments))
    question = {
        # A lake that was made anew counts its snapshots from 0 again, but at another time.
        "snapshot": [at, *lake.query(_MADE, (at,))["made_us"].to_pylist()],
        "asked": [width, since_ns, until_ns, wanted, sorted(origins), sorted(joined), grace_ns],
        "code": _code(),
    }
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    path = root / "panels" / f"{width}-{digest[:16]}.safetensors"
    if path.exists():
        os.utime(path)
        return read_panel(path)
    asked = (
        width, list(origins), wanted is None, wanted or [], *open_bounds_us(since_ns, until_ns), grace_ns
    )  # fmt: skip
    held: list[dict[str, Any]] = lake.query(_HELD, asked, at=at).to_pylist()
    if not held:
        raise no_bars(width, origins, since_ns, until_ns)
    step_ns = width_ns(width)
    _write(
        path,
        lake,
        names=tuple(wanted or (row["instrument"] for row in held)),
        start_ns=min(row["first_us"] for row in held) * US_NS
        if since_ns is None
        else since_ns + -since_ns % step_ns,
        stop_ns=max(row["last_us"] for row in held) * US_NS + step_ns if until_ns is None else until_ns,
        width=width,
        origins=origins,
        joined=joined,
        at=at,
        grace_ns=grace_ns,
    )
    trim(path.parent, limit_bytes=LIMIT_BYTES, keep=path)
    return read_panel(path)


def load_stretch(
    lake: Lake,
    *,
    width: str,
    start_ns: int,
    stop_ns: int,
    instruments: Sequence[str] | None,
    origins: Sequence[str],
    joined: Collection[str],
    at: int,
    grace_ns: int,
) -> Panel:
    """Return the bars of a stretch of time; it may hold none, or not of every instrument that is asked for."""
    bounds = (start_ns // US_NS, stop_ns // US_NS, grace_ns)
    if instruments is not None:
        held = lake.query(_HELD, (width, list(origins), False, list(instruments), *bounds), at=at)
        instruments = [str(name) for name in held["instrument"].to_pylist()]
    try:
        if instruments is None or instruments:
            return load_panel(
                lake,
                width=width,
                since_ns=start_ns,
                until_ns=stop_ns,
                instruments=instruments,
                origins=origins,
                joined=joined,
                at=at,
                grace_ns=grace_ns,
            )
    except RangeError:
        logger.info("a stretch without bars", width=width, start_ns=start_ns, stop_ns=stop_ns)
    clock = np.arange(start_ns, stop_ns, width_ns(width), dtype=np.int64)
    return Panel((), width_ns(width), clock, {}, torch.zeros((0, len(clock)), dtype=torch.uint8))


def trim(folder: Path, *, limit_bytes: int, keep: Path) -> None:
    """Remove the panels that were unused the longest until the rest is within a limit; `keep` stays."""
    found = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    size = keep.stat().st_size
    for path in found:
        if path != keep:
            size += path.stat().st_size
            if size > limit_bytes:
                size -= path.stat().st_size
                path.unlink(missing_ok=True)
                logger.info("panel removed", path=str(path))


@lru_cache
def _code() -> str:
    """Return a hash of this room's source: whoever changes how bars are read must not meet what was read before."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _write(
    path: Path, lake: Lake, *, names: tuple[str, ...], start_ns: int, stop_ns: int, width: str, **asked: Any
) -> None:
    """Write a panel stretch by stretch; what no stretch holds is unknown."""
    step_ns = width_ns(width)
    clock = np.arange(start_ns, stop_ns, step_ns, dtype=np.int64)
    days = max(1, STRETCH_CELLS * step_ns // (DAY_NS * len(names)))
    edges = [*range(floor_ns(start_ns, DAY_NS), stop_ns, days * DAY_NS), stop_ns]
    place = {name: row for row, name in enumerate(names)}
    with panel_writer(path, instruments=names, width_ns=step_ns, ts_open_ns=clock, columns=COLUMNS) as file:
        for left, right in pairwise(edges):
            begin_ns = max(left, start_ns)
            part = load_stretch(
                lake, width=width, start_ns=begin_ns, stop_ns=right, instruments=names, **asked
            )
            rows = torch.tensor([place[name] for name in part.instruments], dtype=torch.int64)
            step = (begin_ns - start_ns) // step_ns
            shape = (len(names), part.n_steps)
            status = torch.full(shape, UNKNOWN, dtype=torch.uint8)
            status[rows] = part.status
            file.put("status", status, step=step)
            for name in COLUMNS:
                value = torch.full(shape, torch.nan, dtype=torch.float64)
                value[rows] = part.column(name)
                file.put(name, value, step=step)
