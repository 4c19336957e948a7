"""Disk cache of panels read from the lake.

A panel is stored as a file under the home, named by a hash of everything that it depends on (the lake's snapshot, the
query, and the code that reads) and by its checksum. The same query then memory-maps that file; if the checksum does not
match, the file is removed and the lake is read again. A panel is read and written in stretches of time, so it may be
larger than memory. Beyond a size limit, the least recently used files are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from features.panel.asof_join import JOINED, joined_with
from features.panel.panel import (
    COLUMNS,
    UNKNOWN,
    Panel,
    content_hash,
    load_panel,
    missing_instrument_error,
    no_bars_error,
    open_bounds_us,
)
from features.store.atomic_files import note_used, remove
from features.store.day_files import STRETCH_CELLS
from features.store.eviction import trim_files
from features.store.serialization import file_sum, panel_writer, read_panel
from features.versioning.source_hash import features_code_hash
from storage.atomic_write import temporary_path
from storage.clock import DAY_NS, US_NS, floor_ns, width_ns
from storage.contracts.contract import ORIGINS
from storage.errors import RangeError
from storage.lake.point_in_time import Basis, is_known
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake.lake import Lake

logger = get_logger(__name__)

LIMIT_BYTES: Final = 32 * 1024**3
"""Disk space for panels; a year of 200 instruments at one minute takes 18 GB."""
_INSTRUMENTS: Final = """
SELECT instrument, epoch_us(min(ts_open)) AS first_us, epoch_us(max(ts_open)) AS last_us
FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
  AND {known}
