"""Client requests of the simulated Hyperliquid: parsed, validated and echoed.

Error sentences as recorded by clients of the venue in 2025 and 2026 (`Already subscribed: ...`, `Invalid
subscription ...`, `Error parsing JSON into valid websocket request: ...`).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from ingest.simulator.wire.candles import INTERVAL_MINUTES

COIN_CHANNELS: Final = frozenset({"trades", "bbo", "l2Book", "candle", "activeAssetCtx"})
VENUE_WIDE: Final = frozenset(
    {"allMids", "allDexsAssetCtxs", "assetCtxs", "spotAssetCtxs", "fastAssetCtxs", "explorerBlock"}
)
"""Channels that name no coin; `explorerBlock` is served by the explorer only."""
API_CHANNELS: Final = (COIN_CHANNELS | VENUE_WIDE) - {"explorerBlock"}
EXPLORER_CHANNELS: Final = frozenset({"explorerBlock"})
_OF_A_DEX: Final = ("allMids", "assetCtxs")


class RequestRefused(Exception):  # noqa: N818 - the venue's answer, not an error of the program
    """The venue answers with an error; the text is its sentence."""


@dataclass(frozen=True, slots=True)
class StreamSubscription:
    """One stream: of one coin, or of the whole venue (then `coin` is empty)."""

    channel: str
    coin: str
    interval: str = ""
    significant_figures: int | None = None
    mantissa: int | None = None
    fast: bool = False
    dex: str | None = None

    @property
    def key(self) -> str:
        """Return the key of frames of this stream."""
        if self.channel == "candle":
            return f"candle:{self.coin}:{self.interval}"
        if self.channel in VENUE_WIDE:
            return f"{self.channel}:{self.dex or ''}"
        if self.significant_figures or self.fast:
            return f"l2Book:{self.coin}:{self.significant_figures}:{self.mantissa}:{self.fast}"
        return f"{self.channel}:{self.coin}"

    def echo(self) -> str:
        """Return the subscription as the venue echoes it, with omitted fields filled in."""
        fields: dict[str, Any] = {"type": self.channel}
        if self.channel in VENUE_WIDE:
            return json.dumps(
                fields if self.dex is None else fields | {"dex": self.dex}, separators=(",", ":")
            )
        if self.channel == "candle":
            fields["interval"] = self.interval
        fields["coin"] = self.coin
        if self.channel == "l2Book":
            fields |= {"nSigFigs": self.significant_figures, "mantissa": self.mantissa}
            if self.fast:
                fields["fast"] = True
        return json.dumps(fields, separators=(",", ":"))


class ClientRequest(NamedTuple):
    """A client's message; `subscription` is None for a ping."""

    method: Literal["ping", "subscribe", "unsubscribe"]
    subscription: StreamSubscription | None = None


def parse_request(
    text: str, coins: Collection[str], channels: Collection[str] = API_CHANNELS
) -> ClientRequest:
    """Parse a client's message.

    Args:
        text: the message.
        coins: the universe; empty accepts any coin.
        channels: that are served.

    Raises:
        RequestRefused: the message is unknown to the venue, or names an unknown coin or interval.
    """
    unknown = RequestRefused(f"Error parsing JSON into valid websocket request: {text}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise unknown from None
    if not isinstance(message, dict):
        raise unknown
    method, body = message.get("method"), message.get("subscription")
    if method == "ping":
        return ClientRequest("ping")
    if method not in ("subscribe", "unsubscribe") or not isinstance(body, dict):
        raise unknown
    channel, coin = body.get("type"), body.get("coin")
    if not isinstance(channel, str) or channel not in channels:
        raise unknown
    if channel in VENUE_WIDE:
        return ClientRequest(method, _venue_wide(channel, body))
    if not isinstance(coin, str):
        raise unknown
    subscription = StreamSubscription(
        channel=channel,
        coin=coin,
        interval=str(body.get("interval", "")),
        significant_figures=body.get("nSigFigs"),
        mantissa=body.get("mantissa"),
        fast=body.get("fast") is True,
    )
    if (coins and subscription.coin not in coins) or not fits(subscription):
        raise RequestRefused(f"Invalid subscription {json.dumps(body, separators=(',', ':'))}")
    return ClientRequest(method, subscription)


def _venue_wide(channel: str, body: dict[str, Any]) -> StreamSubscription:
    dex = body.get("dex")
    if dex is not None and (channel not in _OF_A_DEX or not isinstance(dex, str)):
        raise RequestRefused(f"Invalid subscription {json.dumps(body, separators=(',', ':'))}")
    return StreamSubscription(channel, "", dex=dex)


def ack_text(method: str, subscription: StreamSubscription) -> str:
    """Return the acknowledgement of a subscription or unsubscription."""
    return f'{{"channel":"subscriptionResponse","data":{{"method":"{method}","subscription":{subscription.echo()}}}}}'


def fits(item: StreamSubscription) -> bool:
    """Return whether the venue has the interval of a candle, or the precision of a book."""
    if item.channel == "candle":
        return item.interval in INTERVAL_MINUTES
    if item.channel != "l2Book":
        return True
    if item.significant_figures is None:
        return item.mantissa is None
    fits = item.significant_figures in (2, 3, 4, 5)
    return fits and (item.mantissa is None or (item.significant_figures == 5 and item.mantissa in (1, 2, 5)))
