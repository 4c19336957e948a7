"""Encoder of Hyperliquid messages: trades, quotes, books, candles and contexts as wire text.

Field order and number style follow frames recorded from the venue (2025-09-04; contexts 2026-09): decimals as
strings, no trailing zeros but always one decimal.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np

CLOCK_FRAME: Final = '{"channel":"tickwalkClock","data":%d}'
"""Not the venue's: carries the virtual receipt time (ns) of the frames that follow it."""

PONG: Final = '{"channel":"pong"}'

_PRINT: Final = (
    '{"coin":"%s","side":"%s","px":"%s","sz":"%s","time":%d,"hash":"0x%s","tid":%d,"users":["%s","%s"]}'
)
_BBO: Final = (
    '{"channel":"bbo","data":{"coin":"%s","time":%d,'
    '"bbo":[{"px":"%s","sz":"%s","n":%d},{"px":"%s","sz":"%s","n":%d}]}}'
)
_SPOT_CONTEXT: Final = (
    '{"prevDayPx":"%s","dayNtlVlm":"%s","markPx":"%s","midPx":%s,"circulatingSupply":"%s","coin":"%s",'
    '"totalSupply":"%s","dayBaseVlm":"%s"}'
)
_CONTEXT: Final = (
    '{"funding":"%s","openInterest":"%s","prevDayPx":"%s","dayNtlVlm":"%s","premium":%s,"oraclePx":"%s",'
    '"markPx":"%s","midPx":%s,"impactPxs":%s,"dayBaseVlm":"%s"}'
)


@dataclass(slots=True)
class SimulatedPrint:
    """One trade as the venue reports it."""

    coin: str
    time_ms: int
    tid: int
    price: float
    size: float
    text: str
    delivered: bool = False
    """Whether it was sent to any client, live or replayed."""


class SimulatedQuote(NamedTuple):
    """The best bid and ask of a coin; prices and sizes in its own units."""

    coin: str
    time_ms: int
    bid: float
    bid_size: float
    bid_orders: int
    ask: float
    ask_size: float
    ask_orders: int
    tick: float


class Frame(NamedTuple):
    """One message of the feed.

    Args:
        key: of the subscriptions that receive it, such as `trades:BTC`.
        channel: of the message.
        coin: of the message.
        text: the message.
        prints: the trades in it; empty on other channels.
        quote: the quote in it; None on other channels.
    """

    key: str
    channel: str
    coin: str
    text: str
    prints: tuple[SimulatedPrint, ...] = ()
    quote: SimulatedQuote | None = None


@dataclass(frozen=True, slots=True)
class SimulatedFunding:
    """Funding of a perpetual at a full hour."""

    coin: str
    time_ms: int
    rate: float
    premium: float


@dataclass(slots=True)
class Block:
    """Messages that the venue publishes at one instant."""

    time_ms: int
    clock_ns: int
    """When a client receives it."""
    frames: list[Frame] = field(default_factory=list)
    fundings: list[SimulatedFunding] = field(default_factory=list)
    slow_book: bool = False
    """Whether books at the slow cadence are due."""
    fast_book: bool = False


def decimal_text(value: float, decimals: int) -> str:
    """Return a number in the venue's format.

    >>> decimal_text(202.70, 2), decimal_text(30984, 0), decimal_text(-0.00001250, 10)
    ('202.7', '30984.0', '-0.0000125')
    """
    text = f"{value:.{decimals}f}"
    if "." not in text:
        return f"{text}.0"
    text = text.rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def exact_text(value: float) -> str:
    """Return a number that is the double nearest to a short decimal in the venue's format, fast.

    >>> exact_text(202.7), exact_text(30984.0), exact_text(0.00001)
    ('202.7', '30984.0', '0.00001')
    """
    text = repr(value)
    return decimal_text(value, 10) if "e" in text else text


def print_text(
    coin: str, buy: bool, px: str, sz: str, time_ms: int, tx: str, tid: int, buyer: str, seller: str
) -> str:
    return _PRINT % (coin, "B" if buy else "A", px, sz, time_ms, tx, tid, buyer, seller)


def trades_text(prints: Iterable[SimulatedPrint]) -> str:
    return f'{{"channel":"trades","data":[{",".join([item.text for item in prints])}]}}'


def bbo_text(quote: SimulatedQuote) -> str:
    coin, time_ms, bid, bid_size, bids, ask, ask_size, asks, _ = quote
    touch = exact_text(bid), exact_text(bid_size), bids, exact_text(ask), exact_text(ask_size), asks
    return _BBO % (coin, time_ms, *touch)