GROUP BY instrument ORDER BY instrument
"""
_SNAPSHOT_TIME: Final = (
    "SELECT epoch_us(snapshot_time) AS made_us FROM lake.snapshots() WHERE snapshot_id = ?"
)


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
    rows: Basis = "served",
) -> tuple[Panel, str]:
    """Return the same panel as `load_panel`, memory-mapped from the cache, filling the cache if needed.

    Args:
        root: the home's folder of features (`Settings.features_dir`); panels are in its subfolder `panels`.
        lake, width, since_ns, until_ns, instruments, origins, joined, at, grace_ns, rows: as in `load_panel`.

    Returns:
        The panel, and the hash of its rows (`features.panel.panel.content_hash`), computed from the returned panel.

    Raises:
        RangeError: no bar matches.
        InstrumentError: a requested instrument has no bar.
    """
    at = lake.snapshot() if at is None else at
    resolved = _resolve(
        lake, width=width, since_ns=since_ns, until_ns=until_ns, instruments=instruments, origins=origins, at=at,
        grace_ns=grace_ns, rows=rows,
    )  # fmt: skip
    query = {
        # A recreated lake counts its snapshots from 0 again, but with other creation times.
        "snapshot": [at, *lake.query(_SNAPSHOT_TIME, (at,))["made_us"].to_pylist()],
        "asked": [
            width,
            resolved.names,
            resolved.start_ns,
            resolved.stop_ns,
            sorted(origins),
            sorted(joined),
            grace_ns,
            rows,
        ],
        "code": features_code_hash(),
    } | ({"withheld": lake.withheld} if lake.withheld else {})
    digest = hashlib.sha256(json.dumps(query, sort_keys=True).encode()).hexdigest()
    folder, stem = root / "panels", f"{width}-{digest[:16]}"
    for path in folder.glob(f"{stem}-*.safetensors"):
        if (panel := _read(path)) is not None:
            return panel, content_hash(panel, rows)
    fresh = temporary_path(folder / stem)
    try:
        _write(
            fresh,
            lake,
            resolved,
            width=width,
            origins=origins,
            joined=joined,
            at=at,
            grace_ns=grace_ns,
            rows=rows,
        )
        path = fresh.rename(folder / f"{stem}-{file_sum(fresh):08x}.safetensors")
    except OSError as error:  # the disk is full or not writable
        logger.warning("panel not kept", folder=str(folder), reason=str(error))
        panel = load_panel(
            lake,
            width=width,
            since_ns=resolved.start_ns,
            until_ns=resolved.stop_ns,
            instruments=resolved.names,
            origins=origins,
            joined=joined,
            at=at,
            grace_ns=grace_ns,
            rows=rows,
        )
        return panel, content_hash(panel, rows)
    finally:
        fresh.unlink(missing_ok=True)
    panel = read_panel(path)  # an open file stays readable even if it is removed
    trim_files(folder.glob("*.safetensors"), limit_bytes=LIMIT_BYTES, keep={path})
    return panel, content_hash(panel, rows)


@dataclass(frozen=True, slots=True)
class _ResolvedQuery:
    """A fully resolved query: the instruments, open of the first step, and end of the last."""

    names: tuple[str, ...]
    start_ns: int
    stop_ns: int


def _resolve(
    lake: Lake, *, width: str, since_ns: int | None, until_ns: int | None, instruments: Sequence[str] | None,
    origins: Sequence[str], at: int, grace_ns: int, rows: Basis,
) -> _ResolvedQuery:  # fmt: skip
    """Resolve default bounds and instruments, so that equal panels have equal queries."""
    wanted = None if instruments is None else sorted(set(instruments))
    bounds = (*open_bounds_us(since_ns, until_ns), grace_ns)
    found: list[dict[str, Any]] = lake.query(
        _INSTRUMENTS.format(known=is_known(rows)),
        (width, list(origins), wanted is None, wanted or [], *bounds),
        at=at,
    ).to_pylist()
    if not found:
        raise (
            missing_instrument_error(wanted[0])
            if wanted
            else no_bars_error(width, origins, since_ns, until_ns)
        )
    names = tuple(row["instrument"] for row in found)
    if absent := sorted(set(wanted or ()) - set(names)):
        raise missing_instrument_error(absent[0])
    step_ns = width_ns(width)
    start_ns, stop_ns = (None if t_ns is None else t_ns + -t_ns % step_ns for t_ns in (since_ns, until_ns))
    first_ns, last_ns = (
        side(row[f"{name}_us"] for row in found) * US_NS for side, name in ((min, "first"), (max, "last"))
    )
    return _ResolvedQuery(
        names, first_ns if start_ns is None else start_ns, last_ns + step_ns if stop_ns is None else stop_ns
    )


def _read(path: Path) -> Panel | None:
    """Return a panel, or None if the file is damaged or was removed concurrently."""
    try:
        if path.stem.endswith(f"-{file_sum(path):08x}"):
            note_used(path)
            return read_panel(path)
    except OSError:  # removed concurrently, or not readable
        return None
    logger.warning("damaged panel removed", path=str(path))
    remove(path)
    return None


def load_stretch(
    lake: Lake,
    *,
    width: str,
    start_ns: int,
    stop_ns: int,
    instruments: Sequence[str] | None,
    origins: Sequence[str],
    joined: Collection[str],
    at: int | None,
    grace_ns: int,
    rows: Basis = "served",
) -> Panel:
    """Return the bars of a range, which may contain none, or lack some of the requested instruments."""
    bounds = (start_ns // US_NS, stop_ns // US_NS, grace_ns)
    if instruments is not None:
        sql = _INSTRUMENTS.format(known=is_known(rows))
        found = lake.query(sql, (width, list(origins), False, list(instruments), *bounds), at=at)
        instruments = [str(name) for name in found["instrument"].to_pylist()]
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
                rows=rows,
            )
    except RangeError:
        logger.info("range without bars", width=width, start_ns=start_ns, stop_ns=stop_ns)
    clock = np.arange(start_ns, stop_ns, width_ns(width), dtype=np.int64)
    return Panel((), width_ns(width), clock, {}, torch.zeros((0, len(clock)), dtype=torch.uint8))


def _write(
    path: Path, lake: Lake, resolved: _ResolvedQuery, *, width: str, joined: Collection[str], **more: Any
) -> None:
    """Write a panel stretch by stretch; bars without a row are unknown."""
    step_ns, names, start_ns, stop_ns = width_ns(width), resolved.names, resolved.start_ns, resolved.stop_ns
    columns = tuple(name for name in COLUMNS if name not in JOINED or name in joined_with(joined))
    clock = np.arange(start_ns, stop_ns, step_ns, dtype=np.int64)
    days = max(1, STRETCH_CELLS * step_ns // (DAY_NS * len(names)))
    edges = [*range(floor_ns(start_ns, DAY_NS), stop_ns, days * DAY_NS), stop_ns]
    place = {name: row for row, name in enumerate(names)}
    with panel_writer(
        path, instruments=names, width_ns=step_ns, ts_open_ns=clock, columns=columns, is_synced=False
    ) as file:
        for left, right in pairwise(edges):
            begin_ns = max(left, start_ns)
            part = load_stretch(
                lake, width=width, start_ns=begin_ns, stop_ns=right, instruments=names, joined=joined, **more
            )
            rows = torch.tensor([place[name] for name in part.instruments], dtype=torch.int64)
            step = (begin_ns - start_ns) // step_ns
            shape = (len(names), part.n_steps)
            status = torch.full(shape, UNKNOWN, dtype=torch.uint8)
            status[rows] = part.status
            file.put("status", status, step=step)
            for name in columns:
                value = torch.full(shape, torch.nan, dtype=torch.float64)
                value[rows] = part.column(name)
                file.put(name, value, step=step)
