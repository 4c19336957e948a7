"""What the versions of a replay earned on the bars that followed their nights.

One ledger runs over the whole range (training/evaluation/positions.py), on the predictions of whichever version served
at each decision. So a position that is open when the version changes is held to the end of its holding period, and the
version that serves by then renews, reverses or closes it; where none serves, it is closed. Costs, delay and funding are
those of a night's backtest. The range begins flat, and ends with all positions closed at cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np

from storage.clock import DAY_NS
from storage.lake.lake import Lake
from training.evaluation.metrics import largest_fall, sharpe
from training.evaluation.period_net import complete_periods, net_by_period
from training.evaluation.positions import PositionLedger, run_ledger
from training.night.artifacts import read_predictions
from training.night.lineage_evidence import lineage_of, read_gate_record
from training.night.lineage_path import period_of
from training.night.market_data import make_market
from training.night.scoring import traded_prediction
from training.recipe import Recipe
from training.replay.folder import ReplayedNight, ReplayFolder
from training.replay.schedule import Schedule
from training.replay.serving import FollowingBars

_CURVE_POINTS: Final = 600
_YEAR_NS: Final = 365 * DAY_NS
SEQUENCE: Final = "served"
NEWEST: Final = "newest refit"
GATE_PATH: Final = "gate path"
PATHS: Final = (SEQUENCE, NEWEST, GATE_PATH)
"""All paths in the order of tables."""


def measure_replay(
    replay: ReplayFolder,
    records: Lake,
    following: FollowingBars,
    recipe: Recipe,
    schedule: Schedule,
    nights: Sequence[ReplayedNight],
    *,
    grace_ns: int,
) -> dict[str, Any]:
    """Return the value of `result.json`.

    Its keys: `figures` by path (`served`: the versions that served; `newest refit`: the challenger of each night,
    whatever the gate said; `gate path`: the days that made the evidence, from the first night on), each with
    net, Sharpe ratio (annualised, of complete periods), drawdown (of cumulated net, from a peak) and costs, as shares
    of the capital; `curves`; `served`: who served when; `changes`: promotions and demotions; `counts`, `served_share`.
    """
    first, stop = following.steps(schedule.from_ns, schedule.to_ns)
    market = make_market(following.data, recipe, following.fees, grace_ns=grace_ns).window(first, stop)
    closes, width_ns = market.ts_close_ns, following.data.panel.width_ns
    period_ns = period_of(recipe.folds, width_ns=width_ns)
    starts, bars = complete_periods(closes, width_ns=width_ns, period_ns=period_ns)
    points = np.unique(np.linspace(0, stop - first - 1, _CURVE_POINTS).astype(int))

    figures, curves = {}, {}
    for name, what in ((SEQUENCE, "serving"), (NEWEST, "newest")):
        prediction = dense_predictions(replay, following, nights, what, recipe, first=first, stop=stop)
        ledger = run_ledger(prediction, market, recipe.position, recipe.costs)
        net = net_by_period(ledger.net, starts, bars)
        curve = ledger.net.cumsum()
        figures[name] = _ledger_figures(ledger) | _net_figures(net, curve, period_ns)
        curves[name] = {"ts_ns": closes[points].tolist(), "net": curve[points].tolist()}
    days = read_gate_record(records, night="").net(lineage_of(recipe).name, after_ns=schedule.from_ns - 1)
    net = np.array(list(days.values()), dtype=np.float64)
    figures[GATE_PATH] = {"net": float(net.sum())} | _net_figures(net, net.cumsum(), period_ns)
    curves[GATE_PATH] = {"ts_ns": [day + period_ns for day in days], "net": net.cumsum().tolist()}

    decided = following.data.labels.ts_decided_ns[first:stop]
    served = _who_served(nights, schedule)
    covered = sum(int(((decided >= a["start_ns"]) & (decided < a["stop_ns"])).sum()) for a in served)
    return {
        "figures": figures,
        "curves": curves,
        "period_ns": period_ns,
        "served": served,
        "changes": _changes(nights),
        "counts": _counts(nights),
        "served_share": covered / max(len(decided), 1),
        "has_funding": following.data.funding_paid is not None,
        "quoted_share": float(np.isfinite(market.half_spread).mean()) if market.half_spread.size else 0.0,
    }


def dense_predictions(
    replay: ReplayFolder,
    following: FollowingBars,
    nights: Sequence[ReplayedNight],
    what: str,
    recipe: Recipe,
    *,
    first: int,
    stop: int,
) -> np.ndarray:
    """Return predictions of what served, or of the newest refits, (S, T) over steps of the range; NaN where none.

    Args:
        replay: has the files.
        following: the bars.
        nights: all, oldest first.
        what: `serving` or `newest`.
        recipe: of the replay.
        first, stop: steps of the range.
    """
    panel = following.data.panel
    dense = np.full((panel.n_instruments, stop - first), np.nan)
    for number, night in enumerate(nights):
        if not (night.serving if what == "serving" else night.newest_night):
            continue
        is_own = what == "newest" or night.serving_night == night.newest_night
        found = read_predictions(
            replay.night_file(number, "newest" if is_own else "serving"),
            instruments=panel.instruments,
            since_ns=int(panel.ts_open_ns[0]),
            step_ns=panel.width_ns,
        )
        dense[found.instrument, found.step - first] = traded_prediction(found, recipe)
    return dense


def _ledger_figures(ledger: PositionLedger) -> dict[str, Any]:
    costs = {
        name: float(getattr(ledger, name).sum()) for name in ("gross", "fee", "spread", "impact", "funding")
    }
    return costs | {"net": float(ledger.net.sum()), "fills": len(ledger.fills)}


def _net_figures(net: np.ndarray, curve: np.ndarray, period_ns: int) -> dict[str, Any]:
    per_year = math.sqrt(_YEAR_NS / period_ns)
    return {
        "sharpe": sharpe(net) * per_year if len(net) > 1 else None,
        "drawdown": largest_fall(curve),
        "periods": len(net),
    }


def _who_served(nights: Sequence[ReplayedNight], schedule: Schedule) -> list[dict[str, Any]]:
    """Return the stretches of time in which versions of one promotion served; a refit that renews joins them."""
    found: list[dict[str, Any]] = []
    runs = groupby(nights, key=lambda night: (bool(night.serving), night.on_paper))
    for (is_served, on_paper), run in runs:
        members = list(run)
        if is_served:
            found.append(
                {
                    "start_ns": members[0].at_ns,
                    "stop_ns": schedule.until(members[-1].at_ns),
                    "first": members[0].serving,
                    "last": members[-1].serving,
                    "refits": len({member.serving for member in members}),
                    "on_paper": on_paper,
                }
            )
    return found


def _changes(nights: Sequence[ReplayedNight]) -> list[dict[str, Any]]:
    found = []
    for night in nights:
        if night.is_demoted:
            found.append({"at_ns": night.at_ns, "kind": "demoted", "night": night.night})
        if night.outcome == "promoted":
            found.append({"at_ns": night.at_ns, "kind": "promoted", "night": night.night})
    return found


def _counts(nights: Sequence[ReplayedNight]) -> dict[str, int]:
    outcomes = [night.outcome for night in nights]
    counts = {name: outcomes.count(name) for name in ("promoted", "renewed", "refused", "failed")}
    return {"nights": len(nights), **counts, "demoted": sum(night.is_demoted for night in nights)}