def empty_bbo_text(coin: str, time_ms: int) -> str:
    return f'{{"channel":"bbo","data":{{"coin":"{coin}","time":{time_ms},"bbo":[null,null]}}}}'


def context_frame_text(coin: str, context: str, channel: str = "activeAssetCtx") -> str:
    return f'{{"channel":"{channel}","data":{{"coin":"{coin}","ctx":{context}}}}}'


def spot_context_text(
    coin: str, *, day_open: str, day_notional: float, mark: str, mid: str | None, supply: str, day_base: str
) -> str:
    """Return the `ctx` of a spot pair, which names its coin."""
    notional = decimal_text(day_notional, 6)
    return _SPOT_CONTEXT % (day_open, notional, mark, json.dumps(mid), supply, coin, supply, day_base)


def context_text(
    *,
    funding: float,
    interest: str,
    day_open: str,
    day_notional: float,
    premium: float | None,
    oracle: str,
    mark: str,
    mid: str | None,
    impact: tuple[str, str] | None,
    day_base: str,
) -> str:
    """Return the `ctx` of a perpetual; premium, mid and impact are null together where there is no book."""
    return _CONTEXT % (
        decimal_text(funding, 10),
        interest,
        day_open,
        decimal_text(day_notional, 6),
        "null" if premium is None else f'"{decimal_text(premium, 10)}"',
        oracle,
        mark,
        json.dumps(mid),
        "null" if impact is None else f'["{impact[0]}","{impact[1]}"]',
        day_base,
    )


class Depth:
    """Depth of a coin's book: levels that look random, and depend only on the time.

    Args:
        coin: of the book.
        seed: of the market.
        size: typical size of a level.
        price_decimals: most decimals of a price.
        size_decimals: most decimals of a size.
    """

    _POOL: Final = 4_096

    def __init__(self, coin: str, seed: int, size: float, price_decimals: int, size_decimals: int) -> None:
        rng = np.random.default_rng([seed, crc32(coin.encode()), 3])
        lots = 10.0**size_decimals
        sizes = np.maximum(np.rint(rng.lognormal(0.0, 1.5, self._POOL) * size * lots), 1.0) / lots
        orders = 1 + rng.poisson(2.0, self._POOL)
        rows = zip(sizes.tolist(), orders.tolist(), strict=True)
        self._coin = coin
        self._decimals = price_decimals
        self._gap = (1.0 + (rng.random(self._POOL) < 0.25)).tolist()
        self._tail = [f'","sz":"{exact_text(amount)}","n":{n}}}' for amount, n in rows]

    def book_data(
        self,
        quote: SimulatedQuote,
        *,
        time_ms: int,
        levels: int,
        step: float | None = None,
        fast: bool = False,
        without: Collection[str] = (),
    ) -> str:
        """Return the `data` of an l2Book.

        Args:
            quote: the touch.
            time_ms: the book's time.
            levels: levels a side.
            step: width of a level, for a book of fewer significant figures.
            fast: add the mark of the fast book.
            without: sides that are empty, of `bid` and `ask`.
        """
        bid, ask, width = quote.bid, quote.ask, quote.tick
        if step is not None:
            bid, ask, width = quote.bid // step * step, -(-quote.ask // step) * step, step
        draw = (time_ms * 2_654_435_761) % (self._POOL - 2 * levels)
        bids = self._side(bid, quote.bid_size, quote.bid_orders, -width, draw, levels)
        asks = self._side(ask, quote.ask_size, quote.ask_orders, width, draw + levels, levels)
        bids, asks = "" if "bid" in without else bids, "" if "ask" in without else asks
        tail = ',"fast":true' if fast else ""
        return f'{{"coin":"{self._coin}","time":{time_ms},"levels":[[{bids}],[{asks}]]{tail}}}'

    def _side(self, price: float, size: float, orders: int, step: float, draw: int, levels: int) -> str:
        """Return levels from the touch on, a signed step apart; one in four leaves a step out."""
        decimals, gap, tail = self._decimals, self._gap, self._tail
        out = [f'{{"px":"{exact_text(price)}","sz":"{exact_text(size)}","n":{orders}}}']
        for i in range(draw, draw + levels - 1):
            price = round(price + step * gap[i], decimals)
            if price <= 0:
                break
            out.append(f'{{"px":"{exact_text(price)}{tail[i]}')
        return ",".join(out)


def book_frame_text(data: str) -> str:
    return f'{{"channel":"l2Book","data":{data}}}'


def error_text(sentence: str) -> str:
    return f'{{"channel":"error","data":{json.dumps(sentence)}}}'
