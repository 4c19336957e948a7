"""Times of the nights of a replay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from storage.clock import DAY_NS, HOUR_NS, iso
from storage.errors import RangeError, SettingsError

_STEP: Final = re.compile(r"^([1-9][0-9]*)([hdw])$")
_UNIT_NS: Final = {"h": HOUR_NS, "d": DAY_NS, "w": 7 * DAY_NS}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Nights at `from_ns` and every `every_ns` after it, each of which serves until the next; the last until `to_ns`.

    Raises:
        RangeError: the range is empty.
    """

    from_ns: int
    to_ns: int
    every_ns: int

    def __post_init__(self) -> None:
        if self.to_ns <= self.from_ns:
            raise RangeError(
                f"a replay from {iso(self.from_ns)} to {iso(self.to_ns)} has no night",
                hint="set --to to a later time than --from",
            )

    @property
    def nights(self) -> tuple[int, ...]:
        """Times of the nights, oldest first."""
        return tuple(range(self.from_ns, self.to_ns, self.every_ns))

    def until(self, at_ns: int) -> int:
        """Return the time until which the night at a time serves."""
        return min(at_ns + self.every_ns, self.to_ns)


def parse_every(text: str) -> int:
    """Return the time between nights in nanoseconds.

    >>> parse_every("1d") == DAY_NS, parse_every("12h") == 12 * HOUR_NS
    (True, True)

    Raises:
        SettingsError: the text is no number of hours, days or weeks.
    """
    match = _STEP.match(text)
    if match is None:
        raise SettingsError(
            f"the time between nights is {text!r}; it must be a number of hours, days or weeks",
            hint="write --every 12h, 1d or 1w",
        )
    return int(match[1]) * _UNIT_NS[match[2]]
