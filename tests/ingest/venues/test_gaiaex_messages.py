"""GaiaEx messages of both generations: parsing, refusal of ambiguous books, byte-exact names."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.pipeline.order_books import unusable_book
from ingest.venues.gaiaex import messages as wire
from ingest.venues.gaiaex import protocol
from ingest.venues.gaiaex.rest_schemas import (
    GaiaexHealth,
    ServerTime,
    SpotSymbols,
    Symbols,
    generation_of,
    parse,
)
from ingest.venues.hyperliquid.messages import Level
from storage.errors import VenueError

G2 = {
    "type": "orderbook",
    "symbol": "xyz:AAPL",
    "bids": [["201.10", "14.000"], ["201.05", "3.500"]],
    "asks": [["201.20", "9.250"]],
    "priceDecimals": 2,
    "timestamp": 1793000000123,
    "stale": False,
    "displayName": "AAPL",
    "feed_connected": True,
}
BIDS = ([201.10, 14.0], [201.05, 3.5])
ASKS = ([201.20, 9.25],)


def flat(*prices: float) -> dict[str, Any]:
    """Return a book of the first generation: one list, no sides."""
    levels = [{"px": str(price), "sz": "1.5", "n": 2} for price in prices]
    return {"type": "orderbook", "coin": "BTC", "levels": levels, "time": 1793000000123}


def read(message: Any) -> Any:
    """Return a message decoded from its frame."""
    return wire.decode(message if isinstance(message, bytes) else json.dumps(message).encode())


def test_a_book_of_the_second_generation_is_read() -> None:
    book = read(G2)
    assert (book.symbol, book.time, book.generation, book.is_stale) == (
        "xyz:AAPL",
        1793000000123,
        "G2",
        False,
    )
    assert book.levels == ([Level(px, sz) for px, sz in BIDS], [Level(px, sz) for px, sz in ASKS])
    assert unusable_book(book, "relay") == ""


def test_a_spot_book_of_json_numbers_says_the_same_as_one_of_text() -> None:
    numbers = {
        "bids": [{"price": px, "size": sz, "count": 1} for px, sz in BIDS],
        "asks": [{"price": px, "size": sz, "count": 1} for px, sz in ASKS],
    }
    sides = [[(level.px, level.sz) for level in side] for side in read(G2 | numbers).levels]
    assert sides == [[(level.px, level.sz) for level in side] for side in read(G2).levels]


@pytest.mark.parametrize("word", [{"stale": True}, {"feed_connected": False}])
def test_a_book_marked_as_frozen_is_stale(word: dict[str, bool]) -> None:
    """F29."""
    assert read(G2 | word).is_stale


def test_a_flat_book_with_one_turning_point_is_split_there() -> None:
    """F30: the first generation."""
    book = read(flat(100, 99, 98, 101, 103))
    assert [[level.px for level in side] for side in book.levels] == [[100, 99, 98], [101, 103]]
    assert (book.symbol, book.generation, book.levels[0][0].n) == ("BTC", "G1", 2)


AMBIGUOUS = {
    "rises throughout": (100, 101, 102),
    "falls throughout": (102, 101, 100),
    "a bid or an ask": (100, 101),
    "two turns": (100, 99, 101, 100.5, 102),
    "an ask below the best bid": (100, 98, 99, 101),
    "an ask at the best bid": (100, 98, 100),
    "twice one price": (100, 100, 101),
    "asks first": (101, 102, 100, 99),
    "one level": (100,),
    "none": (),
}


@pytest.mark.parametrize("prices", AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_a_flat_book_that_could_be_split_otherwise_is_refused(prices: tuple[float, ...]) -> None:
    with pytest.raises(VenueError, match="schema_unsupported: a flat book"):
        read(flat(*prices))


def is_split(prices: list[int], at: int) -> bool:
    """Return whether a list can be bids up to an index and asks from there on."""
    bids, asks = prices[:at], prices[at:]
    falls = all(a > b for a, b in itertools.pairwise(bids))
    rises = all(a < b for a, b in itertools.pairwise(asks))
    return falls and rises and (not bids or not asks or bids[0] < asks[0])


@given(st.lists(st.integers(1, 9), max_size=6))
def test_a_flat_book_is_read_only_if_its_split_is_the_only_one(prices: list[int]) -> None:
    """Against a search of every split; a list that only falls is refused too, since it may hold both sides."""
    possible = [at for at in range(len(prices) + 1) if is_split(prices, at)]
    unique = len(possible) == 1 and 0 < possible[0] < len(prices)
    try:
        bids, asks = wire.split_flat([Level(float(price), 1.0) for price in prices])
    except VenueError:
        assert not unique
    else:
        assert unique
        assert (len(bids), len(bids) + len(asks)) == (possible[0], len(prices))


def test_liveness_and_its_loss_are_read_in_both_generations() -> None:
    assert read({"type": "heartbeat", "timestamp": 5}) == wire.RelayHeartbeat(5)
    assert read({"type": "heartbeat", "timestamp": 5, "symbol": "BTC", "stale": True}).stale
    assert read({"type": "stale", "reason": "upstream disconnected"}).symbol == ""
    lost = {"type": "stale", "symbol": "BTC", "reason": "upstream_disconnected", "timestamp": 7}
    assert read(lost) == wire.UpstreamLost("upstream_disconnected", "BTC", 7)
    assert read({"type": "recovered"}) == wire.UpstreamRecovered()
    assert read({"type": "recovered", "symbol": "BTC", "timestamp": 9}).timestamp == 9
    assert isinstance(read(b"pong"), wire.GaiaPong)
    assert isinstance(read(b" pong\n"), wire.GaiaPong)


def test_only_an_unsupported_symbol_is_terminal() -> None:
    """F31."""
    refused = read(
        {"type": "error", "code": "SYMBOL_NOT_SUPPORTED", "message": "Symbol FOO is not supported"}
    )
    assert (refused.is_terminal, refused.message) == (True, "Symbol FOO is not supported")
    assert not read({"type": "error", "code": "RATE_LIMITED"}).is_terminal


REFUSED = {
    b"ping pong": "not JSON",
    b"": "not JSON",
    b'{"type":"ticker","symbol":"BTC"}': "Invalid value 'ticker'",
    b'{"symbol":"BTC"}': "missing required field `type`",
    b'{"type":"heartbeat"}': "missing required field `timestamp`",
    b'{"type":"error","message":"no"}': "missing required field `code`",
    b'{"type":"orderbook","symbol":"BTC","timestamp":1}': "schema_unsupported: an orderbook has either",
    b'{"type":"orderbook","symbol":"BTC","timestamp":1,"bids":[]}': "missing required field `asks`",
    b'{"type":"orderbook","bids":[],"asks":[],"timestamp":1}': "missing required field `symbol`",
    b'{"type":"orderbook","symbol":"BTC","bids":[],"asks":[]}': "missing required field `timestamp`",
    b'{"type":"orderbook","symbol":"BTC","bids":[["1"]],"asks":[],"timestamp":1}': "a level of 1 numbers",
    b'{"type":"orderbook","symbol":"BTC","bids":[["dear","1"]],"asks":[],"timestamp":1}': r"\$.bids\[0\]",
    b'{"type":"orderbook","levels":[],"time":1}': "missing required field `coin`",
    b'{"type":"pong","x":' + b'{"a":' * 100_000: "nested too deeply",
}


@pytest.mark.parametrize(("frame", "reason"), REFUSED.items(), ids=[repr(frame)[:50] for frame in REFUSED])
def test_malformed_frames_are_refused_with_the_reason(frame: bytes, reason: str) -> None:
    with pytest.raises(VenueError, match=reason):
        wire.decode(frame)


def test_unknown_fields_are_no_reason_to_refuse() -> None:
    """F34."""
    assert read(G2 | {"sequence": 7, "bids": [["201.10", "14.000", "3"]]}).levels[0] == [Level(201.1, 14.0)]


@given(st.binary(max_size=40), st.sampled_from(["orderbook", "heartbeat", "stale", "error"]))
def test_no_frame_breaks_the_decoder(noise: bytes, kind: str) -> None:
    for frame in (noise, json.dumps({"type": kind, "bids": noise.decode("latin-1"), "levels": [1]}).encode()):
        with contextlib.suppress(VenueError):
            assert type(wire.decode(frame)) in wire.GaiaMessage.__args__


ADDRESSES = {
    "BTC": "wss://host/ws/market/BTC",
    "xyz:AAPL": "wss://host/ws/market/xyz:AAPL",
    "@145": "wss://host/ws/market/spot/@145",
    "PURR/USDC": "wss://host/ws/market/spot/PURR%2FUSDC",
}


@pytest.mark.parametrize(("symbol", "address"), ADDRESSES.items())
def test_an_address_holds_the_symbol_with_only_the_slash_encoded(symbol: str, address: str) -> None:
    assert protocol.socket_url("wss://host/ws/market/", symbol) == address


@pytest.mark.parametrize("symbol", [*ADDRESSES, "kPEPE"])
def test_an_instrument_and_its_twin_keep_the_raw_name(symbol: str) -> None:
    """F23: a name that looks like a fault of typing is still the name."""
    instrument = protocol.instrument_id(symbol)
    assert instrument.split("|")[0::2] == ["gaiaex", symbol]
    assert protocol.twin_of(instrument) == instrument.replace("gaiaex", "hyperliquid")


def test_lists_of_both_generations_are_parsed_and_distinguished() -> None:
    g1 = [
        {
            "symbol": "BTC",
            "assetClass": "crypto",
            "maxLeverage": 40,
            "marginMode": "cross",
            "tradingHours": "24/7",
        },
        {"symbol": "vntl:OPENAI", "displayName": "OPENAI", "assetClass": "venture", "deployer": "vntl"},
    ]
    g2 = [
        {
            "symbol": "BTC",
            "displayName": "BTC",
            "assetClass": "crypto",
            "priceDecimals": 1,
            "currentPrice": "1.5",
        }
    ]
    found = [
        parse(
            json.dumps({"symbols": symbols, "count": len(symbols), "timestamp": 1}).encode(), Symbols
        ).symbols
        for symbols in (g1, g2, [{"symbol": "BTC"}])
    ]
    assert [generation_of(symbols) for symbols in found] == ["G1", "G2", None]
    assert [symbol.max_leverage for symbol in found[0]] == [40.0, None]
    assert found[1][0].price_decimals == 1


def test_the_other_answers_are_read() -> None:
    spot = b'{"status":"ok","count":1,"symbols":[{"symbol":"@145","subCoin":"PURR","szDecimals":0,"isCanonical":true}]}'
    assert parse(spot, SpotSymbols).symbols[0].sz_decimals == 0
    assert parse(b'{"serverTime":5}', ServerTime).server_time == 5
    health = parse(
        b'{"status":"ok","services":{"market_data":"up"},"fee_rate":"0.00035","serverTime":5}', GaiaexHealth
    )
    assert (health.status, health.services["market_data"]) == ("ok", "up")


@pytest.mark.parametrize("answer", [b"<html>502</html>", b'{"symbols":null}', b"[]", b""])
def test_an_answer_that_does_not_fit_names_what_it_should_be(answer: bytes) -> None:
    with pytest.raises(VenueError, match="GaiaEx's answer is no Symbols") as caught:
        parse(answer, Symbols)
    assert "tickwalk probe" in caught.value.hint
