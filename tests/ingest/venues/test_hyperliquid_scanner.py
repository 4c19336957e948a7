"""The compiled scanner reads exactly what `decode` reads, or leaves the frame to it."""

from __future__ import annotations

import ctypes
import gzip
import itertools
import json
import mmap
import random
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.journal.captures import read_capture
from ingest.pipeline.rows import ZERO_HASH
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.scanner import BBO, OTHER, TRADES, CoinCodes, ScannedFrames, scan
from storage.errors import VenueError
from tests.conftest import recorded
from tests.ingest.pipeline.mutations import mutate

COINS = ("BTC", "ETH", "xyz:AAPL", "@107", "kPEPE", "PURR/USDC", "")
ZEROS = "0x" + "0" * 64


def scanned(frames: Sequence[bytes], coins: Iterable[str] = COINS) -> ScannedFrames:
    ends = np.cumsum([0, *map(len, frames)]).astype(np.int64)
    return scan(b"".join(frames), ends, CoinCodes(coins))


def said(result: ScannedFrames, i: int, coins: Sequence[str] = COINS) -> Any:
    """Return the scanned contents of a frame as plain values; None if it is left to `decode`."""
    if result.kind[i] == OTHER:
        assert result.coin[i] == -1
        assert result.prints[i] == result.prints[i + 1]
        assert np.isnan(result.touch[i]).all()
        return None
    coin = coins[result.coin[i]]
    if result.kind[i] == BBO:
        touch = [None if value != value else value.hex() for value in result.touch[i].tolist()]
        return "bbo", coin, int(result.time_ms[i]), touch
    columns = (result.px, result.sz, result.print_ms, result.tid, result.side, result.is_twap)
    part = slice(int(result.prints[i]), int(result.prints[i + 1]))
    prints = [
        (px.hex(), sz.hex(), *rest)
        for px, sz, *rest in zip(*(column[part].tolist() for column in columns), strict=True)
    ]
    assert result.time_ms[i] == max(item[2] for item in prints)
    return "trades", coin, prints


def decoded(frame: bytes) -> Any:
    """Return the decoded contents in the same form; None if refused, and for any other message."""
    try:
        message = wire.decode(frame)
    except VenueError:
        return None
    if isinstance(message, wire.Bbo):
        levels = [(level.px.hex(), level.sz.hex()) if level else (None, None) for level in message.data.bbo]
        return "bbo", message.data.coin, message.data.time, [*levels[0], *levels[1]]
    if isinstance(message, wire.Trades):
        coin = message.data[0].coin if message.data else ""
        prints = [
            (item.px.hex(), item.sz.hex(), item.time, item.tid, {"B": 1, "A": -1}[item.side], item.hash == ZERO_HASH)
            for item in message.data
            if item.coin == coin and item.side in "AB"
        ]  # fmt: skip
        return "trades", coin, prints if len(prints) == len(message.data) else None
    return None


def agree(frames: Sequence[bytes], coins: Sequence[str] = COINS) -> int:
    """Check every frame that the scanner accepts against `decode`; return how many it accepted."""
    result = scanned(frames, coins)
    accepted = 0
    for i, frame in enumerate(frames):
        claim = said(result, i, coins)
        if claim is not None:
            accepted += 1
            assert claim == decoded(frame), frame
    return accepted


def capture(name: str, frames: int) -> list[bytes]:
    return [frame for _, frame in itertools.islice(read_capture(recorded(name)), frames)]


@pytest.mark.parametrize(
    "name",
    [
        "hyperliquid/ws_20250904_4coins.ndjson.gz",
        "hyperliquid/ws_20250126_btc_verbatim.txt.gz",
        "binance/ws_20240808_btc_eth_as_hyperliquid.ndjson.gz",
        "hyperliquid/trades_20230227_20230502.ndjson.gz",
    ],
)
def test_recorded_frames_are_scanned_and_decoded_alike_to_the_bit(name: str) -> None:
    """A few of the 4-coin capture's sizes are written with an exponent, and left to `decode`."""
    frames = capture(name, 8_000)
    claims = [claim for frame in frames if (claim := decoded(frame)) is not None]
    accepted = agree(frames, sorted({claim[1] for claim in claims}))
    assert accepted >= 0.99 * len(claims) > 5


