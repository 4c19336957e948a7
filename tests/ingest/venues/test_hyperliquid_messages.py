"""Hyperliquid messages: recorded frames are parsed, malformed ones refused with the field's path."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import zlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.fast_contexts import MOST_INFLATED_BYTES
from storage.errors import VenueError
from tests.conftest import recorded

REFUSED = {
    b"Websocket connection refused.": "not JSON",
    b'{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"1097': "not JSON",
    b'{"channel":"trades","data":{"coin":"BTC"}}': r"Expected `array`.*\$.data",
    b'{"channel":"trades","data":[{"coin":"X","side":"B","px":"1","sz":"1","time":1}]}': "missing required field `tid`",
    b'{"channel":"trades","data":[{"coin":"X","side":"B","px":"dear","sz":"1","time":1,"tid":1}]}': r"\$.data\[0\].px",
    b'{"channel":"weather","data":1}': "Invalid value 'weather'",
    b'{"data":[]}': "missing required field `channel`",
    b"[1,2]": "Expected `object`",
    b'[{"height":1}]': "missing required field `blockTime`",
    b'{"channel":"l2Book","data":{"coin":"X","time":1}}': "missing required field `levels`",
    b'{"channel":"l2Book","data":{"coin":"X","time":1,"levels":[[]]}}': r"length 2.*\$.data.levels",
    b'{"channel":"allMids","data":{"mids":{"BTC":null}}}': r"Expected `float`.*\$.data.mids",
    b'{"channel":"allDexsAssetCtxs","data":{"ctxs":{"":[]}}}': r"Expected `array`.*\$.data.ctxs",
    b'{"channel":"greeting"}': "Invalid value 'greeting'",
    b"\x00\xff\xfe": "not JSON",
    b"": "not JSON",
}


CHANNELS = [kind.__struct_config__.tag for kind in wire.Message.__args__]


@pytest.mark.parametrize(("frame", "reason"), REFUSED.items(), ids=[repr(frame)[:40] for frame in REFUSED])
def test_malformed_frames_are_refused_with_the_reason(frame: bytes, reason: str) -> None:
    with pytest.raises(VenueError, match=reason):
        wire.decode(frame)


def test_unknown_fields_are_no_reason_to_refuse() -> None:
    frame = {
        "coin": "BTC",
        "side": "B",
        "px": "1.5",
        "sz": "2",
        "time": 3,
        "tid": 4,
        "users": ["a", "b"],
        "new": {},
    }
    message = wire.decode(json.dumps({"channel": "trades", "data": [frame], "seq": 1}).encode())
    assert isinstance(message, wire.Trades)
    assert message.data[0] == wire.WirePrint("BTC", "B", 1.5, 2.0, 3, 4)


CONTEXT = {
    "funding": "0.1",
    "openInterest": "7",
    "prevDayPx": "1",
    "dayNtlVlm": "0.0",
    "oraclePx": "2",
    "markPx": "2.5",
}
CANDLE: dict[str, Any] = {
    "t": 60_000,
    "T": 119_999,
    "s": "BTC",
    "i": "1m",
    "o": "1",
    "c": "2",
    "h": "3",
    "l": "0.5",
    "v": "9",
    "n": 4,
}


def read(channel: str, data: Any) -> Any:
    """Return a message of a channel, decoded from its frame."""
    return wire.decode(json.dumps({"channel": channel, "data": data}).encode())


@pytest.mark.parametrize("field", CONTEXT)
def test_a_context_without_a_field_is_refused_by_name_and_not_read_as_null(field: str) -> None:
    """F34: a venue that renames a field must not empty a column in silence."""
    renamed = {f"{key}V1" if key == field else key: value for key, value in CONTEXT.items()}
    with pytest.raises(VenueError, match=f"missing required field `{field}` - at `\\$.data.ctx`"):
        read("activeAssetCtx", {"coin": "X", "ctx": renamed})


@pytest.mark.parametrize("field", CANDLE)
def test_a_candle_without_a_field_is_refused_by_name(field: str) -> None:
    with pytest.raises(VenueError, match=f"missing required field `{field}`"):
        read("candle", {key: value for key, value in CANDLE.items() if key != field})


def test_an_empty_side_and_a_missing_mid_are_null_and_not_zero() -> None:
    """F18."""
    bbo = read("bbo", {"coin": "X", "time": 1, "bbo": [None, {"px": "2", "sz": "3", "n": 1}]})
    ctx = read("activeAssetCtx", {"coin": "X", "ctx": CONTEXT | {"midPx": None, "impactPxs": None}})
    spot = read("activeSpotAssetCtx", {"coin": "@107", "ctx": CONTEXT | {"midPx": None}})
    assert bbo.data.bbo == (None, wire.Level(2.0, 3.0, 1))
    assert (ctx.data.ctx.funding, ctx.data.ctx.mid_px, ctx.data.ctx.impact_pxs) == (0.1, None, None)
    assert (spot.data.coin, spot.data.ctx.mark_px, spot.data.ctx.mid_px) == ("@107", 2.5, None)
    assert read("l2Book", None).data is None
    assert read("l2Book", {"coin": "X", "time": 1, "levels": [[], []]}).data.levels == ([], [])


def test_a_fast_book_says_so_and_a_slow_one_does_not() -> None:
    book = {"coin": "X", "time": 1, "levels": [[{"px": "1", "sz": "2", "n": 3}], [{"px": "2", "sz": "1"}]]}
    fast, slow = read("l2Book", book | {"fast": True}).data, read("l2Book", book).data
    assert (fast.fast, slow.fast) == (True, None)
    assert slow.levels == ([wire.Level(1.0, 2.0, 3)], [wire.Level(2.0, 1.0, None)])


def test_a_candle_keeps_every_field_whether_number_or_text() -> None:
    """The pages say number, the wire says text (F14)."""
    as_numbers = {key: float(value) if key in "ochlv" else value for key, value in CANDLE.items()}
    expected = wire.CandleData("BTC", "1m", 60_000, 119_999, 1.0, 2.0, 3.0, 0.5, 9.0, 4)
    assert read("candle", CANDLE).data == read("candle", as_numbers).data == expected


def test_compressed_contexts_are_unpacked_with_absent_and_null_fields() -> None:
    text = "q1ZyCnFWsqpWyk0syg6oULJSMjM0MjbRM1Wq1VGqqKyycnQM8EGRNzIw1DMyVdJRys1MAQnklebk1NYCAA=="
    found = read("fastAssetCtxs", text).data.by_coin
    assert (found["BTC"].mark_px, found["BTC"].mid_px) == (61234.5, UNSET)
    assert (found["xyz:AAPL"].mark_px, found["xyz:AAPL"].mid_px) == (201.25, None)


def packed(plain: bytes) -> str:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return base64.b64encode(stream.compress(plain) + stream.flush()).decode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("!!", "cannot be unpacked"),
        (base64.b64encode(b"\xff\xff\xff").decode(), "cannot be unpacked"),
        (packed(b'{"BTC":{"markPx":"1"}}')[:-8] + "====", "cannot be unpacked|cut short"),
        (packed(b"[1]"), "do not fit: Expected `object`"),
        (packed(b'{"BTC":{"markPx":"dear"}}'), "do not fit"),
        (packed(b" " * (MOST_INFLATED_BYTES + 1)), f"more than {MOST_INFLATED_BYTES} bytes"),
        (7, "Expected `str`"),
    ],
)
def test_compressed_contexts_that_do_not_fit_are_refused_with_the_reason(data: object, reason: str) -> None:
    with pytest.raises(VenueError, match=rf"({reason}).*\$.data"):
        read("fastAssetCtxs", data)


def test_lists_of_contexts_mids_and_outcomes_are_read() -> None:
    dexs = read("allDexsAssetCtxs", {"ctxs": [["", [CONTEXT]], ["xyz", []]]}).data.ctxs
    assert [(dex, [ctx.mark_px for ctx in ctxs]) for dex, ctxs in dexs] == [("", [2.5]), ("xyz", [])]
    assert read("assetCtxs", {"dex": "xyz", "ctxs": [CONTEXT]}).data.dex == "xyz"
    assert read("spotAssetCtxs", [CONTEXT | {"coin": "@1"}]).data[0].coin == "@1"
    with pytest.raises(VenueError, match="missing required field `coin`"):
        read("spotAssetCtxs", [CONTEXT])
    mids = read("allMids", {"mids": {"flx:TSLA": "1.5"}, "dex": "flx"}).data
    assert (mids.mids, mids.dex) == ({"flx:TSLA": 1.5}, "flx")
    assert len(read("outcomeMetaUpdates", [{"outcomeCreated": {}}, {"outcomeSettled": 1}]).data) == 2


def test_blocks_of_the_chain_come_as_a_bare_array() -> None:
    message = wire.decode(b'[{"blockTime":5,"height":9,"hash":"0x1","numTxs":2,"proposer":"0x2"}]')
    assert isinstance(message, wire.ExplorerBlocks)
    assert [(block.block_time, block.height) for block in message.data] == [(5, 9)]


def test_the_bare_greeting_of_older_servers_is_accepted() -> None:
    assert isinstance(wire.decode(b"Websocket connection established."), wire.Greeting)


def test_an_echo_with_more_fields_than_were_asked_is_read() -> None:
    echo = {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None, "fast": None}
    data = read("subscriptionResponse", {"method": "subscribe", "subscription": echo}).data
    assert data.subscription == wire.SubscriptionEcho("l2Book", "BTC")
    held = wire.already_subscribed('Already subscribed: {"type":"candle","coin":"BTC","interval":"1m"}')
    assert held == wire.SubscriptionEcho("candle", "BTC", "1m")
    assert wire.already_subscribed("Invalid subscription {}") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(CHANNELS),
)
def test_no_value_breaks_the_decoder(data: Any, channel: str) -> None:
    """Whatever a channel carries is read, or refused with a reason."""
    with contextlib.suppress(VenueError):
        assert wire.Message.__args__.count(type(read(channel, data))) == 1


CHANNEL_OF = {"ws_all_dexs_asset_ctxs.json": "allDexsAssetCtxs", "ws_allmids.json": "allMids"}


@pytest.mark.parametrize(("file", "channel"), CHANNEL_OF.items())
def test_recorded_messages_are_read(file: str, channel: str) -> None:
    message: Any = wire.decode(recorded(f"hyperliquid/messages/{file}").read_bytes())
    assert message.__struct_config__.tag == channel
    if channel == "allDexsAssetCtxs":
        assert [(dex, len(ctxs)) for dex, ctxs in message.data.ctxs][:2] == [("", 230), ("abcd", 1)]
        assert sum(ctx.mid_px is None for _, ctxs in message.data.ctxs for ctx in ctxs) == 78


@pytest.mark.parametrize("file", ["ws_book_data", "http_l2_book_btc", "http_l2_book_snapshot"])
def test_recorded_books_are_read(file: str) -> None:
    raw = json.loads(recorded(f"hyperliquid/messages/{file}.json").read_text())
    message = read("l2Book", raw)
    assert [len(side) for side in message.data.levels] == [5, 5]
    assert str(message.data.levels[0][0].px) == f"{float(raw['levels'][0][0]['px'])}"


def test_every_frame_of_the_verbatim_recording_is_read() -> None:
    path = recorded("hyperliquid/ws_20250126_btc_verbatim.txt.gz")
    frames = [line.split(b" ", 1)[1] for line in gzip.decompress(path.read_bytes()).splitlines()]
    tags = Counter(wire.decode(frame).__struct_config__.tag for frame in frames)
    assert tags == {"l2Book": 46, "trades": 9}
