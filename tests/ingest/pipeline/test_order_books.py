"""Order book snapshots: only valid ones become rows."""

from __future__ import annotations

import gzip
import math
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.journal.records import Record, RecordKind
from ingest.pipeline.order_books import MOST_LEVELS, Mode, book_row, unusable_book
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.messages import Level
from storage.contracts.tables import BOOKS
from storage.contracts.validation import validate
from tests.conftest import recorded


@dataclass(frozen=True)
class Shown:
    """A book as decoded from either venue."""

    time: int
    levels: tuple[list[Level], list[Level]]


def book(bids: list[float], asks: list[float], size: float = 1.0) -> Shown:
    return Shown(5, ([Level(price, size) for price in bids], [Level(price, size) for price in asks]))


@pytest.mark.parametrize(("bids", "asks"), [([], []), ([2.0], []), ([], [3.0, 4.0]), ([2.0, 1.0], [2.5])])
def test_a_side_may_be_empty(bids: list[float], asks: list[float]) -> None:
    """F18."""
    assert unusable_book(book(bids, asks)) == ""


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (book([1.0, 2.0], [3.0]), "bids do not fall: 2 follows 1 at level 1"),
        (book([2.0, 2.0], [3.0]), "bids do not fall: 2 follows 2"),
        (book([1.0], [4.0, 3.0]), "asks do not rise: 3 follows 4 at level 1"),
        (book([3.0], [3.0]), "crossed: bid 3 is not below ask 3"),
        (book([4.0], [3.0]), "crossed"),
        (book([0.0], []), r"bid 0 \(1 at 0\) is not above 0"),
        (book([1.0], [], 0.0), "bid 0"),
        (book([math.nan], []), "bid 0"),
        (book([1.0], [math.inf]), "ask 0"),
        (book([1.0], [2.0], -1.0), "bid 0 .*ask 0"),
    ],
)
def test_a_book_that_no_venue_could_show_is_refused_with_the_level(shown: Shown, reason: str) -> None:
    assert re.search(reason, unusable_book(shown))


@pytest.mark.parametrize(("mode", "most"), MOST_LEVELS.items())
def test_a_mode_has_its_depth(mode: Mode, most: int) -> None:
    asks = [1.0 + step for step in range(most + 1)]
    assert unusable_book(book([], asks[:-1]), mode) == ""
    assert unusable_book(book([], asks), mode) == f"{most + 1} asks are more than {most}"


PRICES = st.lists(st.integers(1, 30).map(float), unique=True, max_size=12).map(sorted)


@given(PRICES, st.integers(0, 12))
def test_a_book_with_two_levels_swapped_is_never_taken(prices: list[float], at: int) -> None:
    """Levels sorted and split at one price are a valid book; with two neighbours swapped they are not."""
    bids, asks = prices[:at][::-1], prices[at:]
    assert unusable_book(book(bids, asks)) == ""
    for side in (bids, asks):
        if len(side) > 1:
            side[0], side[1] = side[1], side[0]
            assert unusable_book(book(bids, asks)) != ""
            side[0], side[1] = side[1], side[0]


def test_a_row_fits_its_contract() -> None:
    record = Record(7, 9_000_000_000, RecordKind.FRAME, 0, b"")
    row = book_row("made", record, "gaiaex|perp|BTC", book([2.0, 1.0], [], 3.0), "relay", is_stale=True)
    good, bad = validate(BOOKS, BOOKS.rows([row]))
    assert (good.num_rows, bad.num_rows) == (1, 0)
    assert (row["bid_px"], row["bid_sz"], row["ask_px"]) == ([2.0, 1.0], [3.0, 3.0], [])
    assert (row["ts_event"], row["is_stale"], row["frame"]) == (5_000, True, 7)


def test_every_recorded_book_is_one() -> None:
    path = recorded("hyperliquid/ws_20250126_btc_verbatim.txt.gz")
    lines = gzip.decompress(path.read_bytes()).splitlines()
    messages = [wire.decode(line.split(b" ", 1)[1]) for line in lines]
    shown = [message.data for message in messages if isinstance(message, wire.L2Book)]
    assert len(shown) == 46
    assert {unusable_book(item) for item in shown if item is not None} == {""}
