"""May the challenger serve? A fixed rule over a night's evidence, each part with its value, limit and reason.

The challenger is chosen by validation alone: the model whose information coefficient, averaged over the folds'
valid rows, is highest. Everything else here reads test rows, which chose nothing. All rules must hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.metrics import Estimate


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Where the rules draw their lines.

    Args:
        min_deflated_sharpe: probability that the Sharpe ratio after costs is not the luck of many trials.
        min_fills: fewer fills than this are no evidence, however well they went.
        max_seed_spread: largest minus smallest IC among seeds, as a share of the mean's size.
        min_unseen_steps: steps after the champion's cut-off that a comparison with it needs.
    """

    min_deflated_sharpe: float = 0.95
    min_fills: int = 30
    max_seed_spread: float = 1.0
    min_unseen_steps: int = 60


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """What the position rule earned with one model over all test windows, in shares of the capital."""

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
    """Challenger against champion on the test rows that neither has learnt from.

    Args:
        version: the champion.
        unseen_steps: test steps decided after the champion's cut-off.
        challenger_net, champion_net: what each earned on them, NaN where not compared.
        obstacle: why the champion cannot be asked; empty where it can.
    """

    version: str
    unseen_steps: int
    challenger_net: float
    champion_net: float
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the gate reads.

    Args:
        challenger: its name.
        controls: names of the controls.
        leaks: rows that break a law of the folds.
        features_proven: the feature proof found nothing that looks ahead.
        ic: the challenger's information coefficient over all test rows.
        seed_ics: the same for each of its seeds.
        traded: by model.
        versus: `None` where nothing serves yet.
    """

    challenger: str
    controls: tuple[str, ...]
    leaks: int
    features_proven: bool
    ic: Estimate
    seed_ics: tuple[float, ...]
    traded: Mapping[str, BacktestResult]
    versus: ChampionComparison | None


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
    """The gate's word, and every rule behind it."""

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
    """Return the verdict: promoted only where every rule holds."""
    own = evidence.traded[evidence.challenger]
    rules = (
        _rule("leaks", evidence.leaks == 0, evidence.leaks, 0, "rows that break a law of the folds"),
        _rule(
            "feature proof",
            evidence.features_proven,
            float(evidence.features_proven),
            1,
            "perturbing the future must move no feature",
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
        *(_beats(control, own, evidence.traded[control]) for control in evidence.controls),
        _rule(
            "deflated sharpe",
            own.deflated_sharpe >= limits.min_deflated_sharpe,
            own.deflated_sharpe,
            limits.min_deflated_sharpe,
            f"probability that a Sharpe ratio of {own.sharpe:+.3f} a period is no luck of many trials",
        ),
        _seed_spread(evidence.seed_ics, limits.max_seed_spread),
        _beats_champion(evidence.versus, limits.min_unseen_steps),
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


def _beats_champion(versus: ChampionComparison | None, least: int) -> GateRule:
    name = "beats champion"
    if versus is None:
        return GateRule(name, True, math.nan, math.nan, "nothing serves yet")
    if versus.obstacle:
        reason = f"{versus.version} cannot be asked: {versus.obstacle}; retire it to promote without it"
        return GateRule(name, False, math.nan, math.nan, reason)
    if versus.unseen_steps < least:
        reason = f"{versus.unseen_steps} test steps are new to {versus.version}, {least} are needed"
        return GateRule(name, False, versus.unseen_steps, least, reason)
    reason = f"return after costs on {versus.unseen_steps} steps that {versus.version} has not seen"
    passed = versus.challenger_net > versus.champion_net
    return _rule(name, passed, versus.challenger_net, versus.champion_net, reason)
