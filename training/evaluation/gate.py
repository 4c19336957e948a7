"""The promotion gate: one decision from the evidence that a lineage earns money, and that it earns more than another.

A *lineage* is what stays the same from night to night: universe, bar width, feature set, label, position rule and
costs. Its path is the net return by day of the models that were chosen before each test. Evidence belongs to the
lineage and is collected over nights (docs/gate.md):

- *History*, once: the p-value of the path among those of all models (training/evaluation/multiple_testing.py).
- *Later days*, one by one: an e-process that starts at the value of the history (training/evaluation/e_process.py).

A lineage is promoted when its evidence is at least 1/alpha for every null hypothesis: that it earns nothing, and, where
another lineage serves, that it earns no more than that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from training.evaluation.e_process import alpha_of, evidence_path, start_value

NULL_ZERO: Final = "zero"
"""Null hypothesis: the mean net return is at most 0. Others are named after the lineage that must be beaten."""
OTHER_LIMITS: Final = (0.01, 0.05, 0.1, 0.2)
"""Limits on false promotions that a report compares."""

_SUITE_PASSED: Final = (
    "no skill from shuffled labels, none beyond price history on labels to come; the planted leak was found"
)

State = Literal["champion", "paper", "rejected"]


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """Earnings of one model under the position rule over all test windows, in shares of the capital."""

    gross: float
    fee: float
    spread: float
    impact: float
    funding: float
    net: float
    fills: int
    sharpe: float
    deflated_sharpe: float


@dataclass(frozen=True, slots=True)
class ChampionComparison:
    """Challenger against champion on the test rows that neither was trained on.

    Args:
        version: the champion.
        unseen_steps: test steps decided after the champion's cut-off.
        challenger_net, champion_net: earnings on those steps, NaN where not compared.
        obstacle: why the champion cannot be evaluated; empty where it can.
        is_damaged: its files are missing or damaged. Nothing is promoted past such a champion; one that this code or
            recipe can no longer evaluate counts as none.
    """

    version: str
    unseen_steps: int
    challenger_net: float
    champion_net: float
    obstacle: str = ""
    is_damaged: bool = False

    @property
    def obstacle_note(self) -> str:
        """What the obstacle means for the gate, as a sentence without its full stop."""
        if self.is_damaged:
            return f"{self.version} cannot be evaluated: {self.obstacle}; restore its files, or retire it"
        return f"{self.version} counts as no champion, since it cannot be evaluated: {self.obstacle}"


@dataclass(frozen=True, slots=True)
class EvidenceDays:
    """Days that entered the evidence of a lineage after its history, in order.

    Args:
        net: (N,) float64, of the lineage, or less that of the champion's lineage.
        risk: (N,) float64, known before the day; infinite where nothing was bet.
        worst_loss: (N,) float64, of the day's positions on earlier prices.
        is_quoted: (N,) bool.
    """

    net: np.ndarray
    risk: np.ndarray
    worst_loss: np.ndarray
    is_quoted: np.ndarray


@dataclass(frozen=True, slots=True)
class NullEvidence:
    """Evidence of a lineage against one null hypothesis.

    Args:
        null: the hypothesis.
        k: number of the lineage in this home.
        alpha: its share of the false promotions.
        p_value: of the history; `None` where there was no test.
        start: evidence of the history.
        value: evidence after all days.
        quoted_value: evidence of the days with quotes alone.
        days, quoted_days: days after the history, and those with quotes.
    """

    null: str
    k: int
    alpha: float
    p_value: float | None
    start: float
    value: float
    quoted_value: float
    days: int
    quoted_days: int

    @property
    def needed(self) -> float:
        """The evidence that a promotion needs."""
        return 1 / self.alpha


@dataclass(frozen=True, slots=True)
class GateRule:
    """One condition and its outcome; value and limit are NaN where the condition has none."""

    name: str
    passed: bool
    value: float
    limit: float
    reason: str


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The decision, with the outcome of every condition.

    Args:
        challenger: the model that would serve.
        state: `champion` (it serves), `paper` (sound on prices without quotes, never serves) or `rejected`.
        rules: the conditions.
        reason: in one sentence.
    """

    challenger: str
    state: State
    rules: tuple[GateRule, ...]
    reason: str

    @property
    def promoted(self) -> bool:
        """Whether it serves."""
        return self.state == "champion"


