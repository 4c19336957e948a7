"""Trust in a relayed order book: when it is stale, and when it is valid again."""

from __future__ import annotations

from typing import Any

import pytest

from ingest.bars.bar_status import NO_BOOK_YET
from ingest.pipeline.gaiaex_handler import RELAY_LAG, RELAY_STALE, UNDECODABLE, UPSTREAM_STALE
from storage.clock import NS
from tests.ingest.pipeline.scripts import START_NS, Script, latest, run

RELAY = 2
BTC = "gaiaex|perp|BTC"
QUOTED = ("bid", "ask", "bid_size", "ask_size", "quote_age_ms")


class Relayed:
    """A relay of BTC beside a socket of Hyperliquid; the relay shows each quote a fifth of a second later."""

    def __init__(self, symbol: str = "BTC", generation: str = "G2") -> None:
        self.symbol, self.generation = symbol, generation
        self.script = Script().open(0).opened(0, RELAY, venue="gaiaex", socket=symbol, symbol=symbol)

    def live(self, from_s: float, to_s: float, *, relay: bool = True) -> Relayed:
        """Have both venues quote every second, at prices that never come again."""
        for n in range(int(from_s), int(to_s)):
            self.script.frame(n + 0.5, self.bbo(n), 0)
            if relay:
                self.book(n + 0.7, n)
        return self

    def bbo(self, n: int) -> dict[str, Any]:
        level = [{"px": f"{1_000 + n}.0", "sz": "2", "n": 1}, {"px": f"{1_000 + n}.5", "sz": "3", "n": 1}]
        return {"channel": "bbo", "data": {"coin": "BTC", "time": Script.venue_ms(n), "bbo": level}}

    def book(self, at_s: float, n: int, **more: Any) -> Relayed:
        """Have the relay show the book of second `n`."""
        bids, asks = (
            [[f"{1_000 + n}.0", "2"], [f"{999 + n}.5", "1"]],
            [[f"{1_000 + n}.5", "3"], [f"{1_001 + n}.0", "1"]],
        )
        if self.generation == "G1":
            levels = [{"px": px, "sz": sz, "n": 1} for px, sz in (*bids, *asks)]
            return self.say(
                at_s, "orderbook", coin=self.symbol, levels=levels, time=Script.venue_ms(at_s - 0.1)
            )
        about = {"symbol": self.symbol, "timestamp": Script.venue_ms(at_s - 0.1), "stale": False}
        return self.say(at_s, "orderbook", bids=bids, asks=asks, **(about | more))

    def say(self, at_s: float, kind: str, **fields: Any) -> Relayed:
        """Have the relay send a message."""
        self.script.frame(at_s, {"type": kind} | fields, RELAY)
        return self

    def beats(self, from_s: int, to_s: int) -> Relayed:
        """Have the relay say that it lives."""
        for n in range(from_s, to_s):
            self.say(n + 0.6, "heartbeat", timestamp=Script.venue_ms(n))
        return self

    def bars(self) -> dict[int, dict[str, Any]]:
        """Return the relay's bars."""
        return latest(run(self.script)[1]["bars"], f"gaiaex|perp|{self.symbol}")


@pytest.mark.parametrize("generation", ["G1", "G2"])
def test_a_relayed_book_makes_bars_of_quotes_without_trades(generation: str) -> None:
    bars = Relayed(generation=generation).live(0, 190).bars()
    bar = bars[1]
    assert (bar["status"], bar["trades_applicable"]) == ("quiet", False)
    assert (bar["bid"], bar["ask"], bar["bid_size"], bar["ask_size"]) == (1_119.0, 1_119.5, 2.0, 3.0)
    assert {bar[name] for name in ("open", "high", "low", "close", "vwap", "volume", "trades")} == {None}


