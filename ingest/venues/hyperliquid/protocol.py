"""Hyperliquid's protocol: instrument ids, requests and listings.

Source: the venue's documentation as of 2026-08-22 (websocket, subscriptions, info endpoint).
"""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
import msgspec

from storage.clock import MS_NS
from storage.errors import VenueError

VENUE: Final = "hyperliquid"
CHANNELS: Final = ("trades", "bbo", "l2Book", "activeAssetCtx")
PING: Final = b'{"method":"ping"}'
# Key in the meta of a simulated venue, after which its recordings are named.
SIMULATED_MARK: Final = "tickwalkSimulated"
CLOCK_PREFIX: Final = b'{"channel":"tickwalkClock"'


def instrument_id(coin: str, venue: str = VENUE) -> str:
    """Return the instrument id of a coin as the venue writes it, byte-exact.

    >>> instrument_id("kPEPE"), instrument_id("@107")
    ('hyperliquid|perp|kPEPE', 'hyperliquid|spot|@107')
    """
    return f"{venue}|{kind_of(coin)}|{coin}"


def coin_of(instrument: str) -> str:
    """Return the venue's name of an instrument's coin, without the generation of a recycled name.

    >>> coin_of("hyperliquid|perp|BTC"), coin_of("hyperliquid|spot|@107~2")
    ('BTC', '@107')
    """
    return instrument.split("|", 2)[2].partition("~")[0]


def kind_of(coin: str) -> str:
    """Return the kind of a coin by its name.

    >>> [kind_of(coin) for coin in ("BTC", "xyz:AAPL", "PURR/USDC", "@107", "#120")]
    ['perp', 'perp', 'spot', 'spot', 'outcome']
    """
    if coin.startswith("#"):
        return "outcome"
    return "spot" if coin.startswith("@") or "/" in coin else "perp"


def subscribe(channel: str, coin: str) -> str:
    """Return the message that subscribes to one channel of one coin."""
    return json.dumps(
        {"method": "subscribe", "subscription": {"type": channel, "coin": coin}}, separators=(",", ":")
    )


class Listing(msgspec.Struct, rename="camel"):
    """One entry of `meta.universe`."""

    name: str
    sz_decimals: int
    is_delisted: bool | None = None
    max_leverage: int | None = None


class Meta(msgspec.Struct, rename="camel"):
    """Listings of one perp dex; delisted rows stay, keeping their positions. Margin is in one token."""

    universe: list[Listing]
    collateral_token: int | None = None


async def ask(info_url: str, request: dict[str, Any], *, timeout_s: float = 10.0) -> bytes:
    """Return the raw answer of `POST /info` to a request such as `{"type": "meta"}`.

    Raises:
        VenueError: the venue cannot be reached, or answers with an error.
    """
    try:
        async with httpx.AsyncClient(timeout=timeout_s) as client:
            answer = await client.post(info_url, json=request)
    except httpx.HTTPError as error:
        raise VenueError(
            f"the venue's {info_url} cannot be reached: {type(error).__name__} {error}".rstrip(),
            hint="check the network and record.info_url; try without a network: tickwalk serve-venue",
        ) from error
    if answer.status_code != httpx.codes.OK:
        raise VenueError(
            f"{info_url} answered {answer.status_code} to a request for {request.get('type')}: {answer.text[:120]!r}",
            hint="wait a minute (429, 500) or check record.info_url",
        )
    return answer.content


def parse_venue_time_ns(answer: bytes) -> int:
    """Return the venue's clock from an answer to `exchangeStatus`, in nanoseconds.

    Raises:
        VenueError: the answer does not fit.
    """
    try:
        return msgspec.json.decode(answer, type=_ExchangeStatus).time * MS_NS
    except msgspec.MsgspecError as error:
        raise VenueError(f"the venue's exchangeStatus does not fit: {error}") from error


class _ExchangeStatus(msgspec.Struct):
    time: int
