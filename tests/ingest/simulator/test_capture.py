"""A recorded capture is served byte for byte, with its receipt times."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ingest.journal.captures import read_capture
from ingest.simulator.faults.faults import Disconnect
from ingest.simulator.market.capture import CaptureMarket, read_frame, scan_listings
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS, ManualTime
from storage.errors import CaptureError
from tests.ingest.simulator.clients import answer, ask, client, follow, subscribe
from tests.paths import SHARED

SHARED = SHARED / "data" / "hyperliquid"
VERBATIM = SHARED / "ws_20250126_btc_verbatim.txt.gz"
START_NS = 1_757_015_216_000_000_000


def trade(i: int, *, coin: str = "BTC", sz: str = "0.00123") -> dict[str, object]:
    row = {
        "coin": coin,
        "side": "B",
        "px": "109741.0",
        "sz": sz,
        "hash": "0x0",
        "time": START_NS // 10**6 + i,
        "tid": i,
    }
    return {"channel": "trades", "data": [row]}


def quote(i: int) -> dict[str, object]:
    touch = [{"px": "109741.0", "sz": "1.0", "n": 1}, {"px": "109742.0", "sz": "2.0", "n": 2}]
    return {"channel": "bbo", "data": {"coin": "BTC", "time": START_NS // 10**6 + i, "bbo": touch}}


def frames(n: int = 40) -> list[tuple[int, bytes]]:
    """Return a capture with a print a second, a quote with it, and answers to someone else's requests."""
    rows: list[tuple[int, bytes]] = [(START_NS, b'{"channel":"pong"}')]
    for i in range(n):
        recv_ns = START_NS + i * NS
        rows += [(recv_ns, json.dumps(message).encode()) for message in (trade(i), quote(i))]
    return rows


async def test_frames_come_as_recorded_behind_their_own_receipt_times() -> None:
    async with SimulatedVenue(CaptureMarket(frames()), wait_for_subscriptions=2) as venue:
        heard = await follow(venue, [("trades", "BTC"), ("bbo", "BTC")])
        await venue.finished()
    assert heard.code == 1000
    clock, stamped = 0, []
    for frame in heard.frames:
        message = json.loads(frame)
        if message["channel"] == "tickwalkClock":
            clock = message["data"]
        elif message["channel"] != "subscriptionResponse":
            stamped.append((clock, frame.encode() if isinstance(frame, str) else frame))
    assert stamped == [row for row in frames() if b"pong" not in row[1]]
    assert clock == frames()[-1][0], "the clock ends with the capture"


async def test_only_subscribed_streams_are_sent() -> None:
    async with SimulatedVenue(CaptureMarket(frames())) as venue:
        heard = await follow(venue, [("bbo", "BTC")])
    assert len(heard.of("bbo")) == 40
    assert heard.of("trades") == []


async def test_resubscribing_replays_the_newest_prints_of_the_tape() -> None:
    async with SimulatedVenue(CaptureMarket(frames()), faults=[Disconnect(at_s=35)]) as venue:
        before = await follow(venue, [("trades", "BTC")])
        after = await follow(venue, [("trades", "BTC")])
    assert [tid for _, _, tid in before.trades()] == list(range(35))
    assert [tid for _, _, tid in after.trades()] == [*range(6, 36), *range(36, 40)]


async def test_speed_divides_the_tapes_own_pauses() -> None:
    time = ManualTime(1_000 * NS)
    tape = CaptureMarket(frames())
    venue = SimulatedVenue(tape, clock="real", speed=10.0, time_source=time, wait_for_subscriptions=1)
    async with venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        assert (await answer(socket))["channel"] == "subscriptionResponse"
        assert (await answer(socket))["data"][0]["tid"] == 0
        time.advance_to(1_000 * NS + NS // 5)
        assert [(await answer(socket))["data"][0]["tid"] for _ in range(2)] == [1, 2]
        await ask(socket, {"method": "ping"})
        assert (await answer(socket))["channel"] == "pong", "two seconds of the tape in a fifth of one"


def test_invalid_frames_are_left_out() -> None:
    for raw in (
        b"hello",
        b'{"channel":"trades","data":{"coin":"BTC"}}',
        b'{"channel":"bbo","data":{"coin":"BTC"}}',
    ):
        assert read_frame(raw) is None
    assert read_frame(b'{"channel":"subscriptionResponse","data":{}}') is None


def test_falling_receipt_times_are_raised() -> None:
    rows = [(START_NS + 5, json.dumps(trade(0)).encode()), (START_NS, json.dumps(trade(1)).encode())]
    assert [block.clock_ns for block in CaptureMarket(rows).blocks()] == [START_NS + 5, START_NS + 5]


def test_empty_capture_is_refused() -> None:
    with pytest.raises(CaptureError, match="holds no frame"):
        CaptureMarket([])


def test_universe_is_read_off_the_capture() -> None:
    rows = [trade(0), trade(1, sz="0.5"), trade(2, coin="DOGE", sz="120.0")]
    found = scan_listings((START_NS, json.dumps(row).encode()) for row in rows)
    assert [(item.name, item.size_decimals, item.price_decimals) for item in found] == [
        ("BTC", 5, 1),
        ("DOGE", 0, 6),
    ]


@pytest.fixture
def recorded() -> Iterator[tuple[int, bytes]]:
    if not VERBATIM.exists():
        pytest.skip(f"{VERBATIM} is absent")
    return read_capture(VERBATIM)


async def test_real_capture_comes_back_byte_for_byte(recorded: Iterator[tuple[int, bytes]]) -> None:
    rows = list(recorded)
    async with SimulatedVenue(
        CaptureMarket(rows, listings=scan_listings(rows)), wait_for_subscriptions=2
    ) as venue:
        heard = await follow(venue, [("trades", "BTC"), ("l2Book", "BTC")])
    ours = ("tickwalkClock", "subscriptionResponse")
    got = [frame for frame in heard.frames if json.loads(frame)["channel"] not in ours]
    assert len(got) == 55
    assert got == [raw.decode() for _, raw in rows]
