"""Which features does a set hold, in which order, and by which version of the code?

Run as `python -m features.sets` it prints docs/features.md.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from features.feature import Feature, deepest_lookback, evaluate
from features.inputs import INPUTS, LEAVES, Input, leader_rows
from features.library.cross_section import (
    market_dispersion,
    market_residual,
    market_return,
    return_rank,
    volatility_rank,
    volume_rank,
)
from features.library.funding import (
    context_age,
    funding_change,
    funding_due,
    funding_level,
    funding_paid,
    funding_paid_age,
    mark_basis,
    mark_gap,
    mid_basis,
    open_interest_change,
)
from features.library.lead_lag import btc_beta, btc_lead, btc_residual, btc_return, eth_lead, eth_return
from features.library.order_book import book_age, book_depth, depth_behind, depth_imbalance
from features.library.order_flow import (
    empty_share,
    flow_imbalance,
    price_impact,
    print_rate,
    signed_flow,
    volume_score,
    vwap_distance,
)
from features.library.quotes import (
    microprice_distance,
    queue_imbalance,
    quote_age,
    quote_flow,
    relative_spread,
    spread_ratio,
)
from features.library.regime import illiquidity_regime, illiquidity_state, volatility_regime, volatility_state
from features.library.relay_lag import relay_lag, relay_lag_age
from features.library.returns import log_return, momentum, price_age, range_position, variance_ratio
from features.library.time_of_day import (
    hour_cos,
    hour_sin,
    session_extended,
    session_internal,
    session_regular,
    week_cos,
    week_sin,
)
from features.library.volatility import (
    bipower_volatility,
    jump_balance,
    jump_share,
    parkinson_volatility,
    realised_volatility,
    semivariance_balance,
)
from features.panel.panel import COLUMNS
from features.versioning.source_hash import reached_sources
from storage.errors import SettingsError

_CANDLES: Final = (
    *log_return.values(),
    *momentum.values(),
    *range_position.values(),
    price_age,
    *realised_volatility.values(),
    *parkinson_volatility.values(),
    *bipower_volatility.values(),
    *jump_share.values(),
    *semivariance_balance.values(),
    *volume_score.values(),
    *empty_share.values(),
    *return_rank.values(),
    *volatility_rank.values(),
    *market_residual.values(),
    *market_return.values(),
    btc_return[1],
    eth_return[1],
    *btc_lead.values(),
    *btc_residual.values(),
    *volatility_regime.values(),
    *illiquidity_regime.values(),
    hour_sin,
    hour_cos,
)

_LIVE: Final = (
    *_CANDLES,
    *flow_imbalance.values(),
    signed_flow[5],
    *vwap_distance.values(),
    *print_rate.values(),
    relative_spread,
    *spread_ratio.values(),
    queue_imbalance,
    microprice_distance,
    *quote_flow.values(),
    quote_age,
    funding_level,
    *funding_change.values(),
    funding_due,
    mark_basis,
    mid_basis,
    open_interest_change[60],
    context_age,
)

_WIDE: Final = (
    *_LIVE,
    *variance_ratio.values(),
    *jump_balance.values(),
    signed_flow[30],
    *price_impact.values(),
    *volume_rank.values(),
    *market_dispersion.values(),
    btc_return[5],
    eth_return[5],
    *eth_lead.values(),
    *btc_beta.values(),
    *volatility_state.values(),
    *illiquidity_state.values(),
    *depth_imbalance.values(),
    *book_depth.values(),
    *depth_behind.values(),
    *book_age.values(),
    mark_gap,
    open_interest_change[15],
    funding_paid,
    funding_paid_age,
    relay_lag,
    relay_lag_age,
    week_sin,
    week_cos,
    session_regular,
    session_extended,
    session_internal,
)

FEATURE_SETS: Final[dict[str, tuple[Feature, ...]]] = {"candles": _CANDLES, "live": _LIVE, "wide": _WIDE}
"""Sets by name; the order is that of a block's last axis, and part of the fingerprint."""

_PURPOSE: Final = {
    "candles": "What candle history carries: prices and volume, without prints, sides, quotes or contexts.",
    "live": "What the recorder sees of every perp: the candle set, then sides, prints, quotes and contexts.",
    "wide": "All there is: the live set, then more of each family and what only some recordings hold: books of a "
    "cadence, payments, relays and sessions.",
}

