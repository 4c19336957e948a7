"""Sealed holdouts: ranges of time that no recipe reads until somebody opens them.

The table `holdouts` is append-only, one row an event: a range was sealed, or opened. What was opened cannot be closed
again; a seal over the same days is a new event, and whoever reads of it learns that the range had been open before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import duckdb

from storage.clock import iso
from storage.contracts.lake_records import HOLDOUTS
from storage.errors import HoldoutError
from storage.lake.lake import Lake
from storage.lake.snapshots import tables_at
from storage.logs import get_logger

logger = get_logger(__name__)

_EVENTS: Final = """
    SELECT since_ns, until_ns, event, reason, who, ts_knowable_ns FROM holdouts ORDER BY ts_knowable_ns, since_ns
"""


@dataclass(frozen=True, slots=True)
class HoldoutEvent:
    """One event of a range.

    Args:
        since_ns, until_ns: the range, right-open.
        event: what happened.
        reason: why, for people.
        who: did it, as `user@host`.
        ts_knowable_ns: when.
    """

    since_ns: int
    until_ns: int
    event: Literal["sealed", "opened"]
    reason: str
    who: str
    ts_knowable_ns: int

    def overlaps(self, since_ns: int, until_ns: int) -> bool:
        """Return whether the range shares an instant with another."""
        return self.since_ns < until_ns and self.until_ns > since_ns

    @property
    def span(self) -> str:
        """The range, for people."""
        return f"{iso(self.since_ns)} to {iso(self.until_ns)}"


def read_holdouts(lake: Lake) -> list[HoldoutEvent]:
    """Return all events, oldest first; a lake that an older release wrote has none."""
    if HOLDOUTS.name not in tables_at(lake):
        return []
    return [HoldoutEvent(**row) for row in lake.query(_EVENTS).to_pylist()]


def sealed_now(events: Sequence[HoldoutEvent]) -> list[HoldoutEvent]:
    """Return the seals that hold after these events, in order of time."""
    last = {(event.since_ns, event.until_ns): event for event in events}
    return sorted(
        (event for event in last.values() if event.event == "sealed"), key=lambda event: event.since_ns
    )


def opened_before(events: Sequence[HoldoutEvent], seal: HoldoutEvent) -> list[HoldoutEvent]:
    """Return the events that opened any part of a range before it was sealed, oldest first."""
    return [
        event
        for event in events
        if event.event == "opened"
        and event.ts_knowable_ns < seal.ts_knowable_ns
        and event.overlaps(seal.since_ns, seal.until_ns)
    ]


def seal_holdout(
    lake: Lake, since_ns: int, until_ns: int, *, reason: str, who: str, now_ns: int
) -> HoldoutEvent:
    """Seal a range, so that no recipe reads it.

    Args:
        lake: of the home.
        since_ns, until_ns: the range, right-open.
        reason: why, for people.
        who: `user@host`.
        now_ns: the current time.

    Raises:
        HoldoutError: the range is empty, overlaps a sealed one, or no reason is given.
    """
    if since_ns >= until_ns:
        raise HoldoutError(
            f"a holdout from {iso(since_ns)} to {iso(until_ns)} is empty",
            hint="--until is exclusive and comes after --since",
        )

    def make(events: Sequence[HoldoutEvent], at_ns: int) -> HoldoutEvent:
        for sealed in sealed_now(events):
            if sealed.overlaps(since_ns, until_ns):
                raise HoldoutError(
                    f"{iso(since_ns)} to {iso(until_ns)} overlaps the holdout {sealed.span}, which is sealed",
                    hint="seal a range beside it, or leave it as it is; see: tickwalk holdout status",
                )
        return HoldoutEvent(since_ns, until_ns, "sealed", reason, who, at_ns)

    return _append(lake, make, reason=reason, now_ns=now_ns)


def open_holdout(
    lake: Lake, *, since_ns: int | None = None, reason: str, who: str, now_ns: int
) -> HoldoutEvent:
    """Open a sealed range; recipes read it from now on, and that cannot be undone.

    Args:
        lake: of the home.
        since_ns: start of the range (default: that of the only sealed one).
        reason: why, for people.
        who: `user@host`.
        now_ns: the current time.

    Raises:
        HoldoutError: no such range is sealed, several are and none was named, or no reason is given.
    """

    def make(events: Sequence[HoldoutEvent], at_ns: int) -> HoldoutEvent:
        sealed = sealed_now(events)
        found = [item for item in sealed if since_ns is None or item.since_ns == since_ns]
        if not found:
            named = "" if since_ns is None else f" that begins at {iso(since_ns)}"
            raise HoldoutError(
                f"no holdout{named} is sealed",
                hint=f"sealed: {'; '.join(item.span for item in sealed)}"
                if sealed
                else "seal one with: tickwalk holdout seal --since ... --until ... --reason ...",
            )
        if len(found) > 1:
            raise HoldoutError(
                f"{len(found)} holdouts are sealed: {'; '.join(item.span for item in found)}",
                hint=f"name one by its start: --since {iso(found[0].since_ns)}",
            )
        return HoldoutEvent(found[0].since_ns, found[0].until_ns, "opened", reason, who, at_ns)

    return _append(lake, make, reason=reason, now_ns=now_ns)


def _append(
    lake: Lake, make: Callable[[Sequence[HoldoutEvent], int], HoldoutEvent], *, reason: str, now_ns: int
) -> HoldoutEvent:
    """Append the event that `make` returns for the events so far and the time; it is made again in the transaction."""
    if not reason.strip():
        raise HoldoutError("a change of a holdout needs a reason", hint='say why: --reason "..."')
    events = read_holdouts(lake)
    # A clock that is behind the table must not sort the event before the one that it follows.
    at_ns = max(now_ns, *(event.ts_knowable_ns + 1 for event in events), 0)
    event = make(events, at_ns)

    def check(run: duckdb.DuckDBPyConnection) -> None:
        rows = run.execute(_EVENTS).fetchall()
        make([HoldoutEvent(*row) for row in rows], at_ns)

    lake.commit(
        {HOLDOUTS.name: HOLDOUTS.rows([asdict(event)])},
        batch_id=f"holdout-{event.event}-{event.since_ns}-{event.until_ns}-{at_ns}",
        check=check,
    )
    logger.info(f"holdout {event.event}", range=event.span, reason=event.reason, who=event.who)
    return event
