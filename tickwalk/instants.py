"""Instants and snapshots from what a caller may pass for them."""

from __future__ import annotations

import operator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias

from storage.clock import NS, US_NS, iso, parse_time_ns
from storage.errors import LakeError, SettingsError

if TYPE_CHECKING:
    from storage.lake.lake import Lake

Instant: TypeAlias = SupportsIndex | str | datetime
"""Nanoseconds since the epoch as any integer, ISO 8601 text (UTC unless it says otherwise), or an aware `datetime`."""
SnapshotReference: TypeAlias = SupportsIndex | str | datetime
"""A snapshot's number, a pin's name, or an instant as text or `datetime`: the newest snapshot made by then."""

_RULE = 'pass "2026-01-31T05:00:00Z", a datetime with a time zone, or nanoseconds since the epoch as int'


def to_ns(value: Instant, *, name: str) -> int:
    """Return an instant in nanoseconds since the epoch, UTC.

    Args:
        value: see `Instant`.
        name: the argument it was passed as, for the message.

    Raises:
        SettingsError: the text is no date or time, the `datetime` has no time zone, or the type is another one.
    """
    if isinstance(value, str):
        return parse_time_ns(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise SettingsError(
                f"{name}={value.isoformat()} has no time zone, so it names no instant",
                hint="make it aware, as in datetime(2026, 1, 31, tzinfo=UTC)",
            )
        moment = value.astimezone(UTC)
        return int(moment.replace(microsecond=0).timestamp()) * NS + moment.microsecond * US_NS
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return operator.index(value)
    raise SettingsError(f"{name} is a {type(value).__name__}, which is no instant", hint=_RULE)


def to_snapshot(lake: Lake, at: SnapshotReference | None) -> int | None:
    """Return the number of a snapshot; `None` stands for the newest.

    Raises:
        LakeError: no pin has that name and it is no time, a pin names several snapshots, or none was made by then.
        SettingsError: a `datetime` without a time zone, or another type.
    """
    if at is None:
        return None
    if isinstance(at, SupportsIndex) and not isinstance(at, bool):
        return operator.index(at)
    if isinstance(at, str):
        pins = lake.query("SELECT DISTINCT pin, snapshot FROM pins_held ORDER BY ALL").to_pylist()
        pinned = [int(row["snapshot"]) for row in pins if row["pin"] == at]
        if len(pinned) == 1:
            return pinned[0]
        if pinned:
            raise LakeError(
                f"the pin {at!r} names the snapshots {', '.join(map(str, pinned))}",
                hint="pass one of them as int",
            )
        if at.isdecimal():
            return int(at)
        try:
            at_ns = parse_time_ns(at)
        except SettingsError:
            names = ", ".join(sorted({row["pin"] for row in pins})) or "none"
            raise LakeError(
                f"at={at!r} is neither a pin nor a time",
                hint=f"pins are: {names}; a snapshot's number is an int",
            ) from None
    else:
        at_ns = to_ns(at, name="at")
    row = lake.query(
        "SELECT max(snapshot_id) AS made FROM lake.snapshots() WHERE snapshot_time <= make_timestamptz(?)",
        [at_ns // US_NS],
    ).to_pylist()[0]
    if row["made"] is None:
        raise LakeError(
            f"no snapshot that still exists was made by {iso(at_ns)}",
            hint="list them with: tickwalk lake snapshots",
        )
    return int(row["made"])
