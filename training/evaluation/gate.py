"""The promotion gate: fixed rules over a night's evidence, each with its value, limit and reason.

Validation alone chooses the challenger: the model with the highest information coefficient (IC), averaged over the
folds' valid rows. All other rules read test rows, which take no part in any choice. Every rule must hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.metrics import Estimate


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Limits of the rules.

    Args:
        min_deflated_sharpe: probability that the Sharpe ratio after costs survives correction for multiple testing.
        min_fills: with fewer fills, a good result is no evidence.
        max_seed_spread: largest minus smallest IC among seeds, as a share of the mean's size.
        min_unseen_steps: steps after the champion's cut-off that a comparison with it needs.
    """

    min_deflated_sharpe: float = 0.95
    min_fills: int = 30
    max_seed_spread: float = 1.0
    min_unseen_steps: int = 60


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
class Evidence:
    """Everything that the gate reads.

    Args:
        challenger: its name.
        controls: names of the controls.
        leaks: leaked rows over all folds.
        features_proven: the feature proof found no feature that looks ahead.
        ic: the challenger's information coefficient over all test rows.
        seed_ics: the same for each of its seeds.
        backtests: by model.
        champion: the comparison with the champion; `None` where no version serves yet.
    """

    challenger: str
    controls: tuple[str, ...]
    leaks: int
    features_proven: bool
    ic: Estimate
    seed_ics: tuple[float, ...]
    backtests: Mapping[str, BacktestResult]
    champion: ChampionComparison | None


@dataclass(frozen=True, slots=True)
class GateRule:
    """One rule's outcome; value and limit are NaN where the rule has none."""

    name: str
    passed: bool
    value: float
    limit: float
    reason: str


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The decision, with the outcome of every rule."""

    challenger: str
    promoted: bool
    rules: tuple[GateRule, ...]


def choose_challenger(valid_ics: Mapping[str, Sequence[float]]) -> str:
    """Return the model with the highest mean validation IC; a fold where it is undefined counts as 0.

    >>> choose_challenger({"mlp": [0.02, 0.04], "lstm": [0.05, 0.00]})
    'mlp'
    """
    means = {
        name: math.fsum(0.0 if math.isnan(ic) else ic for ic in ics) / max(len(ics), 1)
        for name, ics in valid_ics.items()
    }
    return max(means, key=lambda name: means[name])


def decide(evidence: Evidence, limits: GateLimits) -> GateDecision:
    """Apply every rule; the challenger is promoted only if all hold."""
    own = evidence.backtests[evidence.challenger]
    rules = (
        _rule("leaks", evidence.leaks == 0, evidence.leaks, 0, "leaked rows"),
        _rule(
            "feature proof",
            evidence.features_proven,
            float(evidence.features_proven),
            1,
            "perturbing the future must change no feature",
        ),
        _rule(
            "ic",
            evidence.ic.low > 0,
            evidence.ic.low,
            0,
            f"lower end of the 95% interval; the IC is {evidence.ic.value:+.4f}",
        ),
        _rule(
            "fills", own.fills >= limits.min_fills, own.fills, limits.min_fills, "fills over all test windows"
        ),
        *(_beats(control, own, evidence.backtests[control]) for control in evidence.controls),
        _rule(
            "deflated sharpe",
            own.deflated_sharpe >= limits.min_deflated_sharpe,
            own.deflated_sharpe,
            limits.min_deflated_sharpe,
            f"probability that a Sharpe ratio of {own.sharpe:+.3f} a period survives correction for multiple testing",
        ),
        _seed_spread(evidence.seed_ics, limits.max_seed_spread),
        _beats_champion(evidence.champion, limits.min_unseen_steps),
    )
    return GateDecision(evidence.challenger, all(rule.passed for rule in rules), rules)


def _rule(name: str, passed: bool, value: float, limit: float, reason: str) -> GateRule:
    return GateRule(name, bool(passed), float(value), float(limit), reason)


def _beats(control: str, own: BacktestResult, other: BacktestResult) -> GateRule:
    return _rule(
        f"beats {control}", own.net > other.net, own.net, other.net, "return after costs, same folds"
    )


def _seed_spread(ics: Sequence[float], limit: float) -> GateRule:
    if len(ics) < 2:
        return GateRule("seed spread", True, math.nan, limit, "not measured: the recipe trains one seed")
    mean = math.fsum(ics) / len(ics)
    spread = (max(ics) - min(ics)) / abs(mean) if mean else math.inf
    reason = f"IC by seed: {', '.join(f'{ic:+.4f}' for ic in ics)}"
    return _rule("seed spread", spread <= limit, spread, limit, reason)


def _beats_champion(comparison: ChampionComparison | None, min_steps: int) -> GateRule:
    name = "beats champion"
    if comparison is None:
        return GateRule(name, True, math.nan, math.nan, "no version serves yet")
    version, steps = comparison.version, comparison.unseen_steps
    if comparison.obstacle:
        return GateRule(name, not comparison.is_damaged, math.nan, math.nan, comparison.obstacle_note)
    if steps < min_steps:
        reason = f"{steps} test steps are new to {version}, {min_steps} are needed"
        return GateRule(name, False, steps, min_steps, reason)
    reason = f"return after costs on {steps} steps that {version} has not seen"
    passed = comparison.challenger_net > comparison.champion_net
    return _rule(name, passed, comparison.challenger_net, comparison.champion_net, reason)
