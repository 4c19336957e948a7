"""A feed in which most frames are broken in one place, with every frame accounted for."""

from __future__ import annotations

import base64
import gc
import itertools
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ingest.journal.records import Record, RecordBatch, RecordKind
from ingest.pipeline.processor import Pipeline
from storage.clock import MS_NS
from storage.settings import Settings
from tests.ingest.pipeline.frame_accounting import Account
from tests.ingest.pipeline.mutations import mutate
from tests.ingest.pipeline.scripts import START_NS

COINS: Final = ("BTC", "ETH", "SOL", "WLFI", "xyz:AAPL")
VENUES: Final = {-1: "", 0: "hyperliquid", 1: "hyperliquid", 2: "gaiaex", 3: "chain"}
MUTATED: Final = 0.7
TWICE: Final = 0.2
_LOT: Final = 20_000
_STAMP: Final = re.compile(rb"\b1[6-9]\d{11}\b")
_MS: Final = 1_757_015_209_306
_CONTEXT: Final = {
    "funding": "0.0000125", "openInterest": "30000.5", "prevDayPx": "100.5", "dayNtlVlm": "2000000.25",
    "premium": "-0.0001", "oraclePx": "101.5", "markPx": "101.25", "midPx": "101.3", "impactPxs": ["101.1", "101.4"],
    "dayBaseVlm": "9000.5",
}  # fmt: skip
_SPOT: Final = {
    "prevDayPx": "0.2", "dayNtlVlm": "1000.5", "markPx": "0.21", "midPx": "0.205", "circulatingSupply": "5e8",
    "coin": "@107", "dayBaseVlm": "10.5",
}  # fmt: skip


def _packed(changes: dict[str, Any]) -> str:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(json.dumps(changes).encode()) + packer.flush()).decode()


def hyperliquid_frames() -> list[bytes]:
    """Return one frame or more of every channel, as the venue writes them."""
    level = {"px": "101.2", "sz": "3.5", "n": 4}, {"px": "101.4", "sz": "0.25", "n": 1}
    side = [{"px": f"{101 - n / 10:.1f}", "sz": "2.5", "n": 2} for n in range(5)]
    asks = [{"px": f"{102 + n / 10:.1f}", "sz": "2.5", "n": 2} for n in range(5)]
    a_print = {
        "side": "B",
        "px": "101.4",
        "sz": "0.25",
        "hash": "0x" + "ab" * 32,
        "time": _MS,
        "tid": 118906512037719,
    }
    messages: list[tuple[str, Any]] = [
        ("pong", None),
        ("allMids", {"mids": {"BTC": "101.3", "@107": "0.2", "#1": "0.5"}}),
    ]
    for coin in COINS:
        book = {"coin": coin, "time": _MS, "levels": [side, asks]}
        twap = a_print | {
            "coin": coin,
            "side": "A",
            "hash": "0x" + "0" * 64,
            "tid": 118906512037720,
            "users": ["0x1", "0x2"],
        }
        candle = {
            "t": _MS,
            "T": _MS + 59_999,
            "s": coin,
            "i": "1m",
            "o": "1.5",
            "c": "1.5",
            "h": "2",
            "l": "1",
            "v": "9.5",
            "n": 3,
        }
        messages += [
            ("trades", [a_print | {"coin": coin}]),
            ("trades", [a_print | {"coin": coin}, twap]),
            ("bbo", {"coin": coin, "time": _MS, "bbo": list(level)}),
            ("bbo", {"coin": coin, "time": _MS, "bbo": [level[0], None]}),
            ("l2Book", book),
            ("l2Book", book | {"fast": True}),
            ("activeAssetCtx", {"coin": coin, "ctx": _CONTEXT}),
            ("candle", candle),
        ]
    sub = {
        "method": "subscribe",
        "subscription": {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None},
    }
    messages += [
        ("activeSpotAssetCtx", {"coin": "@107", "ctx": _SPOT}),
        ("allDexsAssetCtxs", {"ctxs": [["", [_CONTEXT, _CONTEXT]], ["xyz", [_CONTEXT]]]}),
        ("assetCtxs", {"dex": "", "ctxs": [_CONTEXT, _CONTEXT]}),
        ("spotAssetCtxs", [_SPOT]),
        ("fastAssetCtxs", _packed({"BTC": {"markPx": "101.25"}, "xyz:AAPL": {"markPx": "201.25", "midPx": None}})),
        ("outcomeMetaUpdates", [{"outcomeCreated": {"outcome": 1}}]),
        ("subscriptionResponse", sub),
        ("error", 'Already subscribed: {"type":"trades","coin":"BTC"}'),
    ]  # fmt: skip
    return [
        _compact({"channel": channel, "data": data} if data else {"channel": channel})
        for channel, data in messages
    ]


