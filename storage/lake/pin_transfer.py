"""Transfer of pins to a rebuilt lake.

Snapshot numbers differ between the two lakes, so snapshots are matched by a pin's hash of rows. A pin is set only on a
snapshot whose rows have that hash. A pin without such a snapshot stays in the old lake and is reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from storage.contracts.lake_records import PINS
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.lake.snapshots import METADATA_TABLES, ROWS_HASH, Pin, has_pinned_rows, rows_by_table

ReadsSame = Callable[[Pin, Lake, int], bool | None]
"""Returns whether a snapshot matches a pin whose hash does not cover all rows; None if that is no longer known."""


@dataclass(frozen=True, slots=True)
class PinTransfer:
    """Result for one pin: the matching snapshot of the new lake, or None and the reason."""

    pin: Pin
    snapshot: int | None
    why: str = ""


def repin(pin: Pin, new: Lake, old: Lake, *, now_ns: int, reads_same: ReadsSame) -> PinTransfer:
    """Set a pin of the old lake on the new one, if a snapshot there has the same rows.

    Args:
        pin: of the old lake.
        new: writable, and complete.
        old: the lake that it replaces.
        now_ns: the current time.
        reads_same: compares pins of nights, which have a hash of their own.
    """
    candidates = _snapshots_with(new, rows) if (rows := _rows_at(old, pin.snapshot)) is not None else []
    # Newest first: later commits often leave a night's range unchanged.
    for at in dict.fromkeys([new.snapshot(), *candidates]):
        is_same = (
            has_pinned_rows(new, at, pin.content)
            if pin.content.startswith(ROWS_HASH)
            else reads_same(pin, new, at)
        )
        if is_same is None:
            return PinTransfer(pin, None, "its hash is of a night that is no longer here")
        if is_same:
            row = {"pin": pin.name, "snapshot": at, "content": pin.content, "event": "pinned"}
            new.commit(
                {"pins": PINS.rows([row | {"ts_knowable_ns": now_ns}])},
                batch_id=f"repinned:{pin.name}:{pin.snapshot}",
                inputs={"snapshot_before": pin.snapshot},
            )
            return PinTransfer(pin, at)
    return PinTransfer(pin, None, "no snapshot holds the same rows")


def _rows_at(old: Lake, at: int) -> dict[str, int] | None:
    """Return the number of rows of each table of a snapshot, or None if files are missing."""
    try:
        return rows_by_table(old, at)
    except LakeError:
        return None


def _snapshots_with(lake: Lake, rows: dict[str, int]) -> list[int]:
    """Return the snapshots with these numbers of rows by table, newest first, according to `batches`."""
    target = Counter({name: count for name, count in rows.items() if name not in METADATA_TABLES})
    commits = lake.query(
        "SELECT s.snapshot_id AS id, b.rows FROM lake.snapshots() s JOIN batches b ON s.commit_message = b.batch_id"
        " ORDER BY id"
    )
    total: Counter[str] = Counter()
    found = []
    for commit in commits.to_pylist():
        total.update(
            {name: n for name, n in json.loads(commit["rows"]).items() if name not in METADATA_TABLES}
        )
        if total == target:
            found.append(int(commit["id"]))
    return found[::-1]
