"""Decision of a night: evidence of its lineage, demotion of the champion, and what the registry keeps of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.evaluation.demotion import EdgeMonitor
from training.evaluation.gate import (
    NULL_ZERO,
    GateDecision,
    GateRule,
    compare_limits,
    decide,
)
from training.evaluation.period_net import PeriodNet
from training.night.lineage_evidence import (
    CollectedEvidence,
    GateDay,
    GateRecord,
    Lineage,
    collect,
    restart,
    subtract,
)
from training.night.registry import VersionEvent


@dataclass(frozen=True, slots=True)
class Demotion:
    """The monitor of a champion after a night.

    Args:
        version: the champion.
        statistic, threshold: of the CUSUM; above the threshold it is demoted.
        days: complete days since promotion.
        daily_sharpe: mean over deviation of its daily net at promotion.
    """

    version: str
    statistic: float
    threshold: float
    days: int
    daily_sharpe: float

    @property
    def is_demoted(self) -> bool:
        """Whether it stops serving."""
        return self.statistic > self.threshold


@dataclass(frozen=True, slots=True)
class NightDecision:
    """The decision of a night, and the rows that it adds.

    Args:
        gate: the decision on the challenger.
        lineage: of the night.
        collected: the evidence; empty where a precondition failed, so that the path proves nothing.
        demotion: of the version that served before; `None` where none did, or it has no measured edge.
        kept: what the registry keeps with the version.
    """

    gate: GateDecision
    lineage: Lineage
    collected: tuple[CollectedEvidence, ...]
    demotion: Demotion | None
    kept: Mapping[str, Any]

    def to_plain(self, *, false_promotions: float) -> dict[str, Any]:
        """Return the part of `verdict.json` about evidence."""
        return {
            "state": self.gate.state,
            "promoted": self.gate.promoted,
            "challenger": self.gate.challenger,
            "rules": [asdict(rule) for rule in self.gate.rules],
            "reason": self.gate.reason,
            "lineage": {"name": self.lineage.name, "definition": dict(self.lineage.definition)},
            "false_promotions": false_promotions,
            "evidence": [
                asdict(item.weighed) | {"needed": item.weighed.needed, "history": asdict(item.test)}
                for item in self.collected
            ],
            "other_limits": compare_limits([item.arguments for item in self.collected]),
            "demotion": None
            if self.demotion is None
            else asdict(self.demotion) | {"is_demoted": self.demotion.is_demoted},
        }


def decide_night(
    challenger: str,
    lineage: Lineage,
    path: PeriodNet,
    members: np.ndarray,
    *,
    checks: Sequence[GateRule],
    record: GateRecord,
    serving: VersionEvent | None,
    serving_net: Mapping[int, float],
    must_beat: bool,
    least_block: int,
    false_promotions: float,
    seed: int,
) -> NightDecision:
    """Weigh the evidence, check the champion, and decide.

    Args:
        challenger: the model that would serve.
        lineage: of the night.
        path, members: net of the lineage's path and of every model by period.
        checks: preconditions; if one fails, the night adds no evidence.
        record: evidence of earlier nights.
        serving: the promotion of the version that serves, or `None`.
        serving_net: net of that version's weights by start of the period, where this night could evaluate them.
        must_beat: whether another lineage that serves can be compared with.
        least_block: periods that horizon and holding cover together.
        false_promotions: limit of the home.
        seed: of the bootstrap.
    """
    theirs = lineage_name(serving)
    if not all(rule.passed for rule in checks):
        net = dict(serving_net) | record.net(theirs)
        demotion = _check_champion(serving, net)
        return NightDecision(decide(challenger, checks, ()), lineage, (), demotion, {"lineage": lineage.name})

    def against(null: str, its_path: PeriodNet, its_members: np.ndarray) -> CollectedEvidence:
        return collect(
            record,
            lineage.name,
            its_path,
            its_members,
            null=null,
            least_block=least_block,
            false_promotions=false_promotions,
            seed=seed,
        )

    zero = against(NULL_ZERO, path, members)
    is_own = theirs == lineage.name
    # The first known net of a day counts: of the lineage's own record, and only then of the weights tonight.
    net = dict(serving_net) | record.net(theirs) | (_net_of(zero.days) if is_own else {})
    demotion = _check_champion(serving, net)
    is_demoted = demotion is not None and demotion.is_demoted
    collected = [zero]
    if is_own and is_demoted:
        collected = [restart(record, lineage.name, zero, false_promotions=false_promotions)]
    elif serving is not None and not is_own and not is_demoted and must_beat:
        collected.append(against(theirs, *subtract(path, members, net)))
    gate = decide(
        challenger,
        checks,
        [item.weighed for item in collected],
        is_renewal=is_own and not is_demoted,
    )
    kept = _kept(lineage, collected[0], gate, serving if is_own and not is_demoted else None)
    return NightDecision(gate, lineage, tuple(collected), demotion, kept)


def lineage_name(serving: VersionEvent | None) -> str:
    """Return the lineage of the version that serves; one of an older release is a lineage of its own."""
    if serving is None:
        return ""
    return str(_gate_of(serving).get("lineage") or serving.version)


def _gate_of(event: VersionEvent) -> Mapping[str, Any]:
    gate: Mapping[str, Any] = event.metrics.get("gate") or {}
    return gate


def _net_of(days: Sequence[GateDay]) -> dict[int, float]:
    return {day.day_ns: day.net for day in days}


def _check_champion(serving: VersionEvent | None, net: Mapping[int, float]) -> Demotion | None:
    """Return the CUSUM of the champion's net since its promotion."""
    if serving is None or (monitor := _monitor_of(serving)) is None:
        return None
    later = np.array([net[day] for day in sorted(net) if day >= int(_gate_of(serving)["since_ns"])])
    statistic = float(monitor.statistic(later)[-1]) if len(later) else 0.0
    return Demotion(serving.version, statistic, monitor.threshold, len(later), monitor.mu / monitor.sigma)


def _monitor_of(event: VersionEvent) -> EdgeMonitor | None:
    """Return the monitor of a promotion; `None` if no edge was measured that it could lose.

    That is so where a version was promoted by hand against the evidence, or by an older release.
    """
    gate = _gate_of(event)
    try:
        return EdgeMonitor(float(gate["mu"]), float(gate["sigma"]), int(gate["days"]))
    except (KeyError, ValueError):
        return None


def _kept(
    lineage: Lineage, zero: CollectedEvidence, gate: GateDecision, renewed: VersionEvent | None
) -> dict[str, Any]:
    """Return what the registry keeps: the edge at promotion, by which a champion is monitored, and the evidence."""
    # Without a tested history, only the days that made the evidence count: a lineage that starts again after a
    # demotion must not be measured on the days before.
    has_history = zero.weighed.p_value is not None
    net = np.array([day.net for day in zero.days]) if has_history else zero.arguments["days"].net
    edge: dict[str, Any] = {
        "mu": float(net.mean()) if len(net) else 0.0,
        "sigma": float(net.std(ddof=1)) if len(net) > 1 else 0.0,
        "days": len(net),
        "since_ns": zero.days[-1].day_ns + 1 if zero.days else 0,
    }
    if renewed is not None and _monitor_of(renewed) is not None:
        # A renewal has the edge of the first promotion, so that a slow decline is not forgotten each night.
        edge |= {name: _gate_of(renewed)[name] for name in edge}
    weighed = zero.weighed
    return {
        "lineage": lineage.name,
        "state": gate.state,
        "k": weighed.k,
        "alpha": weighed.alpha,
        "evidence": weighed.value,
        "quoted_evidence": weighed.quoted_value,
        **edge,
    }