def weigh(
    days: EvidenceDays,
    *,
    null: str,
    k: int,
    p_value: float | None,
    is_quoted_start: bool,
    false_promotions: float,
) -> NullEvidence:
    """Return the evidence of a lineage against one null hypothesis.

    Args:
        days: after the history.
        null: the hypothesis.
        k: number of the lineage in its home.
        p_value: of the history; `None`: no test.
        is_quoted_start: whether all days of the history had quotes.
        false_promotions: probability of a false promotion that the home accepts, over all lineages ever.
    """
    alpha = alpha_of(k, false_promotions=false_promotions)
    start, quoted = start_value(p_value, alpha), days.is_quoted

    def last(start: float, used: np.ndarray) -> float:
        path = evidence_path(start, days.net[used], days.risk[used], days.worst_loss[used])
        return float(path[-1]) if len(path) else start

    return NullEvidence(
        null=null,
        k=k,
        alpha=alpha,
        p_value=p_value,
        start=start,
        value=last(start, np.ones(len(quoted), dtype=bool)),
        quoted_value=last(start if is_quoted_start else 1.0, quoted),
        days=len(days.net),
        quoted_days=int(quoted.sum()),
    )


def preconditions(
    *, leaks: int, features_proven: bool, leak_suite: str, champion: ChampionComparison | None
) -> tuple[GateRule, ...]:
    """Return the conditions without which nothing is promoted, whatever the evidence.

    Args:
        leaks: leaked rows of all folds.
        features_proven: the proof of the night's features passed.
        leak_suite: what the leak suite found, or why it could not check; empty where it passed.
        champion: the comparison with the version that serves, or `None`.
    """
    checks = [
        GateRule("leaks", leaks == 0, float(leaks), 0.0, "leaked rows"),
        GateRule(
            "feature proof",
            features_proven,
            float(features_proven),
            1.0,
            "perturbing the future must change no feature",
        ),
        GateRule("leak suite", not leak_suite, math.nan, math.nan, leak_suite or _SUITE_PASSED),
    ]
    if champion is not None and champion.obstacle:
        checks.append(
            GateRule("champion's files", not champion.is_damaged, math.nan, math.nan, champion.obstacle_note)
        )
    return tuple(checks)


def decide(
    challenger: str,
    checks: Sequence[GateRule],
    evidence: Sequence[NullEvidence],
    *,
    is_renewal: bool = False,
) -> GateDecision:
    """Decide on a night's challenger.

    Args:
        challenger: the model that would serve.
        checks: conditions without which nothing is promoted, whatever the evidence.
        evidence: against each null hypothesis.
        is_renewal: its lineage serves already, so that it needs no further evidence.
    """
    failed = [rule.name for rule in checks if not rule.passed]
    if failed:
        return GateDecision(challenger, "rejected", tuple(checks), f"failed: {', '.join(failed)}")
    if is_renewal:
        return GateDecision(challenger, "champion", tuple(checks), "renews the champion of its lineage")
    rules = (*checks, *(_evidence_rule(item) for item in evidence))
    state: State = "rejected"
    if evidence and all(item.quoted_value >= item.needed for item in evidence):
        state = "champion"
    elif evidence and all(item.value >= item.needed for item in evidence):
        state = "paper"
    return GateDecision(challenger, state, rules, _reason(state, evidence))


def _evidence_rule(item: NullEvidence) -> GateRule:
    history = (
        "no test of the history" if item.p_value is None else f"p-value of the history {item.p_value:.4f}"
    )
    return GateRule(
        f"earns more than {item.null}",
        item.quoted_value >= item.needed,
        item.quoted_value,
        item.needed,
        f"{history}; of {item.days} later days {item.quoted_days} had quotes; "
        f"with the others the evidence is {item.value:.3g}",
    )


def _reason(state: State, evidence: Sequence[NullEvidence]) -> str:
    if state == "champion":
        return "evidence suffices: " + ", ".join(f"{e.quoted_value:.3g} of {e.needed:.3g}" for e in evidence)
    if state == "paper":
        return "evidence suffices only with days without quotes, so it stays on paper"
    return "too little evidence: " + ", ".join(
        f"{e.value:.3g} of {e.needed:.3g} that it earns more than {e.null}"
        for e in evidence
        if e.value < e.needed
    )


def compare_limits(weighed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what other limits on false promotions would have decided.

    Args:
        weighed: arguments of `weigh` for each null hypothesis, without the limit.

    Returns:
        By limit: the limit, alpha, the evidence needed, the weakest evidence and whether it would serve.
    """
    found = []
    for limit in OTHER_LIMITS:
        items = [weigh(**arguments, false_promotions=limit) for arguments in weighed]
        if items:
            weakest = min(items, key=lambda item: item.quoted_value / item.needed)
            found.append(
                {
                    "false_promotions": limit,
                    "alpha": weakest.alpha,
                    "needed": weakest.needed,
                    "evidence": weakest.quoted_value,
                    "serves": weakest.quoted_value >= weakest.needed,
                }
            )
    return found
