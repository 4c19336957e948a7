"""Generator of the simulated market as arrays, in chunks of a quarter of an hour.

The planted signal. Let `I` be the imbalance of a minute, (buy volume - sell volume) / (buy volume + sell volume)
of the prints as printed, 0 for a minute without prints, and `x = I / rms(I)`, the root mean square taken once
per coin over a pilot of 4096 minutes (fewer where a minute has more than 100 prints). Then

    s[m]   = lam * s[m-1] + sqrt(1 - lam**2) * x[m]                    unit variance, known at the close of m
    r[m+1] = sigma[m+1] * (rho * s[m] + sqrt(1 - rho**2) * e[m+1])     log return of the next minute

with `e` standard normal (a market factor shared by the coins and a part of their own) and `sigma` a slow
stochastic volatility. Flow depends only on the seed and the volatility, so `s` is the only predictor of a
return: its information coefficient at one minute is `rho = signal_strength`, that of the newest
bar's imbalance alone `rho * sqrt(1 - lam**2)`. `MarketSpec.expected_ic` gives longer horizons.

Every draw depends on the seed and the spec only, never on who listens. Axes: K blocks of the chunk, P prints,
E taker orders, Q quote changes, C contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ingest.simulator.market.funding import ContextModel, SimulatedContext
from ingest.simulator.market.order_flow import MINUTE_MS, OrderFlow
from ingest.simulator.market.spec import CoinSpec, MarketSpec
from storage.clock import MS_NS, NS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK_MINUTES: Final = 15
WARMUP_MINUTES: Final = 15
ADDRESSES: Final = 500
_CHUNK_MS: Final = CHUNK_MINUTES * MINUTE_MS
_PILOT_MINUTES: Final = 4_096
_PILOT_RATE: Final = 100.0  # a busier coin has a shorter pilot: its minutes vary less and cost more
_TWAP_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class CoinChunk:
    """One coin's chunk; prices and sizes are in the coin's own units, blocks index `MarketChunk.block_ms`."""

    print_block: Ints  # (P,) ascending
    order: Ints  # (P,) the taker order of each print
    buy: NDArray[np.bool_]  # (P,)
    price: Floats  # (P,)
    size: Floats  # (P,)
    tid: Ints  # (P,) below 2**50
    maker: Ints  # (P,) index of an address
    taker: Ints  # (E,)
    order_hash: list[str]  # (E,) 64 hex digits, all zero for a TWAP leg
    quote_block: Ints  # (Q,) strictly rising, one at each context among them
    bid: Floats  # (Q,)
    ask: Floats  # (Q,)
    tick: Floats  # (Q,)
    touch_size: Floats  # (2, Q) of bid and ask
    touch_orders: Ints  # (2, Q)
    mark: Floats  # (C,)
    contexts: list[SimulatedContext]  # (C,)
    fundings: list[tuple[int, float, float]]  # (block, rate, premium) of each full hour


@dataclass(frozen=True, slots=True)
class MarketChunk:
    """A quarter of an hour of the whole market."""

    block_ms: Ints  # (K,) strictly rising
    clock_ns: Ints  # (K,) receipt, never falling
    context_block: Ints  # (C,)
    coins: dict[str, CoinChunk]


@dataclass(frozen=True, slots=True)
class _ChunkInputs:
    """Inputs that all coins of a chunk share."""

    open_ms: int
    block_ms: Ints  # (K,)
    context_block: Ints  # (C,)
    heat: Floats  # (minutes,) unit variance, slow
    factor: Floats  # (seconds,) standard normal


class MarketGenerator:
    """The market's state between chunks."""

    def __init__(self, spec: MarketSpec) -> None:
        self._spec = spec
        self._open_ms = warm_up_ms(spec)
        self._rng = np.random.default_rng([spec.seed, 0])
        self._walkers = [_Walker(spec, coin) for coin in spec.coins if coin.listed]
        self._heat = 0.0
        self._clock_ns = 0

    def chunks(self) -> Iterator[MarketChunk]:
        """Yield chunks from the start of the warm-up, without end."""
        while True:
            yield self._chunk()
            self._open_ms += _CHUNK_MS

    def _chunk(self) -> MarketChunk:
        spec, rng = self._spec, self._rng
        # 1. The chain's blocks and the delay of the feed behind them.
        gaps = rng.integers(spec.block_ms[0], spec.block_ms[1] + 1, size=_CHUNK_MS // spec.block_ms[0])
        offsets = np.cumsum(gaps)
        block_ms = self._open_ms + offsets[offsets < _CHUNK_MS]
        least, most = spec.lag_ms
        lag_ns = ((least + (most - least) * rng.beta(2.0, 4.0, len(block_ms))) * MS_NS).astype(np.int64)
        clock_ns = np.maximum.accumulate(np.maximum(block_ms * MS_NS + lag_ns, self._clock_ns))
        self._clock_ns = int(clock_ns[-1])
        # 2. Factors common to all coins.
        heat = _autoregress(rng, CHUNK_MINUTES, 0.98, self._heat)
        self._heat = float(heat[-1])
        factor = rng.standard_normal(CHUNK_MINUTES * 60)
        context_ms = np.arange(self._open_ms, self._open_ms + _CHUNK_MS, spec.context_s * 1_000)
        context_block = np.unique(np.minimum(np.searchsorted(block_ms, context_ms), len(block_ms) - 1))
        # 3. Each coin on its own.
        shared = _ChunkInputs(self._open_ms, block_ms, context_block, heat, factor)
        coins = {walker.coin.name: walker.walk(shared) for walker in self._walkers}
        return MarketChunk(block_ms, clock_ns, context_block, coins)


class _Walker:
    """State of one coin: price, volatility and planted signal; the slow parts are in its `ContextModel`."""

    def __init__(self, spec: MarketSpec, coin: CoinSpec) -> None:
        self.coin = coin
        self._spec = spec
        self._rng = np.random.default_rng([spec.seed, crc32(coin.name.encode())])
        pilot = np.random.default_rng([spec.seed, crc32(coin.name.encode()), 1])
        prints = coin.prints_per_minute * spec.activity
        minutes = (
            _PILOT_MINUTES if prints <= _PILOT_RATE else max(256, int(_PILOT_MINUTES * _PILOT_RATE / prints))
        )
        rate = np.full(minutes, prints)
        self._imbalance_rms = max(
            float(np.sqrt(np.mean(OrderFlow(pilot, coin, rate).imbalance() ** 2))), 1e-9
        )
        self._log_price = math.log(coin.start_price)
        self._heat = self._signal = 0.0
        self._context_model = ContextModel(spec, coin)

    def walk(self, shared: _ChunkInputs) -> CoinChunk:
        """Return the next chunk of this coin."""
        rng, coin, spec = self._rng, self.coin, self._spec
        # 1. Volatility, then flow, then the price that follows from both.
        own = _autoregress(rng, CHUNK_MINUTES, 0.95, self._heat)
        self._heat = float(own[-1])
        heat = np.exp(0.4 * (0.8 * shared.heat + 0.6 * own) - 0.08)
        flow = OrderFlow(rng, coin, coin.prints_per_minute * spec.activity * heat)
        path = self._path(coin.volatility_bp * 1e-4 * heat, flow.imbalance(), shared.factor)
        price_at = np.exp(np.interp(shared.block_ms - shared.open_ms, np.arange(len(path)) * 1_000, path))
        # 2. Quotes at every block with a trade, a context, or a change of its own; prints at the touch.
        order_block = flow.place(rng, shared.open_ms, shared.block_ms)
        print_block = order_block[flow.order]
        quote_block = self._quote_blocks(order_block, shared)
        bid, ask, tick = self._quotes(price_at[quote_block])
        at = np.searchsorted(quote_block, print_block)
        slip = (flow.depth // 3) * tick[at]
        price = np.where(flow.buy, ask[at] + slip, np.maximum(bid[at] - slip, tick[at]))
        scale = 10.0**coin.price_decimals
        price = np.rint(price) / scale
        # 3. Contexts from the price at their block, and the day's volume.
        mark = price_at[shared.context_block]
        contexts, fundings = self._contexts(shared, mark, print_block, price, flow.size)
        self._close_chunk(shared, print_block, price, flow.size, path)
        return CoinChunk(
            print_block=print_block,
            order=flow.order,
            buy=flow.buy,
            price=price,
            size=flow.size,
            tid=rng.integers(0, 1 << 50, len(price)),
            maker=rng.integers(0, ADDRESSES, len(price)),
            taker=rng.integers(0, ADDRESSES, len(order_block)),
            order_hash=_hashes(rng, len(order_block)),
            quote_block=quote_block,
            bid=np.rint(bid) / scale,
            ask=np.rint(ask) / scale,
            tick=tick / scale,
            touch_size=self._touch_sizes(len(quote_block)),
            touch_orders=1 + rng.poisson(3.0, (2, len(quote_block))),
            mark=mark,
            contexts=contexts,
            fundings=fundings,
        )

    def _path(self, sigma: Floats, imbalance: Floats, factor: Floats) -> Floats:
        """Return log prices at whole seconds, first and last second included, and advance the signal."""
        rho, lam = self._spec.signal_strength, self._spec.signal_memory
        drift = np.empty(CHUNK_MINUTES)
        for minute, x in enumerate((imbalance / self._imbalance_rms).tolist()):
            drift[minute] = rho * self._signal
            self._signal = lam * self._signal + math.sqrt(1 - lam**2) * x
        share = self.coin.common_share
        noise = share * factor + math.sqrt(1 - share**2) * self._rng.standard_normal(len(factor))
        steps = np.repeat(sigma, 60) * (np.repeat(drift / 60, 60) + math.sqrt((1 - rho**2) / 60) * noise)
        path = self._log_price + np.concatenate(([0.0], np.cumsum(steps)))
        self._log_price = float(path[-1])
        return path

    def _quote_blocks(self, order_block: Ints, shared: _ChunkInputs) -> Ints:
        mean = self.coin.quotes_per_minute * self._spec.activity * CHUNK_MINUTES
        own = self._rng.integers(0, len(shared.block_ms), size=self._rng.poisson(mean))
        return np.unique(np.concatenate((order_block, own, shared.context_block)))

    def _quotes(self, price: Floats) -> tuple[Floats, Floats, Floats]:
        """Return bid, ask and tick (Q,), all in steps of the finest price."""
        tick = tick_steps(price, self.coin.price_decimals)
        spread = 1 + self._rng.poisson(self.coin.extra_spread_ticks, len(price))
        middle = price * 10.0**self.coin.price_decimals / tick
        bid = np.maximum(np.rint(middle - spread / 2), 1.0)
        return bid * tick, (bid + spread) * tick, tick

    def _touch_sizes(self, n: int) -> Floats:
        lots = 10.0**self.coin.size_decimals
        median = math.log(8 * self.coin.median_notional / self.coin.start_price * lots)
        return np.maximum(np.rint(self._rng.lognormal(median, 1.5, (2, n))), 1.0) / lots

    def _contexts(
        self, shared: _ChunkInputs, mark: Floats, print_block: Ints, price: Floats, size: Floats
    ) -> tuple[list[SimulatedContext], list[tuple[int, float, float]]]:
        """Return the contexts (C,) and the funding of each full hour."""
        base = np.concatenate(([0.0], np.cumsum(size)))
        notional = np.concatenate(([0.0], np.cumsum(price * size)))
        seen = np.searchsorted(print_block, shared.context_block, side="right")
        shocks = self._rng.standard_normal((len(mark), 2)).tolist()
        times = shared.block_ms[shared.context_block].tolist()
        contexts, fundings = [], []
        for i, now_ms in enumerate(times):
            paid = self._context_model.paid(now_ms)
            if paid is not None:
                fundings.append((int(shared.context_block[i]), *paid))
            volume = float(base[seen[i]]), float(notional[seen[i]])
            contexts.append(
                self._context_model.step(float(mark[i]), *volume, now_ms - shared.open_ms, shocks[i])
            )
        return contexts, fundings

    def _close_chunk(
        self, shared: _ChunkInputs, print_block: Ints, price: Floats, size: Floats, path: Floats
    ) -> None:
        minute = (shared.block_ms[print_block] - shared.open_ms) // MINUTE_MS
        base = np.bincount(minute, weights=size, minlength=CHUNK_MINUTES)
        notional = np.bincount(minute, weights=price * size, minlength=CHUNK_MINUTES)
        self._context_model.close_chunk(np.cumsum(base), np.cumsum(notional), np.exp(path[60::60]))


def warm_up_ms(spec: MarketSpec) -> int:
    """Return when the warm-up begins: a full minute, far enough before the start to fill a replay."""
    return spec.start_ns // (60 * NS) * MINUTE_MS - WARMUP_MINUTES * MINUTE_MS


def tick_steps(price: Floats, price_decimals: int) -> Floats:
    """Return the tick of each price in units of `10 ** -price_decimals`.

    The venue allows 5 significant figures and `price_decimals` decimals; whole numbers are always allowed.
    """
    decimals = np.clip(4 - np.floor(np.log10(price)), 0, price_decimals)
    return np.asarray(np.power(10.0, price_decimals - decimals), dtype=np.float64)


def _hashes(rng: np.random.Generator, n: int) -> list[str]:
    digits = rng.bytes(32 * n).hex()
    twap = (rng.random(n) < _TWAP_SHARE).tolist()
    return ["0" * 64 if zero else digits[64 * i : 64 * i + 64] for i, zero in enumerate(twap)]


def _autoregress(rng: np.random.Generator, n: int, keep: float, last: float) -> Floats:
    """Return n steps of an autoregressive process with unit variance and coefficient `keep`."""
    out = np.empty(n)
    for i, shock in enumerate((math.sqrt(1 - keep**2) * rng.standard_normal(n)).tolist()):
        last = keep * last + shock
        out[i] = last
    return out