def gaiaex_frames() -> list[bytes]:
    """Return frames of both generations of GaiaEx's pages."""
    bids, asks = [["101.2", "3.5"], ["101.1", "1"]], [["101.4", "0.25"]]
    about = {"symbol": "BTC", "timestamp": _MS}
    flat = [{"px": px, "sz": sz, "n": 1} for px, sz in (*bids, *asks, ("101.5", "2"))]
    number = [{"price": 101.2, "size": 3.5, "count": 1}], [{"price": 101.4, "size": 0.5, "count": 2}]
    messages: list[dict[str, Any]] = [
        {"type": "orderbook", "bids": bids, "asks": asks, "stale": False, "feed_connected": True} | about,
        {"type": "orderbook", "bids": number[0], "asks": number[1], "stale": True} | about,
        {"type": "orderbook", "coin": "BTC", "levels": flat, "time": _MS},
        {"type": "heartbeat", "timestamp": _MS},
        {"type": "heartbeat", "stale": False} | about,
        {"type": "stale", "reason": "upstream disconnected"},
        {"type": "stale", "reason": "upstream_disconnected"} | about,
        {"type": "recovered"} | about,
        {"type": "error", "code": "RATE_LIMIT", "message": "slow down"},
    ]  # fmt: skip
    return [*map(_compact, messages), b"pong"]


def explorer_frames() -> list[bytes]:
    """Return frames of the explorer's socket."""
    block = {
        "blockTime": _MS,
        "hash": "0x" + "cd" * 32,
        "height": 700_000_001,
        "numTxs": 120,
        "proposer": "0xef",
    }
    return [_compact([block]), _compact([block, block | {"height": 700_000_002}]), b'{"channel":"pong"}']


def records(seed: int, frames: int, real: Sequence[bytes] = ()) -> Iterator[list[Record]]:
    """Yield a recording in lots: two sockets of Hyperliquid, a relay and the explorer, most frames broken.

    Args:
        seed: the same one gives the same frames.
        frames: how many.
        real: frames of a capture, taken beside those made here.
    """
    chance = random.Random(seed)
    corpus = {0: hyperliquid_frames(), 2: gaiaex_frames(), 3: explorer_frames()}
    everything = [*itertools.chain.from_iterable(corpus.values()), *real]
    lot = list(_opening())
    at_ns, number = START_NS + 1_000 * MS_NS, len(lot)
    for left in range(frames, 0, -1):
        # Frames of one venue come in bursts, or none would ever be read in bulk.
        if left % 200 == 0 or left == frames:
            burst = chance.choices((0, 2, 3), (8, 1, 0.3))[0]
            length = 200 if burst == 0 else 40
        elif left % 200 == 200 - length:
            burst = 0
        at_ns += int(chance.expovariate(1.0) * 6 * MS_NS)
        if burst == 0 and lot and chance.random() < TWICE and lot[-1].connection == 0:
            connection, body = 1, lot[-1].body
            if chance.random() < 0.1:
                body = mutate(body, chance, everything)
        else:
            # Half of Hyperliquid's are from the tape, which has few channels.
            is_real = real and burst == 0 and chance.random() < 0.5
            connection, body = burst, chance.choice(real if is_real else corpus[burst])
            body = _STAMP.sub(b"%d" % (at_ns // MS_NS - chance.randrange(200, 900)), body)
            if chance.random() < MUTATED:
                body = mutate(body, chance, everything)
        lot.append(Record(number, at_ns, RecordKind.FRAME, connection, body))
        number += 1
        if len(lot) >= _LOT or left == 1:
            yield lot
            lot = []


def fuzz(settings: Settings, lots: Iterator[list[Record]]) -> tuple[Account, Pipeline, Counter[str]]:
    """Put lots of records through a pipeline and account for each; return the account and rows by table."""
    pipeline = Pipeline("made", settings, is_capture=False)
    account, made = Account(pipeline, VENUES), Counter[str]()
    for lot in lots:
        pipeline.process_batch(RecordBatch.of(lot))
        pipeline.state.take_streams()
        tables = pipeline.drain()
        account.take([record for record in lot if record.kind is RecordKind.FRAME], tables)
        made.update({name: table.num_rows for name, table in tables.items()})
        gc.collect()
    account.close()
    return account, pipeline, made


def _opening() -> Iterator[Record]:
    universe = {"universe": [{"name": "BTC", "szDecimals": 5}, {"name": "ETH", "szDecimals": 4}]}
    answer = {"request": {"type": "meta"}, "response": universe, "asked_ns": START_NS}
    controls: list[tuple[RecordKind, int, Any]] = [
        (RecordKind.STARTED, -1, {"source": "socket", "coins": list(COINS)}),
        (RecordKind.ANSWER, -1, answer),
        (RecordKind.OPENED, 0, {"url": "ws://made", "venue": "hyperliquid"}),
        (RecordKind.OPENED, 1, {"url": "ws://made", "venue": "hyperliquid"}),
        (RecordKind.OPENED, 2, {"url": "ws://made", "venue": "gaiaex", "symbol": "BTC"}),
        (RecordKind.OPENED, 3, {"url": "ws://made", "venue": "chain"}),
    ]
    for connection, coin, channel in itertools.product(
        (0, 1), (*COINS, "@107"), ("trades", "bbo", "activeAssetCtx")
    ):
        data = {"method": "subscribe", "subscription": {"type": channel, "coin": coin}}
        controls.append((RecordKind.FRAME, connection, {"channel": "subscriptionResponse", "data": data}))
    for number, (kind, connection, body) in enumerate(controls):
        yield Record(number, START_NS, kind, connection, _compact(body))


def _compact(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
