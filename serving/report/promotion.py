"""What was decided, by which rules, and on what figures?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from serving import formatting
from serving.report.night_data import NightReport

# How a rule's value must stand to its limit; rules that compare two figures have both as value and limit.
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
    """One rule of the gate, as written."""

    name: str
    passed: bool
    value: str
    limit: str
    reason: str


@dataclass(frozen=True, slots=True)
class FigureTile:
    """One figure to see first."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class PromotionSection:
    """The page's head."""

    is_promoted: bool
    challenger: str
    version: str
    sentence: str
    rules: tuple[RuleRow, ...]
    tiles: tuple[FigureTile, ...]


def make_verdict(facts: NightReport) -> PromotionSection:
    """Return the head of the page."""
    told = facts.verdict
    rules = tuple(_rule(rule) for rule in told["rules"])
    failed = [rule.name for rule in rules if not rule.passed]
    serving = told["champion"]
    if told["promoted"]:
        sentence = f"All {len(rules)} rules hold. It serves from now on"
        sentence += f", in place of {serving}." if serving else ": nothing served before."
    else:
        sentence = f"{len(failed)} of {len(rules)} rules do not hold: {', '.join(failed)}. "
        sentence += f"{serving} goes on serving." if serving else "Nothing serves under this recipe."
    return PromotionSection(
        is_promoted=bool(told["promoted"]),
        challenger=facts.challenger,
        version=str(told["version"]),
        sentence=sentence,
        rules=rules,
        tiles=_tiles(facts),
    )


def _rule(rule: dict[str, object]) -> RuleRow:
    name = str(rule["name"])
    value, limit = _float(rule["value"]), _float(rule["limit"])
    # Where too few steps are new to the champion, the rule counts steps; else it compares returns.
    kind = "steps" if name == "beats champion" and limit >= 1 and limit == int(limit) else name
    sign = _SIGNS.get(kind, ">" if name.startswith("beats") else "")
    said = _write(kind, limit)
    return RuleRow(
        name=name,
        passed=bool(rule["passed"]),
        value=_write(kind, value),
        limit=f"{sign} {said}".strip() if said != formatting.NOTHING else said,
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
        return "proven" if value else "not proven"
    if kind.startswith("beats"):
        return formatting.earned(value)
    return formatting.signed(value) if kind == "ic" else formatting.plain(value, 3)


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
        else "too few blocks of time for an interval"
    )
    return (
        FigureTile("Information coefficient on test rows", formatting.signed(ic["value"]), interval),
        FigureTile(
            "Return after costs, share of capital",
            formatting.earned(traded["net"]),
            f"best control: {best}, {formatting.earned(best_net)}",
        ),
        FigureTile("Rows that break a law of the folds", formatting.count(facts.leaks), _proof(facts)),
        FigureTile(
            "Bars that somebody vouches for",
            formatting.percent((status["printed"] + status["quiet"]) / total if total else None),
            f"printed or proven quiet, of {formatting.count(total)}",
        ),
        FigureTile(
            "Time under test",
            formatting.length(stop_ns - start_ns),
            f"{formatting.count(model['test']['rows'])} rows in {len(facts.folds)} folds",
        ),
    )


def _proof(facts: NightReport) -> str:
    if not facts.proof["passed"]:
        return f"feature proof failed: {facts.proof['reason']}"
    caught = facts.proof["canaries_caught"] + facts.proof["hindsight"]["canaries_caught"]
    return f"features proven to look back only; {formatting.count(caught)} planted leaks were all caught"


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
