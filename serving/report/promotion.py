"""Report head and gate: the promotion decision, its evidence and key figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from serving import formatting
from serving.report.night_data import NightReport
from storage.clock import DAY_NS
from training.evaluation.multiple_testing import LEAST_TEST_BLOCKS
from training.night.holdout_list import describe_holdouts
from training.night.night_list import verdict_state
from training.night.trial_ledger import describe_counts

_AT_LEAST: Final = "\N{GREATER-THAN OR EQUAL TO}"
# Relation of a value to its limit. Nights of the first release have rules of their own, whose pages stay readable.
_SIGNS: Final = {
    "leaks": "=",
    "leak: unknown bars": "=",
    "feature proof": "=",
    "ic": ">",
    "fills": _AT_LEAST,
    "deflated sharpe": _AT_LEAST,
    "seed spread": "\N{LESS-THAN OR EQUAL TO}",
}
_OLDER: Final = "An older release judged this night, by rules on its own tests alone."
_OUTCOMES: Final = {"champion": "Promoted", "paper": "Paper only", "rejected": "Refused"}


@dataclass(frozen=True, slots=True)
class RuleRow:
    """Rule of the gate, formatted."""

    name: str
    passed: bool
    value: str
    limit: str
    reason: str


@dataclass(frozen=True, slots=True)
class FigureTile:
    """Key figure at the top of the page."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class LimitRow:
    """What another limit on false promotions would have decided, formatted."""

    limit: str
    alpha: str
    evidence: str
    outcome: str


@dataclass(frozen=True, slots=True)
class PromotionSection:
    """Values of the templates of the head and the gate.

    Args:
        outcome: in a word.
        challenger, version: what was judged.
        sentence: the outcome in a sentence or two.
        rules: conditions and evidence.
        tiles: key figures.
        path: sentences about the lineage's path and its choice of models.
        evidence: sentences about the evidence and what the data could have shown.
        trials: a sentence about what the home has evaluated on these tests; may be empty.
        holdouts: a sentence about each range that was ever sealed.
        limits: other limits on false promotions.
        limit: the limit of the home.
        demotion: a sentence about the champion's monitor; may be empty.
    """

    outcome: str
    challenger: str
    version: str
    sentence: str
    rules: tuple[RuleRow, ...]
    tiles: tuple[FigureTile, ...]
    path: tuple[str, ...]
    evidence: tuple[str, ...]
    trials: str
    holdouts: tuple[str, ...]
    limits: tuple[LimitRow, ...]
    limit: str
    demotion: str


def make_promotion(facts: NightReport) -> PromotionSection:
    """Return the values of the head of the page and of its section about the gate."""
    verdict, state = facts.verdict, verdict_state(facts.verdict)
    return PromotionSection(
        outcome="Passed" if facts.outside and state == "paper" else _OUTCOMES[state],
        challenger=facts.challenger,
        version=str(verdict["version"]),
        sentence=_sentence(verdict),
        rules=tuple(_rule(rule) for rule in verdict["rules"]),
        tiles=_tiles(facts),
        path=tuple(_path(facts)) if "path" in facts.summary else (),
        evidence=tuple(_evidence(facts)) if "evidence" in verdict else (_OLDER,),
        trials=describe_counts(facts.trials) if facts.trials else "",
        holdouts=tuple(describe_holdouts(facts.holdouts)),
        limits=tuple(_limit_row(row) for row in verdict.get("other_limits", ())),
        limit=formatting.percent(verdict.get("false_promotions")),
        demotion=_demotion(verdict),
    )


def _sentence(verdict: dict[str, Any]) -> str:
    serving, is_demoted = verdict["champion"], (verdict.get("demotion") or {}).get("is_demoted")
    reason = str(verdict["reason"])
    sentence = f"{reason[:1].upper()}{reason[1:]}. "
    if verdict["promoted"]:
        sentence += "It serves from now on"
        sentence += f", replacing {serving}." if serving else "; no model was serving before."
    elif serving and is_demoted:
        sentence += f"{serving} was demoted and stays on paper; no model is serving for this recipe."
    else:
        sentence += f"{serving} keeps serving." if serving else "No model is serving for this recipe."
    if obstacle := verdict.get("champion_obstacle"):
        sentence += f" {serving} counts as no champion, since it cannot be evaluated: {obstacle}."
    return sentence