# Frames of every shape that JSON allows.

digits = st.integers(1, 25).flatmap(lambda n: st.text("0123456789", min_size=n, max_size=n))
decimals = st.one_of(
    st.sampled_from(["0", "0.0", "100", "1e5", "1E-3", "-1", "+1", ".5", "5.", "00.5", "", "nan", "inf", " 1", "1_0"]),
    digits,
    st.tuples(digits, digits).map(".".join),
    st.floats(1e-9, 1e9).map(lambda x: f"{x:.8f}"),
    st.decimals(0, 10**12, allow_nan=False, places=3).map(lambda x: f"{x:f}"),
    st.tuples(st.integers(0, 10**16), st.integers(0, 24)).map(lambda pair: f"{Decimal(pair[0]).scaleb(-pair[1]):f}"),
)  # fmt: skip
numbers = st.one_of(
    st.integers(0, 1 << 62).map(str), digits, st.sampled_from(["-1", "1.5", "1e3", "007", '"12"', "null", "true"])
)  # fmt: skip
texts = st.one_of(
    st.sampled_from([json.dumps(coin) for coin in (*COINS, "DOGE", "BT", "BTCC", "btc")]),
    st.sampled_from([r'"\u0042TC"', r'"B\/TC"', '"\xe9\u20ac"', '"B\x7fTC"', "null", "7", '"a\\"b"']),
)
junk = st.one_of(
    st.sampled_from(["1", "0", '"x"', '["a","b"]', "[]", "{}", "null", "true", '{"px":"1"}', "[1,2]", "-1", '[["a"]]']),
    texts,
)  # fmt: skip
extra_keys = st.sampled_from(
    ["users", "n", "fee", "coinx", "p", "szs", "", "tidy", "hash2", "twapId", "\\u0070x"]
)


@st.composite
def objects(draw: st.DrawFn, fields: list[tuple[str, st.SearchStrategy[str]]]) -> str:
    """Return a JSON object of the fields in any order, most of the time with nothing added, missing or spaced."""
    pairs = [(key, draw(value)) for key, value in fields]
    odd = draw(st.sampled_from([""] * 10 + ["extra"] * 4 + ["twice", "missing", "space"]))
    if odd == "extra":
        pairs += [(draw(extra_keys), draw(junk)) for _ in range(draw(st.integers(1, 2)))]
    elif odd == "twice":
        pairs.append(draw(st.sampled_from(pairs)))
    elif odd == "missing":
        pairs.remove(draw(st.sampled_from(pairs)))
    pairs = draw(st.permutations(pairs))
    space = " " if odd == "space" else ""
    return "{" + f",{space}".join(f'"{key}":{space}{value}' for key, value in pairs) + "}"


def often(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 29).flatmap(lambda drawn: odd if drawn == 29 else usual)


coin = often(st.sampled_from(['"BTC"', '"xyz:AAPL"']), texts)
price = often(
    st.tuples(st.integers(1, 10**7), st.integers(0, 10**6)).map("{0[0]}.{0[1]}".format).map(json.dumps),
    st.one_of(decimals.map(json.dumps), numbers, decimals),
)
number = often(st.integers(1, 10**17).map(str), numbers)
a_print = objects(
    [
        ("coin", coin),
        ("side", often(st.sampled_from(['"A"', '"B"']), st.sampled_from(['"C"', '""', "1", '"BB"']))),
        ("px", price),
        ("sz", price),
        ("time", number),
        ("tid", number),
        ("hash", often(st.sampled_from([f'"{ZEROS}"', '"0x1"', f'"0x1{ZEROS[3:]}"']), junk)),
    ]
)
level = often(
    objects([("px", price), ("sz", price), ("n", number)]), st.sampled_from(["null", "{}", "1", '"x"'])
)
trades_data = st.lists(a_print, max_size=4).map(lambda items: f"[{','.join(items)}]")
two_levels = st.tuples(level, level).map("[{0[0]},{0[1]}]".format)
few_levels = st.lists(level, max_size=3).map(lambda levels: f"[{','.join(levels)}]")
bbo_data = objects([("coin", coin), ("time", number), ("bbo", often(two_levels, few_levels))])
shells = st.sampled_from(
    ['{{"channel":"{0}","data":{1}}}'] * 12
    + ['{{"channel":"{0}","data":{1}}} ', '{{"data":{1},"channel":"{0}"}}', '{{"channel":"{0}","data":{1},"x":1}}']
    + ['{{"channel":"{0}","data":{1}', '{{"channel":"{0}","data":{1}}}}}', '{{"channel": "{0}","data":{1}}}']
)  # fmt: skip
frames = st.one_of(
    st.tuples(shells, trades_data).map(lambda pair: pair[0].format("trades", pair[1]).encode()),
    st.tuples(shells, bbo_data).map(lambda pair: pair[0].format("bbo", pair[1]).encode()),
)


