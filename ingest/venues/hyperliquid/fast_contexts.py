"""Decoder of `fastAssetCtxs`: compressed messages of changed prices.

`fastAssetCtxs` carries base64 of raw DEFLATE (RFC 1951, no header) of JSON `{coin: {"markPx"?, "midPx"?}}`: the
first message after a subscription is complete, later ones hold changes. Read from the venue's pages on 2026-08-22.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

MOST_INFLATED_BYTES: Final = 32 * 1024 * 1024
"""Limit of an unpacked message: without it a few kB could exhaust the memory."""


class FastContext(msgspec.Struct, rename="camel"):
    """Changes of a coin: an absent field is unchanged, a null mid means that a side of the book is empty."""

    mark_px: float | UnsetType = UNSET
    mid_px: float | UnsetType | None = UNSET


class FastContexts:
    """Changes by coin, unpacked from base64 of raw DEFLATE (RFC 1951)."""

    def __init__(self, by_coin: dict[str, FastContext]) -> None:
        self.by_coin = by_coin


_decoder: Final = msgspec.json.Decoder(dict[str, FastContext], strict=False)


def inflate(text: str) -> FastContexts:
    """Unpack the base64 text of a `fastAssetCtxs` message.

    Raises:
        ValueError: the text is not base64 of raw DEFLATE, unpacks to too much, or holds other JSON.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        plain = stream.decompress(packed, MOST_INFLATED_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"compressed contexts cannot be unpacked: {error}") from error
    if not stream.eof:
        limit = f"more than {MOST_INFLATED_BYTES} bytes" if len(plain) == MOST_INFLATED_BYTES else "cut short"
        raise ValueError(f"compressed contexts are {limit}")
    try:
        return FastContexts(_decoder.decode(plain))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"compressed contexts do not fit: {error}") from error
