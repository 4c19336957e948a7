"""GaiaEx's protocol: instrument ids, socket and REST addresses."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlsplit

from ingest.venues.hyperliquid.protocol import VENUE as HYPERLIQUID
from ingest.venues.hyperliquid.protocol import kind_of

VENUE: Final = "gaiaex"
NOT_SUPPORTED: Final = "SYMBOL_NOT_SUPPORTED"
HEARTBEAT_ANSWER: Final = "ping"
"""Bare text, not JSON; only in G1's Python example."""
ALTERNATE_WS_URL: Final = "wss://ws.gaiaex.com/market"
"""A second address of the same backend, by the pages."""


def instrument_id(symbol: str) -> str:
    """Return the instrument id of a symbol as the venue writes it, byte-exact.

    >>> instrument_id("xyz:AAPL"), instrument_id("@145")
    ('gaiaex|perp|xyz:AAPL', 'gaiaex|spot|@145')
    """
    return f"{VENUE}|{kind_of(symbol)}|{symbol}"


def twin_of(instrument: str) -> str:
    """Return the Hyperliquid instrument that a GaiaEx instrument relays, as the id of its first contract.

    Both venues use the same name. The registry knows which contract has it now: a name recycled on one venue need not
    be recycled on the other.

    >>> twin_of("gaiaex|perp|xyz:AAPL~2")
    'hyperliquid|perp|xyz:AAPL'
    """
    _, kind, name = instrument.split("|", 2)
    symbol, mark, generation = name.rpartition("~")
    return f"{HYPERLIQUID}|{kind}|{symbol if mark and generation.isdigit() else name}"


def path_segment(symbol: str) -> str:
    """Return a symbol encoded for an address: `:` and `@` are legal there, `/` is not.

    >>> path_segment("xyz:AAPL"), path_segment("PURR/USDC")
    ('xyz:AAPL', 'PURR%2FUSDC')
    """
    return quote(symbol, safe=":@")


def socket_url(base: str, symbol: str) -> str:
    """Return the address of a symbol's socket.

    >>> socket_url("wss://host/ws/market", "@145")
    'wss://host/ws/market/spot/@145'
    """
    folder = "/spot/" if kind_of(symbol) == "spot" else "/"
    return base.rstrip("/") + folder + path_segment(symbol)


def rest_url(base: str, path: str) -> str:
    """Return the address of a request such as `symbols/list`."""
    return f"{base.rstrip('/')}/{path}"


def root_url(base: str) -> str:
    """Return the root of an address, below which G2 documents `/health` and `/fapi/v1/time`.

    >>> root_url("https://openapi.gaiaex.com/v1/trade")
    'https://openapi.gaiaex.com'
    """
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}"


def question(path: str) -> dict[str, Any]:
    """Return the request body that stands for a `GET` request in the journal.

    >>> question("symbols/list")
    {'type': 'gaiaex', 'path': 'symbols/list'}
    """
    return {"type": VENUE, "path": path}
