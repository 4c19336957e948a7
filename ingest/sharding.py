"""Shards: which instruments one of several recorders records."""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

from storage.errors import SettingsError

_SHARD: Final = re.compile(r"^([1-9][0-9]*)/([1-9][0-9]*)$")


def shard_of(name: str, shards: int) -> int:
    """Return which of `shards` parts, counted from 1, a coin or symbol belongs to; the same everywhere, for ever.

    >>> [shard_of(coin, 3) for coin in ("BTC", "DOGE", "kPEPE")]
    [3, 2, 1]
    """
    return crc32(name.encode()) % shards + 1


def parse_shard(text: str) -> tuple[int, int]:
    """Return (part, parts) of a setting such as `1/3`; `(1, 1)` where it is empty.

    Raises:
        SettingsError: it is neither.
    """
    match = _SHARD.match(text) if text else None
    part, parts = (int(match[1]), int(match[2])) if match else (1, 1)
    if (text and not match) or part > parts:
        raise SettingsError(
            f"record.shard is {text!r}", hint="write part/parts, as in 1/3; empty takes all instruments"
        )
    return part, parts
