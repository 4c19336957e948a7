"""Report head: the promotion decision, its rules and key figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from serving import formatting
from serving.report.night_data import NightReport

# Required relation of a rule's value to its limit.
_SIGNS: Final = {
    "leaks": "=",
    "feature proof": "=",
    "ic": ">",
    "fills": "\N{GREATER-THAN OR EQUAL TO}",
    "deflated sharpe": "\N{GREATER-THAN OR EQUAL TO}",
    "seed spread": "\N{LESS-THAN OR EQUAL TO}",
    "steps": "\N{GREATER-THAN OR EQUAL TO}",
}


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
class PromotionSection:
    """Values of the head's template."""

    is_promoted: bool
    challenger: str
    version: str
    sentence: str
    rules: tuple[RuleRow, ...]
    tiles: tuple[FigureTile, ...]


def make_promotion(facts: NightReport) -> PromotionSection:
    """Return the head of the page."""
    verdict = facts.verdict
    rules = tuple(_rule(rule) for rule in verdict["rules"])
    failed = [rule.name for rule in rules if not rule.passed]
    serving = verdict["champion"]
    if verdict["promoted"]:
        sentence = f"All {len(rules)} rules pass. It serves from now on"
        sentence += f", replacing {serving}." if serving else "; no model was serving before."
    else:
        sentence = f"{len(failed)} of {len(rules)} rules fail: {', '.join(failed)}. "
        sentence += f"{serving} keeps serving." if serving else "No model is serving for this recipe."
    if obstacle := verdict.get("champion_obstacle"):
        sentence += f" {serving} counts as no champion, since it cannot be evaluated: {obstacle}."
    return PromotionSection(
        is_promoted=bool(verdict["promoted"]),
        challenger=facts.challenger,
        version=str(verdict["version"]),
        sentence=sentence,
        rules=rules,
        tiles=_tiles(facts),
    )


def _rule(rule: dict[str, object]) -> RuleRow:
    name = str(rule["name"])
    value, limit = _float(rule["value"]), _float(rule["limit"])
    # If too few steps are new to the champion, the rule counts steps; otherwise it compares returns.
    kind = "steps" if name == "beats champion" and limit >= 1 and limit == int(limit) else name
    sign = _SIGNS.get(kind, ">" if name.startswith("beats") else "")
    limit_text = _write(kind, limit)
    return RuleRow(
        name=name,
        passed=bool(rule["passed"]),
        value=_write(kind, value),
        limit=f"{sign} {limit_text}".strip() if limit_text != formatting.NOTHING else limit_text,
        reason=str(rule["reason"]),
    )


def _write(kind: str, value: float) -> str:
    if not math.isfinite(value):
        return formatting.NOTHING
    if kind == "steps":
        return f"{formatting.count(int(value))} steps"
    if kind in ("leaks", "fills"):
        return formatting.count(int(value))
    if kind == "feature proof":
        return "passed" if value else "failed"
    if kind.startswith("beats"):
        return formatting.signed_percent(value)
    return formatting.signed(value) if kind == "ic" else formatting.decimal(value, 3)


def _tiles(facts: NightReport) -> tuple[FigureTile, ...]:
    model = facts.summary["models"][facts.challenger]
    ic, traded, recipe = model["test"]["ic"], model["traded"], facts.recipe
    best = max(recipe.controls, key=lambda name: facts.summary["models"][name]["traded"]["net"])
    best_net = facts.summary["models"][best]["traded"]["net"]
    status = facts.panel["status"]
    total = sum(status.values())
    start_ns, stop_ns = facts.folds[0]["test"][0], facts.folds[-1]["test"][1]
    interval = (
        f"95% interval {formatting.signed(ic['low'])} to {formatting.signed(ic['high'])}"
        if ic["low"] is not None
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
