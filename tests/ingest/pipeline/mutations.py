"""Mutations of real frames, token by token."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Final

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[\[\]{},:]')
_CHANNELS: Final = (
    b"trades bbo l2Book activeAssetCtx activeSpotAssetCtx candle allMids allDexsAssetCtxs assetCtxs spotAssetCtxs "
    b"fastAssetCtxs explorerBlock outcomeMetaUpdates subscriptionResponse pong error weather orderbook heartbeat "
    b"stale recovered"
).split()
_COINS: Final = (b"BTC", b"ETH", b"SOL", b"btc", b"xyz:AAPL", b"@107", b"kPEPE", b"#10", b"", b"DOGE")
_NUMBERS: Final = (
    b"0 -0 -1 1 0.1 1e308 1e-308 1e999 9007199254740993 9223372036854775807 9223372036854775808 -9223372036854775809 "
    b"123456789012345678901234567890 0.00000000000000000000000001 1.7976931348623157e308 007 1. .5 +1 NaN Infinity"
).split()
_VALUES: Final = (
    rb"null",
    rb"true",
    rb"false",
    rb"[]",
    rb"{}",
    rb'""',
    rb"[null]",
    rb'{"a":{"b":[]}}',
    rb'"\ud800"',
    rb'"\u0000"',
    rb'"\u0042TC"',
    rb'"nan"',
    rb'"inf"',
    rb'"-1"',
    rb'"1_000"',
    rb'" 1"',
    rb'"A"',
    rb'"B"',
    rb'"C"',
    '"\u00e9\u20ac"'.encode(),
    b'"\xff\xfe"',
    b'"' + b"x" * 3000 + b'"',
    b"[" * 40 + b"]" * 40,
)
_NOISE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_ "

Span = tuple[int, int]
Change = Callable[[bytes, list[Span], random.Random, Sequence[bytes]], bytes]


def mutate(frame: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Return a frame with one change, sometimes with several.

    Args:
        frame: as a venue sent it.
        chance: draws what is changed.
        others: frames from which parts are taken.
    """
    for _ in range(1 + (chance.random() < 0.25) + 2 * (chance.random() < 0.05)):
        frame = mutate_once(frame, chance, others)
    return frame


def mutate_once(frame: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Return a frame with one change; see `mutate`."""
    spans = [match.span() for match in _TOKEN.finditer(frame)]
    if not spans:
        return frame + b"{}"
    return _pick(_CHANGES, chance)(frame, spans, chance, others)


def _pick(items: Sequence[Change], chance: random.Random) -> Change:
    return items[int(chance.random() * len(items))]


def _put(frame: bytes, span: Span, text: bytes) -> bytes:
    return frame[: span[0]] + text + frame[span[1] :]


def _number(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Change the sign, size or digits of a number, bare or in a text."""
    found = [span for span in spans if frame[span[0] : span[1]].strip(b'"-')[:1].isdigit()]
    if not found:
        return _value(frame, spans, chance, others)
    start, end = chance.choice(found)
    text = frame[start:end].strip(b'"')
    changed = chance.choice(
        (
            chance.choice(_NUMBERS),
            b"-" + text,
            text + b"0",
            text[:-1] or b"0",
            text + b".5",
            text[::-1],
            b"0" + text,
        )
    )
    if chance.random() < 0.2:
        return _put(frame, (start, end), changed if frame[start] == 34 else b'"' + changed + b'"')
    return _put(frame, (start, end), b'"' + changed + b'"' if frame[start] == 34 else changed)


def _value(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    return _put(frame, chance.choice(spans), chance.choice(_VALUES))


def _drop(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    return _put(frame, chance.choice(spans), b"")


def _double(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Repeat a token, or everything from it to another."""
    first, last = sorted(chance.sample(range(len(spans)), 2)) if len(spans) > 1 else (0, 0)
    last = min(last, first + 12)
    part = frame[spans[first][0] : spans[last][1]]
    return frame[: spans[last][1]] + chance.choice((b"", b",")) + part + frame[spans[last][1] :]


def _swap(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Swap two tokens of one kind: keys, texts or numbers."""
    one = chance.choice(spans)
    alike = [span for span in spans if frame[span[0]] == frame[one[0]]]
    first, second = sorted((one, chance.choice(alike)))
    if first == second:
        return frame
    return b"".join(
        (
            frame[: first[0]],
            frame[second[0] : second[1]],
            frame[first[1] : second[0]],
            frame[first[0] : first[1]],
            frame[second[1] :],
        )
    )


def _channel(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    for key in (b'"channel":"', b'"type":"'):
        start = frame.find(key)
        if start >= 0:
            start += len(key)
            return _put(frame, (start, frame.find(b'"', start)), chance.choice(_CHANNELS))
    return _value(frame, spans, chance, others)


def _coin(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    for key in (b'"coin":"', b'"symbol":"', b'"s":"'):
        start = frame.find(key)
        if start >= 0:
            start += len(key)
            return _put(frame, (start, frame.find(b'"', start)), chance.choice(_COINS))
    return _value(frame, spans, chance, others)


def _graft(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Replace a token with a part of another frame."""
    other = chance.choice(others)
    parts = [match.span() for match in _TOKEN.finditer(other)]
    first = chance.randrange(len(parts)) if parts else 0
    part = (
        other[parts[first][0] : parts[min(first + chance.randrange(8), len(parts) - 1)][1]]
        if parts
        else other
    )
    return _put(frame, chance.choice(spans), part)


def _truncate(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    return frame[: chance.randrange(len(frame))]


def _flip(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(frame))
    return frame[:at] + bytes([chance.randrange(256)]) + frame[at + 1 :]


def _noise(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Disturb the longest text, which in a compressed message is its base64."""
    start, end = max(spans, key=lambda span: span[1] - span[0])
    if end - start < 4:
        return _flip(frame, spans, chance, others)
    at = chance.randrange(start + 1, end - 1)
    letter = _NOISE[chance.randrange(len(_NOISE))]
    return chance.choice(
        (
            frame[:at] + bytes([letter]) + frame[at + 1 :],
            frame[:at] + frame[end - 1 :],
            frame[:at] + frame[at + 1 :],
        )
    )


def _nest(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Wrap a value into lists or objects, at times deeper than a parser may go."""
    span = chance.choice(spans)
    depth = chance.choice((1, 1, 1, 2, 30, 3000))
    left, right = chance.choice(((b"[", b"]"), (b'{"x":', b"}")))
    return _put(frame, span, left * depth + frame[span[0] : span[1]] + right * depth)


def _space(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    start, _ = chance.choice(spans)
    return frame[:start] + chance.choice((b" ", b"\n", b"\t", b"\x00", b"\xef\xbb\xbf")) + frame[start:]


def _other(frame: bytes, spans: list[Span], chance: random.Random, others: Sequence[bytes]) -> bytes:
    return chance.choice(
        (b"", b" ", b"pong", b"<html>502</html>", b"[]", b"{}", b"null", b"0", b"[[]]", b"\x00\xff")
    )


_CHANGES: Final[tuple[Change, ...]] = (
    _number, _number, _number, _number, _value, _value, _drop, _double, _swap, _swap, _channel, _coin, _coin, _graft,
    _truncate, _flip, _noise, _nest, _space, _other,
)  # fmt: skip