def _rule(rule: dict[str, Any]) -> RuleRow:
    name, value, limit = str(rule["name"]), _float(rule["value"]), _float(rule["limit"])
    sign = _SIGNS.get(name) or _sign(name)
    limit_text = _write(name, limit)
    return RuleRow(
        name=name,
        passed=bool(rule["passed"]),
        value=_write(name, value),
        limit=f"{sign} {limit_text}" if limit_text != formatting.NOTHING else limit_text,
        reason=str(rule["reason"]),
    )


def _sign(name: str) -> str:
    if name.startswith("leak: "):  # of judged predictions
        return "<"
    return _AT_LEAST if name.startswith("earns") else ">"


def _write(name: str, value: float) -> str:
    if not math.isfinite(value):
        return formatting.NOTHING
    if name in ("leaks", "leak: unknown bars", "fills"):
        return formatting.count(int(value))
    if name.startswith("beats"):
        return formatting.signed_percent(value)
    if name == "feature proof":
        return "passed" if value else "failed"
    return formatting.decimal(value, 2 if name.startswith("earns") else 3)


def _path(facts: NightReport) -> list[str]:
    """Return how the models of the path were chosen, and what it earned."""
    path = facts.summary["path"]
    periods = f"{formatting.count(len(path['periods']['net']))} complete {_periods(facts)}"
    earned = formatting.signed_percent(path["traded"]["net"])
    said = _judged_path(facts, earned, periods) if facts.outside else _chosen_path(path, earned, periods)
    if compared := [item for item in path["last"]["comparisons"] if item["p_value"] < 1]:
        pairs = "; ".join(
            f"{item['model']} against {item['current']} p {formatting.decimal(item['p_value'], 3)}"
            for item in compared
        )
        said.append(f"A model replaces a simpler one at a p-value of at most 0.05: {pairs}.")
    if path["overfitting"] is not None:
        said.append(
            f"Probability of backtest overfitting: {formatting.percent(path['overfitting'])}; the deflated Sharpe "
            f"ratio of the path is {formatting.decimal(path['traded']['deflated_sharpe'], 3)}. Neither decides."
        )
    return said


def _chosen_path(path: dict[str, Any], earned: str, periods: str) -> list[str]:
    runs = [(model, len(list(group))) for model, group in groupby(path["by_fold"])]
    folds = ", then ".join(
        f"{model} for {number} {'test' if number == 1 else 'tests'}" for model, number in runs
    )
    return [
        f"Before each test a model is chosen by its net return in earlier tests, or first in validation: {folds}.",
        f"In turn they would have earned {earned} of the capital; {periods} count as evidence.",
        f"After all tests the choice is {path['last']['model']}, which was trained again on all rows.",
    ]


def _judged_path(facts: NightReport, earned: str, periods: str) -> list[str]:
    return [
        f"The path is that of the predictions {facts.challenger}, which are a lineage of their own.",
        f"Traded by the recipe's rule they would have earned {earned} of the capital; {periods} count as evidence.",
        "They have no weights, so that nothing can serve, whatever the evidence.",
    ]


