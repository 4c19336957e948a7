"""F28: archive fills, which are not trades yet."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.backfill.archive.fills import Pairing, read_fills
from storage.clock import parse_time_ns
from storage.errors import VenueError

HOUR_MS = parse_time_ns("2025-07-29T14:00:00Z") // 10**6


def a_fill(**changes: Any) -> dict[str, Any]:
    made = {
        "coin": "BTC",
        "px": "61234.0",
        "sz": "0.01",
        "side": "B",
        "time": HOUR_MS,
        "hash": "0x1",
        "oid": 11,
    }
    return (
        made | {"crossed": True, "tid": 7, "dir": "Open Long", "fee": "0.2", "startPosition": "0"} | changes
    )


def a_trade(tid: int, at_s: float = 0.0, **changes: Any) -> list[dict[str, Any]]:
    """Return the two fills of a trade with a buyer as aggressor."""
    both = {"tid": tid, "time": HOUR_MS + round(at_s * 1_000)} | changes
    return [
        a_fill(**both),
        a_fill(**({"side": "A", "crossed": False, "oid": 12, "dir": "Close Long"} | both)),
    ]


def a_block(*fills: dict[str, Any], number: int = 1) -> bytes:
    events = [[f"0x{n:040x}", fill] for n, fill in enumerate(fills)]
    return json.dumps(
        {"block_number": number, "block_time": "x", "local_time": "x", "events": events}
    ).encode()


def test_f28_two_fills_are_one_trade_and_its_volume_counts_once() -> None:
    pairing = Pairing()
    for tid in (9, 7, 8):
        pairing.add(read_fills(a_block(*a_trade(tid, at_s=tid))))
    trades, unpaired = pairing.settle()
    assert [(trade.tid, trade.aggressor, trade.price, trade.size) for trade in trades] == [
        (tid, "buy", 61_234.0, 0.01) for tid in (7, 8, 9)
    ]
    assert unpaired == []


@pytest.mark.parametrize(
    ("fills", "reason"),
    [
        (a_trade(7)[:1], "1 fills on sides B: a trade has one B and one A"),
        ([a_fill(), a_fill(oid=12)], "both fills are on side B"),
        ([a_fill(), a_fill(side="A", oid=12)], "both of the fills crossed"),
        ([a_fill(crossed=False), a_fill(side="A", crossed=False)], "neither of the fills crossed"),
        ([a_fill(), a_fill(side="A", crossed=False, sz="0.02")], "price and size differ"),
        ([*a_trade(7), a_fill(oid=13)], "3 fills on sides A/B/B"),
        ([*a_trade(7), a_fill(px="61235.0")], "3 fills on sides A/B/B"),
    ],
)
def test_f28_what_does_not_pair_is_set_aside_with_the_reason(fills: list[Any], reason: str) -> None:
    pairing = Pairing()
    pairing.add(read_fills(a_block(*fills, *a_trade(99))))
    trades, (refused,) = pairing.settle()
    assert [trade.tid for trade in trades] == [99]
    assert refused.reason.startswith(reason)
    assert len(refused.fills) == len(fills)


def test_f28_settlements_are_no_trades_and_forced_ones_are_marked() -> None:
    pairing = Pairing()
    pairing.add(read_fills(a_block(a_fill(dir="Settlement"), *a_trade(8, dir="Auto-Deleveraging"))))
    trades, unpaired = pairing.settle()
    assert [(trade.tid, trade.is_forced) for trade in trades] == [(8, True)]
    assert (unpaired, pairing.left_out) == ([], 1)


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=8))
def test_f28_neither_order_nor_repetition_changes_the_trades(order: list[int], again: list[int]) -> None:
    """Overlapping layouts and hours that spill over: each side counts once."""
    fills = [fill for tid in range(6) for fill in a_trade(tid, at_s=tid % 3)]
    lines = [json.dumps(["0xuser", fills[n]]).encode() for n in (*order, *again)]
    pairing = Pairing()
    for line in lines:
        pairing.add(read_fills(line))
    trades, unpaired = pairing.settle()
    assert sorted(trade.tid for trade in trades) == list(range(6))
    assert unpaired == []


def test_f28_a_pair_that_is_cut_by_the_hour_waits_for_its_other_side() -> None:
    buyer, seller = a_trade(7, at_s=3_599.9)
    pairing = Pairing()
    pairing.add(read_fills(a_block(buyer)))
    assert pairing.settle(before_ms=HOUR_MS + 3_599_000) == ([], [])
    pairing.add(read_fills(a_block(seller)))
    trades, unpaired = pairing.settle()
    assert ([trade.tid for trade in trades], unpaired) == ([7], [])


@pytest.mark.parametrize("line", [b"", b"{}", b"[1,2]", b"\xff", b'["0x",{"coin":"BTC"}]'])
def test_f28_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(VenueError, match="line of fills does not fit"):
        read_fills(line)
