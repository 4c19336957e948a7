"""Depth features of the order book.

A depth is the sum over the first five levels of a side, as of the close. Books come at different cadences: every half
second from the archive and as fast books, every five seconds as slow ones. A book from five seconds ago has another
meaning than one from half a second ago, so there is one feature per cadence, named after it, which is missing where
books come at another cadence (`features.inputs.CADENCES`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from features.feature import Feature, feature
from features.inputs import CADENCES

_CADENCE: Final = (
    "; levels: Hyperliquid docs, WebSocket / Subscriptions, `l2Book` (as of 2026-08-22); cadences: client code and "
    "issue reports (2026-07-25), since those docs say 0.5 s of both"
)


def each_cadence(item: Feature) -> dict[str, Feature]:
    """Return the feature for each cadence, named `NAME_CADENCE`; the declaration uses the fast books' inputs."""
    return {
        cadence: replace(
            item,
            name=f"{item.name}_{cadence}",
            inputs=tuple(name.replace("fast_", f"{cadence}_", 1) for name in item.inputs),
        )
        for cadence in CADENCES
    }


@each_cadence
@feature(
    lookback_bars=0,
    inputs=("fast_bid_depth", "fast_ask_depth"),
    unit="share, -1 to 1",
    source="after Cao, Hansch and Wang (2009), The Information Content of an Open Limit-Order Book, "
    "J. Futures Markets 29(1), over five levels together in place of each" + _CADENCE,
)
def depth_imbalance(bid_depth: Tensor, ask_depth: Tensor) -> Tensor:
    """Imbalance of the depth on five levels; positive if the bid side is deeper.

    Formula: (B - A) / (B + A), B and A the base units on five levels of bid and ask

    Missing: a side is empty, the bar was not observed, or the book is frozen or of another cadence: `fast` means at
    most 1 s between books and the newest not older than 5 s; `slow` means 2.5 to 10 s and not older than 30 s.
    """
    both = bid_depth + ask_depth
    return torch.where(both > 0.0, (bid_depth - ask_depth) / both, math.nan)


@each_cadence
@feature(
    lookback_bars=0,
    inputs=("fast_bid_depth", "fast_ask_depth", "bid", "ask"),
    unit="ln(quote units)",
    source="after Chordia, Roll and Subrahmanyam (2001), Market Liquidity and Trading Activity, J. Finance 56(2), "
    "their dollar depth, on five levels in place of one" + _CADENCE,
)
def book_depth(bid_depth: Tensor, ask_depth: Tensor, bid: Tensor, ask: Tensor) -> Tensor:
    """Notional value of the book on five levels.

    Formula: ln(B bid + A ask), B and A the base units on five levels of bid and ask, all of a side valued at its best
    quoted price

    Missing: as `depth_imbalance`, or the quotes are missing or known to be older than 300 s.
    """
    both = bid_depth * bid + ask_depth * ask
    return torch.where(both > 0.0, torch.log(both), math.nan)


@each_cadence
@feature(
    lookback_bars=0,
    inputs=("fast_bid_depth", "fast_ask_depth", "bid_size", "ask_size"),
    unit="log",
    source="after Naes and Skjeltorp (2006), Order Book Characteristics and the Volume-Volatility Relation, "
    "J. Financial Markets 9(4), a ratio of depths in place of their slope" + _CADENCE,
)
def depth_behind(bid_depth: Tensor, ask_depth: Tensor, bid_size: Tensor, ask_size: Tensor) -> Tensor:
    """Depth on five levels relative to the size of the best quotes.

    Formula: ln((B + A) / (bid_size + ask_size)), B and A the base units on five levels of bid and ask

    Missing: as `depth_imbalance`, or a size of the best quotes is missing or known to be older than 300 s, or both are
    zero.
    """
    both, best = bid_depth + ask_depth, bid_size + ask_size
    return torch.where((both > 0.0) & (best > 0.0), torch.log(both / best), math.nan)


@each_cadence
@feature(
    lookback_bars=0,
    inputs=("fast_book_age_ms",),
    unit="ln(1 + s)",
    source="`ts_knowable` of the table `books`" + _CADENCE,
)
def book_age(book_age_ms: Tensor) -> Tensor:
    """Age of the book that the depth features read.

    Formula: ln(1 + seconds since the newest book became knowable), as of the close

    Missing: the bar was not observed, or books come at another cadence or stopped, as for `depth_imbalance`.
    """
    return torch.log1p(book_age_ms / 1_000.0)