def _evidence(facts: NightReport) -> list[str]:
    """Return what is known of each null hypothesis, and what these data could have shown."""
    said = []
    for item in facts.verdict["evidence"]:
        p_value, history = item["p_value"], item["history"]
        known = (
            f"its history was too short for a test (it needs {LEAST_TEST_BLOCKS} blocks of time)"
            if p_value is None
            else f"its history has a p-value of {formatting.decimal(p_value, 4)}"
        )
        start, value, quoted = (
            formatting.decimal(item[name], 2) for name in ("start", "value", "quoted_value")
        )
        later = f"{formatting.count(item['days'])} later {_periods(facts)}"
        said.append(
            f"Earns more than {item['null']}: {known}, which starts the evidence at {start}. After {later} it is "
            f"{value}, and {quoted} by those with quotes alone; a promotion needs "
            f"{formatting.decimal(item['needed'], 0)}, since this is lineage {item['k']} of this home."
        )
        detectable = history["detectable_sharpe"]
        said.append(
            "These data are too few to detect any Sharpe ratio."
            if detectable is None
            else f"The smallest annualised Sharpe ratio that a test of these {formatting.count(history['periods'])} "
            f"{_periods(facts)} finds with a probability of 80% is {formatting.decimal(detectable, 1)}; a smaller edge "
            "needs more time."
        )
    if not said:
        said.append("A precondition failed, so this night adds no evidence.")
    return said


def _periods(facts: NightReport) -> str:
    return "days" if facts.summary["path"]["period_ns"] >= DAY_NS else "hours"


def _limit_row(row: dict[str, Any]) -> LimitRow:
    return LimitRow(
        limit=formatting.percent(row["false_promotions"]),
        alpha=formatting.percent(row["alpha"], 3),
        evidence=f"{formatting.decimal(row['evidence'], 2)} of {formatting.decimal(row['needed'], 0)}",
        outcome="promoted" if row["serves"] else "not yet",
    )


def _demotion(verdict: dict[str, Any]) -> str:
    if (found := verdict.get("demotion")) is None:
        return ""
    state = "is demoted: it has lost its edge" if found["is_demoted"] else "keeps its edge"
    statistic, threshold, ratio = (
        formatting.decimal(found[name], 2) for name in ("statistic", "threshold", "daily_sharpe")
    )
    return (
        f"{found['version']} {state}. In {formatting.count(found['days'])} days since its promotion its CUSUM has "
        f"reached {statistic}, and above {threshold} it is demoted (measured at promotion: a daily Sharpe ratio of "
        f"{ratio})."
    )


def _tiles(facts: NightReport) -> tuple[FigureTile, ...]:
    model = facts.summary["models"][facts.challenger]
    ic, traded, recipe = model["test"]["ic"], model["traded"], facts.recipe
    controls = [name for name in recipe.controls if name != facts.challenger]
    best = max(controls or recipe.controls, key=lambda name: facts.summary["models"][name]["traded"]["net"])
    best_net = facts.summary["models"][best]["traded"]["net"]
    status = facts.panel["status"]
    total = sum(status.values())
    start_ns, stop_ns = facts.folds[0]["test"][0], facts.folds[-1]["test"][1]
    interval = (
        f"95% interval {formatting.signed(ic['low'])} to {formatting.signed(ic['high'])}"
        if ic["low"] is not None
        else "its predictions are constant"
        if ic["value"] is None
        else "too few blocks of time for a confidence interval"
    )
    return (
        FigureTile("Information coefficient on test rows", formatting.signed(ic["value"]), interval),
        FigureTile(
            "Return after costs, percent of capital",
            formatting.signed_percent(traded["net"]),
            f"best control: {best}, {formatting.signed_percent(best_net)}",
        ),
        FigureTile("Leaked rows", formatting.count(facts.leaks), _proof(facts)),
        FigureTile(
            "Verified bars",
            formatting.percent((status["printed"] + status["quiet"]) / total if total else None),
            f"printed or verified quiet, of {formatting.count(total)}",
        ),
        FigureTile(
            "Test period",
            formatting.length(stop_ns - start_ns),
            f"{formatting.count(model['test']['rows'])} rows in {len(facts.folds)} folds",
        ),
    )


def _proof(facts: NightReport) -> str:
    if not facts.proof["passed"]:
        return f"feature leakage test failed: {facts.proof['reason']}"
    caught = facts.proof["canaries_caught"] + facts.proof["hindsight"]["canaries_caught"]
    return f"no look-ahead in the features; all {formatting.count(caught)} planted leaks were caught"


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
