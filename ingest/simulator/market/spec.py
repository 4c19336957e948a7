"""Specification of the simulated market: coins, span, rates and planted signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ingest.venues.hyperliquid.protocol import kind_of
from storage.clock import NS, parse_time_ns
from storage.errors import SettingsError

PRICE_DECIMALS: Final = 6
"""Perpetual prices carry at most `6 - size_decimals` decimals and 5 significant figures (venue docs, tick size)."""

SPOT_PRICE_DECIMALS: Final = 8


@dataclass(frozen=True, slots=True)
class CoinSpec:
    """One instrument: its listing, and the behaviour of its market.

    Args:
        name: the venue's byte-exact symbol, which decides whether it is a perpetual of the first dex (`BTC`), of
            another (`xyz:AAPL`), spot (`@107`, `PURR/USDC`) or a side of an outcome (`#70`).
        size_decimals: `szDecimals`; sizes are multiples of `10 ** -size_decimals`.
        max_leverage: `maxLeverage` of the universe.
        start_price: quote units per base unit at the start of the warm-up.
        volatility_bp: typical standard deviation of a one-minute log return, basis points.
        common_share: correlation of its returns with the market factor, 0..1.
        prints_per_minute: mean prints; a coin near 1 has many minutes with none.
        quotes_per_minute: mean changes of the best bid or ask beside those that trades cause.
        extra_spread_ticks: mean width of the spread beyond one tick.
        median_notional: median size of a print in quote units.
        open_interest: base units; of spot, the circulating supply.
        listed: False gives a delisted row: kept in the universe, never quoted or traded.
    """

    name: str
    size_decimals: int
    max_leverage: int
    start_price: float
    volatility_bp: float
    common_share: float
    prints_per_minute: float
    quotes_per_minute: float
    extra_spread_ticks: float
    median_notional: float
    open_interest: float
    listed: bool = True

    @property
    def price_decimals(self) -> int:
        """Return the most decimals that a price of this coin may carry."""
        most = SPOT_PRICE_DECIMALS if kind_of(self.name) == "spot" else PRICE_DECIMALS
        return most - self.size_decimals

    @property
    def mirrored(self) -> str:
        """Return, for the second side of an outcome (`#71`), the side that it mirrors (`#70`); else an empty text."""
        if kind_of(self.name) != "outcome" or not self.name.endswith("1"):
            return ""
        return f"{self.name[:-1]}0"


# Volatilities, spreads and size tails follow the four-coin recording of 2025-09-04; the rates are lower than
# the venue's, so that two simulated days stay small.
DEFAULT_COINS: Final = (
    CoinSpec("BTC", 5, 40, 110_000.0, 4.5, 0.85, 45.0, 30.0, 0.3, 450.0, 36_000.0),
    CoinSpec("ETH", 4, 25, 4_300.0, 7.0, 0.80, 36.0, 30.0, 0.3, 700.0, 600_000.0),
    CoinSpec("SOL", 2, 20, 200.0, 9.0, 0.75, 24.0, 24.0, 0.4, 800.0, 4_000_000.0),
    CoinSpec("HYPE", 2, 10, 45.0, 12.0, 0.55, 14.0, 18.0, 1.0, 500.0, 20_000_000.0),
    CoinSpec("DOGE", 0, 10, 0.22, 9.0, 0.70, 6.0, 12.0, 0.8, 300.0, 500_000_000.0),
    CoinSpec("AVAX", 2, 10, 25.0, 10.0, 0.70, 1.6, 8.0, 3.0, 250.0, 3_000_000.0),
    CoinSpec("MATIC", 1, 20, 0.37621, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, listed=False),
)

WHOLE_VENUE: Final = (
    *DEFAULT_COINS,
    CoinSpec("kPEPE", 0, 10, 0.0105, 12.0, 0.70, 8.0, 12.0, 1.0, 200.0, 2e10),
    CoinSpec("xyz:AAPL", 3, 20, 201.15, 3.0, 0.30, 6.0, 12.0, 1.0, 600.0, 90_000.0),
    CoinSpec("xyz:GOLD", 4, 20, 4_120.5, 2.0, 0.10, 4.0, 10.0, 1.0, 900.0, 9_000.0),
    CoinSpec("vntl:OPENAI", 2, 3, 820.0, 4.0, 0.10, 1.0, 6.0, 4.0, 300.0, 4_000.0),
    CoinSpec("PURR/USDC", 0, 1, 0.067, 12.0, 0.50, 2.0, 8.0, 2.0, 120.0, 5.9e8),
    CoinSpec("@107", 2, 1, 45.02, 12.0, 0.55, 6.0, 12.0, 1.0, 400.0, 3.3e8),
)
"""Every kind that a recorder must distinguish: `k` names, deployed dexes, and spot under both of its names."""


@dataclass(frozen=True, slots=True)
class MarketSpec:
    """The whole market; equal specs give equal blocks, byte for byte.

    Args:
        seed: seeds every draw.
        start_ns: first instant served; some minutes before it are drawn as warm-up and feed only the replays.
        span_s: length of the served span in seconds (None: without end).
        coins: the universe, in the venue's order.
        signal_strength: `rho` of the planted signal (see `ingest.simulator.market.generator`), 0 (none) .. 0.9.
        signal_memory: `lam` of the planted signal, 0 .. 0.99; 0.8 halves an imbalance's effect in 3.1 minutes.
        activity: factor on the rates of trades and quotes of every coin.
        block_ms: least and greatest time between two blocks; every event of a block shares its time.
        lag_ms: least and greatest delay from block to receipt.
        context_s: seconds between contexts (mark, oracle, funding, open interest); divides 60.
        book_s: seconds between books of 20 levels (venue: 5 since 2026-07-25).

    Raises:
        SettingsError: a value is out of its range.
    """

    seed: int = 7
    start_ns: int = parse_time_ns("2026-01-05")
    span_s: float | None = 3_600.0
    coins: tuple[CoinSpec, ...] = DEFAULT_COINS
    signal_strength: float = 0.15
    signal_memory: float = 0.8
    activity: float = 1.0
    block_ms: tuple[int, int] = (100, 500)
    lag_ms: tuple[int, int] = (300, 800)
    context_s: int = 10
    book_s: int = 5

    def __post_init__(self) -> None:
        names = [coin.name for coin in self.coins]
        rules = (
            ("signal_strength", self.signal_strength, 0 <= self.signal_strength <= 0.9, "lies in 0 .. 0.9"),
            ("signal_memory", self.signal_memory, 0 <= self.signal_memory <= 0.99, "lies in 0 .. 0.99"),
            ("activity", self.activity, 0 < self.activity <= 100, "lies above 0 and up to 100"),
            (
                "block_ms",
                self.block_ms,
                10 <= self.block_ms[0] <= self.block_ms[1] <= 5_000,
                "lies in 10 .. 5000",
            ),
            (
                "lag_ms",
                self.lag_ms,
                0 <= self.lag_ms[0] <= self.lag_ms[1],
                "is a pair from least to greatest",
            ),
            ("context_s", self.context_s, self.context_s > 0 and 60 % self.context_s == 0, "divides 60"),
            ("book_s", self.book_s, self.book_s > 0, "is above 0"),
            ("span_s", self.span_s, self.span_s is None or self.span_s > 0, "is above 0, or None for no end"),
            ("coins", names, names and len(set(names)) == len(names), "names at least one coin, each once"),
            (
                "coins",
                names,
                all(coin.mirrored in ("", *names) for coin in self.coins),
                "holds the first side (#70) of every outcome whose second side (#71) it holds",
            ),
        )
        for key, value, holds, rule in rules:
            if not holds:
                raise SettingsError(
                    f"simulated market: {key} is {value!r}, but it {rule}", key=key, value=value
                )

    @property
    def end_ns(self) -> int | None:
        """Return the end of the span, or None."""
        return None if self.span_s is None else self.start_ns + round(self.span_s * NS)

    def expected_ic(self, horizon_min: int = 1, *, delay_min: int = 0) -> float:
        """Return the correlation of the best predictor with the log return over `horizon_min` minutes.

        For constant volatility it is
        `rho * lam**d * sum(lam**k, k < h) / sqrt(h + 2 rho**2 sum((h - k) lam**k, 0 < k < h))`.

        Args:
            horizon_min: h, from entry to exit.
            delay_min: d, from the decision to the entry; a label of one-minute bars has 1.
        """
        rho, lam, h = self.signal_strength, self.signal_memory, horizon_min
        covariance = sum((h - k) * lam**k for k in range(1, h))
        return rho * lam**delay_min * sum(lam**k for k in range(h)) / math.sqrt(h + 2 * rho**2 * covariance)
