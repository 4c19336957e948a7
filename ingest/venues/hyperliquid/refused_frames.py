"""Prints that a frame which could not be decoded may have held.

A refused frame of trades is proof of missing prints, so as much of it as can be read decides which: the coin and time
of each print where it is still JSON, otherwise the coin in its bytes. What cannot be read is left open, and then stands
for every coin that its connection carries. A frame that can be read as a message of another channel held no print.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingest.venues.hyperliquid.messages import CHANNELS

TRADES: Final = "trades"
_OTHERS: Final = CHANNELS - {TRADES}
_CHANNEL: Final = re.compile(rb'"channel"\s*:\s*"([^"\\]*)"')
_COIN: Final = re.compile(rb'"coin"\s*:\s*"([^"]*)"')
_PRINT_KEYS: Final = frozenset(("side", "px", "sz", "time", "tid", "hash"))
# Fewer than all: one of them may be what is damaged.
_LEAST_KEYS: Final = 2


@dataclass(frozen=True, slots=True)
class RefusedPrint:
    """A print that a refused frame may have held.

    Args:
        coin: as named in the frame; None where it cannot be read.
        time_ms: venue time as stated in the frame, which the caller checks; None where it cannot be read.
    """

    coin: str | None
    time_ms: int | None


_ANY: Final = (RefusedPrint(None, None),)


def refused_prints(frame: bytes) -> tuple[RefusedPrint, ...]:
    """Return what an undecodable frame may have held of prints; nothing if it was a message of another channel.

    Args:
        frame: bytes that the decoder refused, or the line of a capture that holds them.
    """
    try:
        message = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _of_bytes(frame)
    message = _unwrapped(message)
    if not isinstance(message, dict):
        return _of_items(message if isinstance(message, list) else []) or _ANY
    found = _of_items([item for value in message.values() for item in _items(value)])
    channel = message.get("channel")
    if found or (isinstance(channel, str) and channel != TRADES):
        return found
    return _without_prints(message, channel)


def _unwrapped(message: Any) -> Any:
    """Return the frame of a capture's line, whose other fields may be damaged."""
    if isinstance(message, dict) and "channel" not in message:
        return next(
            (part for part in message.values() if isinstance(part, dict) and "channel" in part), message
        )
    return message


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value


def _of_items(items: list[Any]) -> tuple[RefusedPrint, ...]:
    """Return the prints in a list, if any of its items looks like one."""
    if not any(isinstance(item, dict) and len(item.keys() & _PRINT_KEYS) >= _LEAST_KEYS for item in items):
        return ()
    coins = {item["coin"] for item in items if isinstance(item, dict) and isinstance(item.get("coin"), str)}
    # The venue sends trades of one coin in a frame: an item without a name is of that coin.
    only = coins.pop() if len(coins) == 1 else None
    return tuple(dict.fromkeys(_of_item(item, only) for item in items))


def _of_item(item: Any, only: str | None) -> RefusedPrint:
    if not isinstance(item, dict):
        return RefusedPrint(only, None)
    coin = item.get("coin")
    return RefusedPrint(coin if isinstance(coin, str) else only, _integer(item.get("time")))


def _without_prints(message: dict[str, Any], channel: Any) -> tuple[RefusedPrint, ...]:
    """Return what a frame of trades, or of no channel, may have held although no list in it looks like prints."""
    parts = [part for part in message.values() if isinstance(part, dict)]
    if channel != TRADES and parts:
        return ()  # trades come as a list: this was a message of another channel
    coins = {part["coin"] for part in parts if isinstance(part.get("coin"), str)}
    return (RefusedPrint(coins.pop(), None),) if len(coins) == 1 else _ANY


def _of_bytes(frame: bytes) -> tuple[RefusedPrint, ...]:
    """Return what a frame that is no JSON may have held; times are not trusted, since prints may be cut off."""
    channels = [name.decode(errors="replace") for name in _CHANNEL.findall(frame)]
    if channels and all(name in _OTHERS for name in channels):
        return ()
    coins = {name.decode(errors="replace") for name in _COIN.findall(frame)}
    if channels == [TRADES] and len(coins) == 1:
        return (RefusedPrint(coins.pop(), None),)
    return _ANY


def _integer(value: Any) -> int | None:
    """Return a whole number, also one in a text, as the decoder accepts it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float | str):
        try:
            value = int(value)
        except (ValueError, OverflowError):
            return None
    return value if isinstance(value, int) else None
