"""Layouts and object keys of the venue's archives, and since when each exists.

Layouts of the venue's node archive followed each other and overlap: an hour is read from the newest one that has it.
All are split by the clock of their writer, so events of an hour also lie in its neighbours' objects. Source: the
venue's historical data page and users' listings (read 2026-08-22); none of it is guaranteed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from ingest.backfill.source import BackfillRequest
from storage.clock import DAY_NS, NS, floor_ns, iso, parse_time_ns
from storage.errors import RangeError

HOUR_NS: Final = 3_600 * NS
_FOREVER: Final = 1 << 62

Form = Literal["trades", "fills", "blocks"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Hours of trades in one form.

    Args:
        form: of a line: `trades` (a trade), `fills` (a user and a fill), or `blocks` (a block and its fills).
        folder: prefix of the objects' keys.
        from_ns, to_ns: range of hours that can exist, right-open.
    """

    form: Form
    folder: str
    from_ns: int
    to_ns: int = _FOREVER

    def key(self, hour_ns: int) -> str:
        """Return the key of an hour."""
        return hour_key(self.folder, hour_ns)

    def has(self, hour_ns: int) -> bool:
        """Return whether an hour can exist in this layout."""
        return self.from_ns <= hour_ns < self.to_ns


TRADES: Final = Layout(
    "trades", "node_trades/hourly", parse_time_ns("2025-03-22T10:00Z"), parse_time_ns("2025-06-22T00:00Z")
)
FILLS: Final = Layout(
    "fills", "node_fills/hourly", parse_time_ns("2025-05-25T14:00Z"), parse_time_ns("2025-07-27T09:00Z")
)
BLOCKS: Final = Layout("blocks", "node_fills_by_block/hourly", parse_time_ns("2025-07-27T08:00Z"))
LAYOUTS: Final = (BLOCKS, FILLS, TRADES)
"""Newest first."""

BOOKS: Final = "market_data"
BOOKS_FROM_NS: Final = parse_time_ns("2023-04-15")
CONTEXTS: Final = "asset_ctxs"
CONTEXTS_FROM_NS: Final = parse_time_ns("2023-05-20")


def hour_key(folder: str, hour_ns: int, rest: str = "") -> str:
    """Return the key of an hour below a folder; the venue does not pad hours.

    >>> hour_key("node_trades/hourly", parse_time_ns("2025-05-01T03:00Z"))
    'node_trades/hourly/20250501/3.lz4'
    """
    hour = datetime.fromtimestamp(hour_ns // NS, UTC)
    return f"{folder}/{hour:%Y%m%d}/{hour.hour}{rest}.lz4"


def book_key(hour_ns: int, coin: str) -> str:
    """Return the key of a coin's books of an hour."""
    return hour_key(BOOKS, hour_ns, f"/l2Book/{coin}")


def context_key(day_ns: int) -> str:
    """Return the key of a day's contexts."""
    return f"{CONTEXTS}/{day_text(day_ns)}.csv.lz4"


def day_text(ns: int) -> str:
    """Return a day as the archives write it, such as `20250729`."""
    return f"{datetime.fromtimestamp(ns // NS, UTC):%Y%m%d}"


def hours_of(request: BackfillRequest) -> range:
    """Return the hours that a request touches, each by its start."""
    return range(floor_ns(request.from_ns, HOUR_NS), request.to_ns, HOUR_NS)


def days_of(request: BackfillRequest) -> range:
    """Return the days that a request touches, each by its start."""
    return range(floor_ns(request.from_ns, DAY_NS), request.to_ns, DAY_NS)


def with_neighbours(hour_ns: int) -> tuple[int, int, int]:
    """Return the hours whose objects may hold events of an hour."""
    return hour_ns - HOUR_NS, hour_ns, hour_ns + HOUR_NS


def check_archive_range(request: BackfillRequest, what: str, from_ns: int, now_ns: int) -> None:
    """Refuse a request outside the range of an archive.

    Args:
        request: of the caller.
        what: content of the archive, for messages.
        from_ns: first instant of the archive.
        now_ns: the present.

    Raises:
        RangeError: the request is empty, begins before the archive does, or ends in the future.
    """
    if request.to_ns <= request.from_ns:
        raise RangeError(
            f"{iso(request.from_ns)} to {iso(request.to_ns)} is no stretch of time",
            hint="let --to be after --from",
        )
    if request.from_ns < from_ns:
        raise RangeError(
            f"no archive has {what} of {iso(request.from_ns)}: the first are of {iso(from_ns)}",
            hint=f"let --from be {iso(from_ns)} or later",
        )
    if request.to_ns > now_ns:
        raise RangeError(
            f"{iso(request.to_ns)} is in the future: no archive has {what} of it",
            hint=f"let --to be {iso(now_ns)} or earlier",
        )
