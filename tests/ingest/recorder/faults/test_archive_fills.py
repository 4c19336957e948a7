"""Archive fills, which are not trades yet."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.backfill.archive.fill_parser import Hour, HourReader
from ingest.backfill.archive.fills import Fill, Pairing
from ingest.backfill.archive.object_keys import Form
from storage.clock import parse_time_ns

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


def parse(*objects: bytes, form: Form = "blocks", spill_ms: int = 0) -> Hour:
    """Return what the hour from `HOUR_MS` holds after its objects were read."""
    reader = HourReader(HOUR_MS, HOUR_MS + 3_600_000, spill_ms=spill_ms)
    for number, lines in enumerate(objects):
        reader.add([lines], form, number)
    return reader.finish()


def tids(hour: Hour) -> list[int]:
    found: list[int] = hour.prints["tid"].tolist()
    return found


def test_two_fills_are_one_trade_and_its_volume_counts_once() -> None:
    hour = parse(b"\n".join(a_block(*a_trade(tid, at_s=tid)) for tid in (7, 8, 9)))
    columns = [hour.prints[name].tolist() for name in ("tid", "side", "price", "size")]
    assert list(zip(*columns, strict=True)) == [(tid, 1, 61_234.0, 0.01) for tid in (7, 8, 9)]
    assert hour.odd == []


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
def test_what_does_not_pair_is_set_aside_with_the_reason(fills: list[Any], reason: str) -> None:
    hour = parse(a_block(*fills, *a_trade(99)))
    (refused,) = hour.odd
    assert tids(hour) == [99]
    assert refused.unpaired.reason.startswith(reason)
    assert len(refused.unpaired.fills) == len(fills)


def test_settlements_are_no_trades_and_forced_ones_are_marked() -> None:
    fills = [a_fill(dir="Settlement"), *a_trade(8, dir="Auto-Deleveraging")]
    hour = parse(a_block(*fills))
    assert (tids(hour), hour.odd, hour.left_out) == ([8], [], 1)
    pairing = Pairing()
    pairing.add(msgspec.convert(fills, list[Fill], strict=False))
    trades, unpaired = pairing.settle()
    assert [(trade.tid, trade.is_forced) for trade in trades] == [(8, True)]
    assert (unpaired, pairing.left_out) == ([], 1)


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=8))
def test_neither_order_nor_repetition_changes_the_trades(order: list[int], again: list[int]) -> None:
    """Overlapping layouts and hours that spill over: each side counts once."""
    fills = [fill for tid in range(6) for fill in a_trade(tid, at_s=tid % 3)]
    lines = [json.dumps(["0xuser", fills[n]]).encode() for n in (*order, *again)]
    hour = parse(b"\n".join(lines), form="fills", spill_ms=120_000)
    assert sorted(tids(hour)) == list(range(6))
    assert hour.odd == []


def test_a_pair_that_is_cut_by_the_hour_waits_for_its_other_side() -> None:
    buyer, seller = a_trade(7, at_s=3_599.9)
    hour = parse(a_block(buyer), a_block(seller))
    assert (tids(hour), hour.odd) == ([7], [])
    pairing = Pairing()
    pairing.add([msgspec.convert(buyer, Fill, strict=False)])
    assert pairing.settle(before_ms=HOUR_MS + 3_599_000) == ([], [])
    pairing.add([msgspec.convert(seller, Fill, strict=False)])
    trades, unpaired = pairing.settle()
    assert ([trade.tid for trade in trades], unpaired) == ([7], [])


@pytest.mark.parametrize("form", ["blocks", "fills"])
@pytest.mark.parametrize("line", [b"{}", b"[1,2]", b"\xff", b'["0x",{"coin":"BTC"}]'])
def test_a_line_that_is_none_is_refused(line: bytes, form: Form) -> None:
    """A malformed line is set aside with the reason, in either layout; a blank one is none."""
    hour = parse(b"\n" + line + b"\n", form=form)
    assert [bad.raw for bad in hour.bad] == [line]
    assert hour.bad[0].reason.startswith("the line does not fit its layout: ")
    assert tids(hour) == []