@settings(deadline=None, max_examples=120)
@given(st.lists(frames, min_size=1, max_size=4))
def test_scanned_frames_equal_decoded_ones(batch: list[bytes]) -> None:
    agree(batch)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30))
def test_mutated_frames_are_scanned_alike_or_left_to_decode(seed: int) -> None:
    chance = random.Random(seed)
    agree([mutate(chance.choice(PLAIN), chance, PLAIN) for _ in range(50)])


PRINT = (
    '{"coin":"BTC","side":"B","px":"100.5","sz":"0.25","hash":"0x1","time":1767571200500,"tid":7,'
    '"users":["0xa","0xb"]}'
)
PLAIN = [
    b'{"channel":"trades","data":[' + PRINT.encode() + b"]}",
    b'{"channel":"trades","data":[' + b",".join([PRINT.encode()] * 3) + b"]}",
    b'{"channel":"bbo","data":{"coin":"BTC","time":1767571200500,"bbo":[{"px":"99.5","sz":"2","n":1},null]}}',
]


def test_plain_frames_are_accepted() -> None:
    assert agree(PLAIN) == len(PLAIN)


def test_the_number_of_orders_must_be_one() -> None:
    odd = [PLAIN[2].replace(b'"n":1', b'"n":' + value) for value in (b'"x"', b'["a"]', b"1.5", b"null")]
    assert agree(odd) == 0


@pytest.mark.parametrize("plain", PLAIN)
def test_a_frame_ends_where_it_ends(plain: bytes) -> None:
    """What follows in memory would complete each cut frame; it is not part of it."""
    for cut in range(1, len(plain)):
        result = scanned([plain[:cut], plain[cut:], plain])
        assert result.kind.tolist()[:2] == [OTHER, OTHER]
        assert said(result, 2) == decoded(plain)


def test_no_byte_outside_of_the_buffer_is_read() -> None:
    """The page behind the frames may not be touched: reading there ends the process."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 0) == 0
    coins = CoinCodes(COINS)
    view = memoryview(memory)
    chance = random.Random(7)
    for plain in PLAIN:
        bodies = [plain[:cut] for cut in range(len(plain) + 1)]
        bodies += [mutate(plain, chance, PLAIN)[:page] for _ in range(300)]
        for body in bodies:
            view[page - len(body) : page] = body
            at_end = view[page - len(body) : page].toreadonly()
            scan(at_end, np.array([0, len(body)], np.int64), coins)  # type: ignore[arg-type]
    assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 3) == 0


def test_coins_may_be_added_while_frames_are_read() -> None:
    coins = CoinCodes(["BTC"])
    for name in (f"C{i}" for i in range(300)):
        coins.add([name, "BTC"])
    bodies = [PLAIN[0].replace(b'"BTC"', json.dumps(name).encode()) for name in coins.names]
    ends = np.cumsum([0, *map(len, bodies)]).astype(np.int64)
    result = scan(b"".join(bodies), ends, coins)
    assert result.kind.tolist() == [TRADES] * 301
    assert result.coin.tolist() == list(range(301))


def test_gzip_is_no_frame() -> None:
    assert agree([gzip.compress(PLAIN[0]), b"", b"\x00" * 40]) == 0