def test_a_message_that_it_is_stale_counts_at_once() -> None:
    relayed = Relayed().live(0, 90).live(90, 190, relay=False)
    relayed.say(90.6, "stale", symbol="BTC", reason="upstream_disconnected", timestamp=Script.venue_ms(90.5))
    pipeline, rows = run(relayed.script)
    assert pipeline.state.ledger.is_stalled(BTC)
    assert BTC not in pipeline.state.last_quote
    bar = latest(rows["bars"], BTC)[1]
    assert (bar["status"], bar["cause"], bar["observed_ms"]) == ("blind", UPSTREAM_STALE, 29_600), (
        "up to the last book"
    )
    assert {bar[name] for name in QUOTED} == {None}


@pytest.mark.parametrize("word", [{"stale": True}, {"feed_connected": False}])
def test_a_book_that_says_it_is_stale_is_stored_and_not_quoted(word: dict[str, bool]) -> None:
    relayed = Relayed().live(0, 90).live(90, 125, relay=False).book(90.6, 89, **word)
    pipeline, rows = run(relayed.script)
    assert pipeline.state.ledger.is_stalled(BTC)
    assert [row["is_stale"] for row in rows["books"] if row["instrument"] == BTC][-2:] == [False, True]
    assert max(row["ts_recv_ns"] for row in rows["quotes"] if row["instrument"] == BTC) < START_NS + 90 * NS
    assert {latest(rows["bars"], BTC)[1][name] for name in QUOTED} == {None}


def test_a_heartbeat_that_says_so_counts_too() -> None:
    relayed = Relayed().live(0, 90).live(90, 125, relay=False)
    relayed.say(90.6, "heartbeat", symbol="BTC", timestamp=Script.venue_ms(90), stale=True)
    assert run(relayed.script)[0].state.ledger.is_stalled(BTC)


def test_after_recovered_the_next_book_is_trusted_again() -> None:
    relayed = Relayed().live(0, 70).live(70, 190, relay=False)
    relayed.say(70.6, "stale", reason="upstream disconnected")
    relayed.say(90.6, "recovered", symbol="BTC", timestamp=Script.venue_ms(90.5))
    for n in range(91, 190):
        relayed.book(n + 0.7, n)
    pipeline, rows = run(relayed.script)
    assert not pipeline.state.ledger.is_stalled(BTC)
    bars = latest(rows["bars"], BTC)
    assert (bars[1]["status"], bars[1]["bid"]) == ("blind", 1_119.0)
    assert bars[1]["observed_ms"] == 60_000 - (91_600 - 69_700), "all but from the last book to the next one"
    assert bars[2]["status"] == "quiet"


def test_a_frozen_relay_with_a_live_socket_is_found_within_fifteen_seconds() -> None:
    """Its heartbeats go on; Hyperliquid's quote of the same coin has moved."""
    relayed = Relayed().live(0, 90).live(90, 104, relay=False).beats(0, 104)
    relayed.script.clock(104.7)
    assert run(relayed.script)[0].state.ledger.is_stalled(BTC)
    relayed.script.clock(125)
    bar = latest(run(relayed.script)[1]["bars"], BTC)[1]
    assert (bar["status"], bar["cause"]) == ("blind", RELAY_STALE)
    assert {bar[name] for name in QUOTED} == {None}


def test_a_relay_of_a_market_that_stands_still_is_no_frozen_one() -> None:
    relayed = Relayed().live(0, 70).beats(0, 190)
    for n in range(70, 190):
        relayed.script.pong(n + 0.5)
    bars = relayed.bars()
    assert [bars[n]["status"] for n in (1, 2)] == ["quiet", "quiet"]
    assert bars[2]["bid"] == 1_069.0


def test_a_relay_that_comes_to_the_moved_quote_in_time_is_right() -> None:
    relayed = Relayed().live(0, 70).live(70, 78, relay=False).beats(0, 130)
    relayed.book(79.0, 77)
    assert not run(relayed.script)[0].state.ledger.is_stalled(BTC)


