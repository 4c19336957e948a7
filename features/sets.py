"""Named, ordered feature sets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from features.feature import Feature
from features.inputs import LEAVES
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
from features.library.mid_prices import (
    mid_momentum,
    mid_residual,
    mid_return,
    mid_return_rank,
    mid_volatility,
)
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
from features.versioning.fingerprint import inputs_of
from storage.errors import ProjectError, SettingsError
from storage.project import merge_registry

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

_RECORDED: Final = (
    *_LIVE,
    depth_imbalance["slow"],
    book_depth["slow"],
    depth_behind["slow"],
    book_age["slow"],
)

_MIDS: Final = (
    *mid_return.values(),
    *mid_momentum.values(),
    *mid_volatility.values(),
    *mid_return_rank.values(),
    *mid_residual.values(),
    relative_spread,
    *spread_ratio.values(),
    queue_imbalance,
    microprice_distance,
    *quote_flow.values(),
    quote_age,
    hour_sin,
    hour_cos,
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

FEATURE_SETS: Final[dict[str, tuple[Feature, ...]]] = {
    "candles": _CANDLES,
    "live": _LIVE,
    "recorded": _RECORDED,
    "wide": _WIDE,
    "mids": _MIDS,
}
"""Built-in sets by name. The order is that of a block's last axis, and is part of the fingerprint."""


def feature_sets() -> dict[str, tuple[Feature, ...]]:
    """Return all sets by name: the built-in ones, and those of the user's project.

    Raises:
        ProjectError: the project cannot be imported, or defines a name a second time.
    """
    added = merge_registry(FEATURE_SETS, "FEATURE_SETS", kind="feature set", where="features/sets.py")
    if not added:
        return FEATURE_SETS
    known = {
        item.name: (item, name) for name, features in reversed(FEATURE_SETS.items()) for item in features
    }
    checked: dict[str, tuple[Feature, ...]] = {}
    for name, members in added.items():
        checked[name] = _members(name, members)
        for item in checked[name]:
            existing, place = known.setdefault(item.name, (item, name))
            if existing is not item or checked[name].count(item) > 1:
                raise ProjectError(
                    f"feature {item.name!r} is defined twice: in the set {name!r} of the project, and in {place!r}",
                    hint="give the project's function another name, or list the feature once",
                )
    return FEATURE_SETS | checked


def _members(name: str, members: object) -> tuple[Feature, ...]:
    given = tuple(members) if isinstance(members, list | tuple) else (members,)
    wrong = [item for item in given if not isinstance(item, Feature)]
    if wrong or not given:
        raise ProjectError(
            f"feature set {name!r} of the project holds {wrong[0]!r}, which is no feature"
            if wrong
            else f"feature set {name!r} of the project is empty",
            hint="write a tuple of features; the members of a family are (*my_family.values(),)",
        )
    return tuple(item for item in given if isinstance(item, Feature))


def get_set(name: str) -> tuple[Feature, ...]:
    """Return a set by name.

    Raises:
        SettingsError: there is no such set.
        ProjectError: as `feature_sets`.
    """
    sets = feature_sets()
    if name not in sets:
        nearest = difflib.get_close_matches(name, sets, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"feature set {name!r} does not exist; there are {', '.join(sets)}", hint=f"use {nearest}"
        )
    return sets[name]


def columns_of(features: Iterable[Feature]) -> frozenset[str]:
    """Return the panel columns that the features are derived from."""
    leaves = {leaf for item in inputs_of(features).values() for leaf in item.inputs if leaf in LEAVES}
    return frozenset(leaf.removeprefix("panel.") for leaf in leaves) & frozenset(COLUMNS)
