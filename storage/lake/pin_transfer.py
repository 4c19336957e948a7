"""Which snapshot of a lake that was made anew holds what a pin held in the one before?

Numbers of snapshots mean nothing there: what a pin covers is told by its hash of rows. A pin is set again only on a
snapshot whose rows have that hash; any other stays in the old lake, and that is said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from storage.contracts.tables import PINS
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.lake.snapshots import NOTES, ROWS_HASH, Pin, rows_by_table, rows_hash

ReadsSame = Callable[[Pin, Lake, int], bool | None]
"""Say whether a snapshot reads as a pin whose hash is not of all rows; None where nobody can say any more."""


@dataclass(frozen=True, slots=True)
class PinTransfer:
    """What became of a pin: the new lake's snapshot that reads the same, or None and why."""

    pin: Pin
    snapshot: int | None
    why: str = ""


def repin(pin: Pin, new: Lake, old: Lake, *, now_ns: int, reads_same: ReadsSame) -> PinTransfer:
    """Set a pin of the old lake on the new one, where that holds the same rows.

    Args:
        pin: held in the old lake.
        new: writable, with all of its rows.
        old: the lake before.
        now_ns: the present.
        reads_same: judges pins of nights, which have a hash of their own.
    """
    alike = _as_many(new, rows) if (rows := _rows_at(old, pin.snapshot)) is not None else []
    # The newest first: a night's range is often as it was, whatever came behind it.
    for at in dict.fromkeys([new.snapshot(), *alike]):
        is_same = (
            rows_hash(new, at) == pin.content
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
    """Return how many rows each table of a snapshot has; None where files of it are gone."""
    try:
        return rows_by_table(old, at)
    except LakeError:
        return None


def _as_many(lake: Lake, rows: dict[str, int]) -> list[int]:
    """Return the snapshots of a lake that have so many rows in each table, newest first, by what its batches say."""
    wanted = Counter({name: count for name, count in rows.items() if name not in NOTES})
    commits = lake.query(
        "SELECT s.snapshot_id AS id, b.rows FROM lake.snapshots() s JOIN batches b ON s.commit_message = b.batch_id"
        " ORDER BY id"
    )
    held: Counter[str] = Counter()
    found = []
    for commit in commits.to_pylist():
        held.update({name: n for name, n in json.loads(commit["rows"]).items() if name not in NOTES})
        if held == wanted:
            found.append(int(commit["id"]))
    return found[::-1]