_HEAD: Final = """\
# Features

<!-- Written by `python -m features.sets`; change the declarations in features/, not this page. -->

A feature is a small torch function over a panel of bars; it looks back only, and the proof of that
(`features/leakage/perturbation.py`) runs on every retraining night.
Bars are steps of the clock, so a window of 30 bars of one minute is half an hour whether or not anything printed.

What a missing print looks like:

- A bar that was watched throughout is `printed` or `quiet`; every other status is missing, and a feature that
  needs it is masked, never zero.
- A quiet bar is proven silence: volume, flow and prints are zero, and the last price is carried through it, at
  most 31 bars, with its age beside it.
- A quote, a context, a book, a payment or a relay's lag counts until it is older than its limit; its age stands
  beside it.
- No price is carried over a hole, and no one-bar return spans one.
- A window is known where at least 80 % of its bars were observed.
- A step whose lookback reaches before the panel is masked, so no value depends on where a panel was cut.

The lookback is in bars before the bar itself, and includes how far a carried price may reach back.
"""


def get_set(name: str) -> tuple[Feature, ...]:
    """Return a set by name.

    Raises:
        SettingsError: there is no such set.
    """
    if name not in FEATURE_SETS:
        nearest = difflib.get_close_matches(name, FEATURE_SETS, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"feature set {name!r} does not exist; there are {', '.join(FEATURE_SETS)}", hint=f"use {nearest}"
        )
    return FEATURE_SETS[name]


@lru_cache
def fingerprint(features: tuple[Feature, ...]) -> str:
    """Return the version of these features, as a hash.

    It covers names, order, inputs, lookbacks and windows, and the source text of every function that they
    reach, with the constants those read: a changed line is a changed version.
    """
    inputs = _inputs_of(features)
    declared = [
        *((item.name, item.inputs, item.own_lookback_bars, item.params) for item in features),
        *((item.name, item.inputs, item.lookback_bars, item.params) for item in inputs.values()),
    ]
    functions: list[Callable[..., object]] = [evaluate, leader_rows]
    functions += [item.function for item in features]
    functions += [item.function for item in inputs.values()]
    payload = json.dumps({"declared": declared, "sources": reached_sources(functions)}, sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()


def columns_of(features: Iterable[Feature]) -> frozenset[str]:
    """Return which columns of a panel the features are made from."""
    leaves = {leaf for item in _inputs_of(features).values() for leaf in item.inputs if leaf in LEAVES}
    return frozenset(leaf.removeprefix("panel.") for leaf in leaves) & frozenset(COLUMNS)


def describe_sets() -> str:
    """Return the page that lists every set and every feature, in Markdown."""
    lines = [_HEAD]
    for name, features in FEATURE_SETS.items():
        deepest = deepest_lookback(features)
        lines += [
            f"## Set `{name}`",
            "",
            f"{_PURPOSE[name]}",
            f"{len(features)} features, {deepest} bars deep.",
            "",
        ]
        lines += ["| # | feature | unit | lookback, bars | inputs |", "|---|---|---|---|---|"]
        lines += [
            f"| {place} | `{item.name}` | {item.unit} | {item.lookback_bars} | {', '.join(item.inputs)} |"
            for place, item in enumerate(features)
        ]
        lines.append("")
    lines += [
        "## Definitions",
        "",
        "| feature | what | formula | missing | source |",
        "|---|---|---|---|---|",
    ]
    told: dict[str, list[Feature]] = {}
    for item in {item.name: item for features in FEATURE_SETS.values() for item in features}.values():
        told.setdefault(item.function.__qualname__, []).append(item)
    for members in told.values():
        first = members[0]
        names = ", ".join(f"`{item.name}`" for item in members)
        cells = (names, first.summary, first.formula, first.missing, first.source)
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines) + "\n"


def _inputs_of(features: Iterable[Feature]) -> dict[str, Input]:
    """Return every input that the features are made from, down to the leaves, by name."""
    found: dict[str, Input] = {}
    waiting = [name for item in features for name in item.inputs]
    while waiting:
        name = waiting.pop()
        if name in INPUTS and name not in found:
            found[name] = INPUTS[name]
            waiting += INPUTS[name].inputs
    return dict(sorted(found.items()))


if __name__ == "__main__":
    sys.stdout.write(describe_sets())