def test_the_lag_behind_hyperliquid_is_measured() -> None:
    _, rows = run(Relayed().live(0, 130).script)
    lags = [row for row in rows["lags"] if row["channel"] == RELAY_LAG]
    assert [row["frames"] for row in lags] == [60, 60]
    assert lags[0]["p50_ms"] == pytest.approx(200, rel=0.05)
    assert lags[0]["max_ms"] == pytest.approx(200, abs=1e-6)


def test_a_refused_symbol_ends_as_unlisted() -> None:
    relayed = Relayed("DOGE")
    relayed.say(0.5, "error", code="SYMBOL_NOT_SUPPORTED", message="symbol not supported")
    relayed.script.close(0.6, RELAY, "venue closed with 1000")
    relayed.live(1, 130, relay=False)
    _, rows = run(relayed.script)
    bars = [row for row in rows["bars"] if row["instrument"] == "gaiaex|perp|DOGE"]
    assert [(row["status"], row["cause"]) for row in bars] == [("unlisted", "delisted")]
    assert [row["reason"] for row in rows["quarantine"]] == ["the venue refused: SYMBOL_NOT_SUPPORTED"]


def test_another_refusal_does_not_end_a_symbol() -> None:
    relayed = Relayed().live(0, 190).say(30, "error", code="RATE_LIMIT", message="slow down")
    bars = relayed.bars()
    assert [bars[n]["status"] for n in (0, 1, 2)] == ["quiet"] * 3


def test_a_lost_relay_shows_no_quote_at_the_close() -> None:
    relayed = Relayed().live(0, 90)
    relayed.script.close(90.8, RELAY)
    bar = relayed.live(91, 130, relay=False).bars()[1]
    assert (bar["status"], bar["cause"]) == ("blind", "connection lost")
    assert {bar[name] for name in QUOTED} == {None}


def test_a_bare_pong_is_counted_and_nothing_is_wrong_with_it() -> None:
    relayed = Relayed().live(0, 10)
    relayed.script.frame(10.0, b"pong", RELAY).frame(10.1, b"pong\n", RELAY)
    pipeline, rows = run(relayed.script)
    assert pipeline.state.channels["gaiaex pong"] == 2
    assert "quarantine" not in rows


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({"type": "orderbook", "coin": "BTC", "levels": [{"px": "1", "sz": "1"}], "time": 1}, "schema_unsupported"),
        ({"type": "orderbook", "symbol": "ETH", "bids": [], "asks": [], "timestamp": 1}, "'ETH' came on the socket"),
        ({"type": "orderbook", "symbol": "BTC", "bids": [["2", "1"]], "asks": [["1", "1"]], "timestamp": 1}, "crossed"),
        ({"type": "orderbook", "symbol": "BTC", "bids": [], "asks": [], "timestamp": -5}, "no time in milliseconds"),
        ({"type": "weather"}, "does not fit"),
        (b"<html>", "is not JSON"),
        (b"ping", "is not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_quarantined_with_the_reason(
    frame: dict[str, Any] | bytes, reason: str
) -> None:
    relayed = Relayed().live(0, 5)
    relayed.script.frame(5, frame, RELAY)
    _, rows = run(relayed.script)
    assert len(rows["quarantine"]) == 1
    assert reason in rows["quarantine"][0]["reason"]
    assert rows["quarantine"][0]["source"].startswith("made:")


UNUSABLE: list[dict[str, Any] | bytes] = [
    b'{"type":"orderbook","symbol":"BTC","bids":[["1"',
    b"<html>",
    {"type": "orderbook", "symbol": "BTC", "bids": [["x", "1"]], "asks": [], "timestamp": 1},
    {"type": "orderbook", "symbol": "BTC", "bids": [["2", "1"]], "asks": [["1", "1"]], "timestamp": 1},
    {"type": "orderbook", "symbol": "BTC", "bids": [], "asks": [], "timestamp": -5},
    {"type": "orderbook", "symbol": "ETH", "bids": [], "asks": [], "timestamp": Script.venue_ms(89)},
    {"type": "depth", "symbol": "BTC", "bids": [], "asks": []},
    {"symbol": "BTC", "bids": [], "asks": [], "timestamp": 1},
]


