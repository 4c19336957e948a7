"""Venue-wide messages: mids, contexts by position, fast contexts, blocks of the chain.

Shapes follow the venue's documentation and recorded frames (2026-05 .. 2026-08). How often they come is not
documented; the cadences here are stated in `CADENCE`.
"""

from __future__ import annotations

import base64
import json
import zlib
from hashlib import blake2b
from typing import Any, Final

from ingest.simulator.server.market_state import MarketState
from ingest.simulator.wire.encoder import Block, context_text, decimal_text
from ingest.simulator.wire.subscriptions import VENUE_WIDE, StreamSubscription

CADENCE: Final = {
    "allMids": "second",
    "allDexsAssetCtxs": "contexts",
    "assetCtxs": "contexts",
    "spotAssetCtxs": "contexts",
    "fastAssetCtxs": "fast",
    "explorerBlock": "block",
}
"""When each channel is due: each second, with the contexts, each half second if changed, with each block."""

_GENESIS_HEIGHT: Final = 600_000_000
_NO_CONTEXT: Final = context_text(
    funding=0.0, interest="0.0", day_open="0.0", day_notional=0.0, premium=None, oracle="0.0", mark="0.0", mid=None,
    impact=None, day_base="0.0",
)  # fmt: skip


class VenueWide:
    """Messages of every stream: those of one coin from the market state, venue-wide ones made here."""

    def __init__(self, market: MarketState) -> None:
        self._market = market
        self._sent: dict[str, dict[str, str | None]] = {}
        self._changes: dict[str, dict[str, str | None]] = {}
        self._texts: dict[str, str | None] = {}

    def observe(self, block: Block) -> None:
        """Apply a block to the market state and the venue-wide messages."""
        self._market.observe(block)
        self._texts.clear()
        if block.fast_book:
            self._note_changes()

    def made(self, subscription: StreamSubscription) -> str | None:
        """Return the current message of an on-demand stream, or None if there is none."""
        if subscription.channel not in VENUE_WIDE:
            return self._market.made(subscription)
        key = subscription.key
        if key not in self._texts:
            self._texts[key] = self.text(subscription)
        return self._texts[key]

    def snapshot(self, subscription: StreamSubscription) -> str | None:
        """Return the first message of a stream other than trades, or None if nothing is known yet."""
        if subscription.channel not in VENUE_WIDE:
            return self._market.snapshot(subscription)
        if not self._market.makes_books:
            return self._market.latest(subscription.key)
        if subscription.channel == "fastAssetCtxs":
            if not self._sent:
                self._sent = self._fast_rows()
            return _fast_text(self._sent)
        return self.text(subscription)

    def text(self, subscription: StreamSubscription) -> str | None:
        """Return the current message; of the fast contexts the changes, or None without any."""
        channel, dex = subscription.channel, subscription.dex
        match channel:
            case "allMids":
                data: Any = {"mids": self._market.mids(dex)}
                return _text(channel, data if dex is None else {"dex": dex} | data)
            case "allDexsAssetCtxs":
                dexes = self._market.universe.dexes()
                pairs = ",".join(f"[{json.dumps(name)},{self.contexts(name)}]" for name in dexes)
                return f'{{"channel":"{channel}","data":{{"ctxs":[{pairs}]}}}}'
            case "assetCtxs":
                name = json.dumps(dex or "")
                return f'{{"channel":"{channel}","data":{{"dex":{name},"ctxs":{self.contexts(dex or "")}}}}}'
            case "spotAssetCtxs":
                return f'{{"channel":"{channel}","data":{self.spot_contexts()}}}'
            case "fastAssetCtxs":
                return _fast_text(self._changes) if self._changes else None
            case _:
                return self.blocks_text()

    def contexts(self, dex: str) -> str:
        """Return the contexts of a dex by position, as a JSON list."""
        market = self._market
        unknown = _NO_CONTEXT if market.makes_books else "null"
        rows = (market.context(row.name) or unknown for row in market.universe.of_dex(dex))
        return f"[{','.join(rows)}]"

    def spot_contexts(self) -> str:
        """Return the contexts of spot, each naming its coin, as a JSON list."""
        rows = (self._market.context(row.name) for row in self._market.universe.of_kind("spot"))
        return f"[{','.join(row for row in rows if row is not None)}]"

    def blocks_text(self) -> str:
        """Return the newest block of the chain in the explorer's format: a bare list."""
        market = self._market
        height = _GENESIS_HEIGHT + market.height
        digest = blake2b(b"%d %d" % (market.seed, height), digest_size=32).digest()
        row = {
            "blockTime": market.now_ms,
            "hash": f"0x{digest.hex()}",
            "height": height,
            "numTxs": 50 + digest[0],
            "proposer": f"0x{digest[:1].hex() * 20}",
        }
        return json.dumps([row], separators=(",", ":"))

    def _note_changes(self) -> None:
        """Update the fast contexts and their changes, if a client ever got a snapshot."""
        if not self._sent:
            return
        sent, now = self._sent, self._fast_rows()
        self._changes = {
            coin: {key: value for key, value in fields.items() if key not in old or old[key] != value}
            for coin, fields in now.items()
            if fields != (old := sent.get(coin, {}))
        }
        self._sent = now

    def _fast_rows(self) -> dict[str, dict[str, str | None]]:
        universe = self._market.universe
        rows = (row.name for row in [*universe.of_kind("perp"), *universe.of_kind("spot")])
        return {coin: fields for coin in rows if (fields := self._fast_fields(coin))}

    def _fast_fields(self, coin: str) -> dict[str, str | None]:
        market = self._market
        context = market.context(coin)
        if context is None or market.quote(coin) is None:
            return {}
        mid = market.mid(coin)
        return {
            "markPx": json.loads(context)["markPx"],
            "midPx": None if mid is None else decimal_text(mid, market.decimals(coin)[0] + 1),
        }


def pack(message: object) -> str:
    """Return an object in the encoding of the fast contexts: JSON, raw DEFLATE, base64.

    >>> pack({}), pack({"BTC": {"midPx": None}})
    ('q64FAA==', 'q1ZyCnFWsqpWys1MCahQssorzcmprQUA')
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = json.dumps(message, separators=(",", ":")).encode()
    return base64.b64encode(compressor.compress(body) + compressor.flush()).decode()


def _fast_text(rows: dict[str, dict[str, str | None]]) -> str:
    return _text("fastAssetCtxs", pack(rows))


def _text(channel: str, data: object) -> str:
    return json.dumps({"channel": channel, "data": data}, separators=(",", ":"))
