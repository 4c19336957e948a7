"""Frames: real ones are read, and whatever does not fit is refused with the field's path."""

from __future__ import annotations

import json

import pytest

from ingest import decode as wire
from storage.errors import VenueError
from tests.conftest import recorded

REFUSED = {
    b"Websocket connection established.": "not JSON",
    b'{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"1097': "not JSON",
    b'{"channel":"trades","data":{"coin":"BTC"}}': r"Expected `array`.*\$.data",
    b'{"channel":"trades","data":[{"coin":"X","side":"B","px":"1","sz":"1","time":1}]}': "missing required field `tid`",
    b'{"channel":"trades","data":[{"coin":"X","side":"B","px":"dear","sz":"1","time":1,"tid":1}]}': r"\$.data\[0\].px",
    b'{"channel":"weather","data":1}': "Invalid value 'weather'",
    b'{"data":[]}': "missing required field `channel`",
    b"[1,2]": "Expected `object`",
    b"\x00\xff\xfe": "not JSON",
    b"": "not JSON",
}


@pytest.mark.parametrize(("frame", "reason"), REFUSED.items(), ids=[repr(frame)[:40] for frame in REFUSED])
def test_what_does_not_fit_is_refused_with_the_reason(frame: bytes, reason: str) -> None:
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
    assert message.data[0] == wire.Print("BTC", "B", 1.5, 2.0, 3, 4)


def test_an_empty_side_and_a_missing_mid_are_null_and_not_zero() -> None:
    bbo = wire.decode(
        b'{"channel":"bbo","data":{"coin":"X","time":1,"bbo":[null,{"px":"2","sz":"3","n":1}]}}'
    )
    ctx = wire.decode(
        b'{"channel":"activeAssetCtx","data":{"coin":"X","ctx":{"funding":"0.1","midPx":null}}}'
    )
    book = wire.decode(b'{"channel":"l2Book","data":null}')
    assert isinstance(bbo, wire.Bbo)
    assert bbo.data.bbo == (None, wire.Level(2.0, 3.0))
    assert isinstance(ctx, wire.ActiveAssetCtx)
    assert (ctx.data.ctx.funding, ctx.data.ctx.mid_px) == (0.1, None)
    assert isinstance(book, wire.L2Book)
    assert book.data is None


@pytest.mark.parametrize(
    ("file", "kind"),
    [("ws_book_data.json", wire.L2Book), ("ws_allmids.json", wire.Mids)],
)
def test_recorded_messages_are_read(file: str, kind: type) -> None:
    raw = json.loads(recorded(f"hyperliquid/messages/{file}").read_text())
    frame = (
        raw
        if "channel" in raw
        else {"channel": {wire.L2Book: "l2Book", wire.Mids: "allMids"}[kind], "data": raw}
    )
    assert isinstance(wire.decode(json.dumps(frame).encode()), kind)