@pytest.mark.parametrize("frame", UNUSABLE)
def test_a_book_that_cannot_be_used_stalls_its_stream_until_one_can(frame: dict[str, Any] | bytes) -> None:
    """Heartbeats go on, and so does the word that the relay has recovered: neither shows the book."""
    relayed = Relayed().live(0, 90).live(90, 310, relay=False).beats(90, 310)
    relayed.script.frame(90.5, frame, RELAY)
    relayed.say(100, "recovered", symbol="BTC", timestamp=Script.venue_ms(100))
    for n in range(200, 310):
        relayed.book(n + 0.7, n)
    pipeline, rows = run(relayed.script)
    assert not pipeline.state.ledger.is_stalled(BTC)
    bars = latest(rows["bars"], BTC)
    assert [(bars[n]["status"], bars[n]["cause"]) for n in (1, 2)] == [("blind", UNDECODABLE)] * 2
    assert {bars[n][name] for n in (1, 2) for name in QUOTED} == {None}
    assert [bars[n]["status"] for n in (0, 4)] == ["quiet"] * 2
    assert [row["cause"] for row in rows["coverage"] if row["cause"] == UNDECODABLE] == [UNDECODABLE]


@pytest.mark.parametrize("kind", ["heartbeat", "recovered", "error", "pong"])
def test_another_message_that_cannot_be_decoded_leaves_the_book_as_it_is(kind: str) -> None:
    relayed = Relayed().live(0, 190)
    relayed.script.frame(90.5, f'{{"type":"{kind}","timestamp":'.encode(), RELAY)
    assert {bar["status"] for bar in relayed.bars().values()} == {"quiet"}


def test_a_stale_message_without_its_reason_counts_all_the_same() -> None:
    relayed = Relayed().live(0, 90).live(90, 130, relay=False).say(90.6, "stale", symbol="BTC")
    assert run(relayed.script)[0].state.ledger.stall_cause(BTC) == UPSTREAM_STALE


def test_a_book_that_cannot_be_used_outlasts_a_relay_that_has_recovered() -> None:
    relayed = Relayed().live(0, 90).live(90, 190, relay=False).beats(90, 190)
    relayed.say(90.6, "stale", symbol="BTC", reason="upstream")
    relayed.script.frame(95, b'{"type":"orderbook"', RELAY)
    relayed.say(96, "recovered", symbol="BTC", timestamp=Script.venue_ms(96))
    pipeline, rows = run(relayed.script)
    assert pipeline.state.ledger.stall_cause(BTC) == UNDECODABLE
    assert {latest(rows["bars"], BTC)[n]["status"] for n in (1, 2)} == {"blind"}


def test_a_symbol_that_never_delivered_a_book_is_not_quiet() -> None:
    relayed = Relayed().live(0, 250, relay=False).beats(0, 250)
    for n in range(190, 250):
        relayed.book(n + 0.7, n)
    bars = relayed.bars()
    assert [(bars[n]["status"], bars[n]["cause"]) for n in (1, 2)] == [("unknown", NO_BOOK_YET)] * 2
    assert (bars[3]["status"], bars[3]["cause"]) == ("quiet", "")


def test_a_spot_pair_may_go_by_either_of_its_names() -> None:
    relayed = Relayed("PURR/USDC")
    relayed.say(
        1, "orderbook", symbol="@0", bids=[[1.5, 2.0]], asks=[[1.6, 2.0]], timestamp=Script.venue_ms(0.9)
    )
    _, rows = run(relayed.script)
    assert [row["instrument"] for row in rows["books"]] == ["gaiaex|spot|PURR/USDC"]
    assert "quarantine" not in rows


def test_a_frame_of_a_socket_that_is_gone_is_not_taken() -> None:
    relayed = Relayed().live(0, 5)
    relayed.script.close(5, RELAY).frame(5.5, {"type": "heartbeat", "timestamp": 1}, RELAY)
    _, rows = run(relayed.script)
    assert len(rows["quarantine"]) == 1
