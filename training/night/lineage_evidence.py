"""Evidence of lineages in the lake: the tables `lineages` and `gate_days`, read, extended and weighed.

Rows are only ever added. A night reads the rows of earlier nights, so that it decides the same if it is judged again,
and its own rows are committed together with its events in the registry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from storage.contracts.lake_records import GATE_DAYS, LINEAGES
from storage.lake.lake import Lake
from training.data.labels import LabelRule
from training.evaluation.e_process import alpha_of, path_risks
from training.evaluation.gate import NULL_ZERO, EvidenceDays, NullEvidence, weigh
from training.evaluation.history import HistoryTest, judge_history
from training.evaluation.period_net import PeriodNet
from training.recipe import Recipe

_ALWAYS_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """What stays the same from night to night.

    Args:
        name: hash of the definition.
        definition: universe, width, feature set, label, position rule and costs; of judged predictions also the name.
    """

    name: str
    definition: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvidenceStart:
    """A row of `lineages`."""

    lineage: str
    null: str
    k: int
    p_value: float | None
    is_quoted: bool
    through_ns: int
    period_ns: int


@dataclass(frozen=True, slots=True)
class GateDay:
    """A row of `gate_days`; `risk` is infinite where nothing was bet."""

    day_ns: int
    net: float
    risk: float
    worst_loss: float
    is_quoted: bool
    source: str


@dataclass(frozen=True, slots=True)
class GateRecord:
    """The evidence of all lineages of a home, as earlier nights left it.

    Args:
        starts: oldest first.
        days: by lineage and null hypothesis, in order.
    """

    starts: tuple[EvidenceStart, ...]
    days: Mapping[tuple[str, str], tuple[GateDay, ...]]

    def start(self, lineage: str, null: str) -> EvidenceStart | None:
        """Return the newest start of a lineage against a null hypothesis."""
        found = [item for item in self.starts if (item.lineage, item.null) == (lineage, null)]
        return max(found, key=lambda item: item.k, default=None)

    def number(self, lineage: str) -> int:
        """Return the number of a lineage: its own, or the next free one for a new lineage."""
        own = [item.k for item in self.starts if item.lineage == lineage]
        return max(own) if own else self.next_number

    @property
    def next_number(self) -> int:
        """The number of the next lineage, or of one that starts again."""
        return max((item.k for item in self.starts), default=0) + 1

    def period_ns(self, lineage: str) -> int | None:
        """Return the length of a lineage's days, which stays as its first night had it."""
        return next((item.period_ns for item in self.starts if item.lineage == lineage), None)

    def net(self, lineage: str, *, after_ns: int = -1) -> dict[int, float]:
        """Return the net of a lineage by start of the day, of days that begin later than `after_ns`."""
        days = self.days.get((lineage, NULL_ZERO), ())
        return {day.day_ns: day.net for day in days if day.day_ns > after_ns}


@dataclass(frozen=True, slots=True)
class CollectedEvidence:
    """Evidence against one null hypothesis after a night.

    Args:
        weighed: the evidence.
        arguments: those of `weigh`, but for the limit on false promotions.
        test: of the path as this night sees it; only the first night's decides, and the others are reported.
        start: new row of `lineages`, or `None`.
        new_days: new rows of `gate_days`.
        days: all days against this null hypothesis, old and new.
    """

    weighed: NullEvidence
    arguments: Mapping[str, Any]
    test: HistoryTest
    start: EvidenceStart | None
    new_days: tuple[GateDay, ...]
    days: tuple[GateDay, ...]


def lineage_of(recipe: Recipe) -> Lineage:
    """Return the lineage of a recipe; its name, models, folds and fits are no part of it.

    Predictions that are judged are a lineage of their own, by their name.
    """
    plain = recipe.to_plain()
    of_venues = [f"{venue}|*" for venue in sorted(plain["venues"])]
    definition = {
        "universe": sorted(plain["instruments"]) or of_venues or "all",
        **{
            name: _without_newer(name, plain[name])
            for name in ("width", "feature_set", "label", "position", "costs")
        },
        **({"predictions": recipe.predictions} if recipe.predictions else {}),
    }
    digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
    return Lineage(digest[:12], definition)


_NEWER: Final[dict[str, dict[str, object]]] = {
    "label": {"target": LabelRule(1).target, "weights": LabelRule(1).weights},
    "position": {"most_strange": None},
}
"""Keys that later releases added, with the values that keep what was before: a lineage keeps its name and evidence."""


def _without_newer(part: str, plain: Any) -> Any:
    """Return a part of a recipe without newer keys that change nothing."""
    newer = _NEWER.get(part)
    if newer is None:
        return plain
    return {name: value for name, value in plain.items() if name not in newer or newer[name] != value}


def read_gate_record(lake: Lake, *, night: str) -> GateRecord:
    """Return the evidence that nights before this one left, in order of time."""
    own = lake.query(
        "SELECT min(ts_knowable_ns) AS first_ns FROM (SELECT night, ts_knowable_ns FROM lineages "
        "UNION ALL SELECT night, ts_knowable_ns FROM gate_days) WHERE night = ?",
        (night,),
    ).to_pylist()
    before_ns = _ALWAYS_NS if own[0]["first_ns"] is None else own[0]["first_ns"]
    starts = lake.query(
        "SELECT lineage, null_hypothesis, k, p_value, is_quoted, through_ns, period_ns FROM lineages "
        "WHERE ts_knowable_ns < ? ORDER BY k, null_hypothesis",
        (before_ns,),
    )
    rows = lake.query(
        "SELECT lineage, null_hypothesis, day_ns, net, risk, worst_loss, is_quoted, source FROM gate_days "
        "WHERE ts_knowable_ns < ? ORDER BY lineage, null_hypothesis, day_ns",
        (before_ns,),
    )
    days: dict[tuple[str, str], list[GateDay]] = {}
    for row in rows.to_pylist():
        key = (row.pop("lineage"), row.pop("null_hypothesis"))
        risk = np.inf if row["risk"] is None else row["risk"]
        days.setdefault(key, []).append(GateDay(**row | {"risk": risk}))
    return GateRecord(
        tuple(
            EvidenceStart(**row | {"null": row.pop("null_hypothesis")})
            for row in map(dict, starts.to_pylist())
        ),
        {key: tuple(found) for key, found in days.items()},
    )


def collect(
    record: GateRecord,
    lineage: str,
    path: PeriodNet,
    members: np.ndarray,
    *,
    null: str,
    least_block: int,
    false_promotions: float,
    seed: int,
) -> CollectedEvidence:
    """Add a night's path to the evidence of its lineage.

    The first night tests the path as its history. A later one adds the complete days after the last known one.

    Args:
        record: of earlier nights.
        lineage: that is judged.
        path: its net by day, or what it earned more than the champion's lineage.
        members: (P, K) net of each model on the same days, or the same difference.
        null: the null hypothesis.
        least_block: days that horizon and holding cover together.
        false_promotions: limit of the home.
        seed: of the bootstrap.
    """
    known, start, new_start = record.days.get((lineage, null), ()), record.start(lineage, null), None
    k = record.number(lineage)
    alpha = alpha_of(k, false_promotions=false_promotions)
    test = judge_history(path, members, least_block=least_block, alpha=alpha, seed=seed)
    if start is None:
        last_ns = int(path.start_ns[-1]) + path.period_ns if len(path) else 0
        start = new_start = EvidenceStart(
            lineage, null, k, test.p_value, bool(path.is_quoted.all()), last_ns, path.period_ns
        )
        new_days = _as_days(path, np.full(len(path), np.inf), first=0, source="history")
    else:
        if start.k < k:
            # Its champion was demoted, so that this evidence starts again as well.
            through_ns = max(item.through_ns for item in record.starts if item.lineage == lineage)
            start = new_start = replace(start, k=k, p_value=None, is_quoted=True, through_ns=through_ns)
        new_days = _later_days(known, start, path)
    days = (*known, *new_days)
    arguments: dict[str, Any] = {
        "days": _evidence_days(days, start.through_ns),
        "null": null,
        "k": start.k,
        "p_value": start.p_value,
        "is_quoted_start": start.is_quoted,
    }
    weighed = weigh(**arguments, false_promotions=false_promotions)
    return CollectedEvidence(weighed, arguments, test, new_start, new_days, days)


def restart(
    record: GateRecord, lineage: str, collected: CollectedEvidence, *, false_promotions: float
) -> CollectedEvidence:
    """Return the evidence of a lineage whose champion was demoted: 1, under the next number, from the next day on."""
    last = collected.days[-1].day_ns if collected.days else 0
    period_ns = record.period_ns(lineage) or (collected.start.period_ns if collected.start else 1)
    start = EvidenceStart(lineage, NULL_ZERO, record.next_number, None, True, last + period_ns, period_ns)
    arguments = dict(collected.arguments) | {
        "days": _evidence_days((), start.through_ns),
        "k": start.k,
        "p_value": None,
        "is_quoted_start": True,
    }
    weighed = weigh(**arguments, false_promotions=false_promotions)
    return replace(collected, weighed=weighed, arguments=arguments, start=start)


def subtract(
    path: PeriodNet, members: np.ndarray, other: Mapping[int, float]
) -> tuple[PeriodNet, np.ndarray]:
    """Return what a path and the models earned more than another path, on the days that both have.

    The risk stays that of the path's own positions; the scatter of the difference is added where it is weighed.
    """
    both = np.array([start in other for start in path.start_ns.tolist()], dtype=bool)
    theirs = np.array([other[start] for start in path.start_ns[both].tolist()])
    paired = PeriodNet(
        path.period_ns,
        path.start_ns[both],
        path.net[both] - theirs,
        path.volatility[both],
        path.worst_loss[both],
        path.is_quoted[both],
    )
    return paired, members[both] - theirs[:, None]


def evidence_rows(
    lineage: Lineage, recipe: str, night: str, now_ns: int, collected: Sequence[CollectedEvidence]
) -> dict[str, pa.Table]:
    """Return the rows that a night adds, by table; tables without new rows are left out."""
    common = {"lineage": lineage.name, "night": night, "ts_knowable_ns": now_ns}
    starts = [
        common
        | {
            "null_hypothesis": item.start.null,
            "k": item.start.k,
            "p_value": item.start.p_value,
            "is_quoted": item.start.is_quoted,
            "through_ns": item.start.through_ns,
            "period_ns": item.start.period_ns,
            "definition": json.dumps(lineage.definition, sort_keys=True),
            "recipe": recipe,
        }
        for item in collected
        if item.start is not None
    ]
    days = [
        common
        | {
            "null_hypothesis": item.weighed.null,
            "day_ns": day.day_ns,
            "net": day.net,
            "risk": day.risk if np.isfinite(day.risk) else None,
            "worst_loss": day.worst_loss,
            "is_quoted": day.is_quoted,
            "source": day.source,
        }
        for item in collected
        for day in item.new_days
    ]
    found = {"lineages": (LINEAGES, starts), "gate_days": (GATE_DAYS, days)}
    return {name: contract.rows(rows) for name, (contract, rows) in found.items() if rows}


def _later_days(known: tuple[GateDay, ...], start: EvidenceStart, path: PeriodNet) -> tuple[GateDay, ...]:
    """Return the days of a path after the last known one, each with the risk that was known before it."""
    last_ns = max(start.through_ns, known[-1].day_ns + start.period_ns if known else 0)
    first = int(np.searchsorted(path.start_ns, last_ns))
    net = np.concatenate([[day.net for day in known], path.net[first:]])
    padding = np.zeros(len(known))
    risk = path_risks(
        net,
        first=len(known),
        volatility=np.concatenate([padding, path.volatility[first:]]),
        worst_loss=np.concatenate([padding, path.worst_loss[first:]]),
    )
    return _as_days(path, risk, first=first, source="path")


def _as_days(path: PeriodNet, risk: np.ndarray, *, first: int, source: str) -> tuple[GateDay, ...]:
    return tuple(
        GateDay(
            int(path.start_ns[i]),
            float(path.net[i]),
            float(risk[i - first]),
            float(path.worst_loss[i]),
            bool(path.is_quoted[i]),
            source,
        )
        for i in range(first, len(path))
    )


def _evidence_days(days: tuple[GateDay, ...], through_ns: int) -> EvidenceDays:
    """Return the days after a history as arrays."""
    later = [day for day in days if day.day_ns >= through_ns]
    return EvidenceDays(
        np.array([day.net for day in later], dtype=np.float64),
        np.array([day.risk for day in later], dtype=np.float64),
        np.array([day.worst_loss for day in later], dtype=np.float64),
        np.array([day.is_quoted for day in later], dtype=bool),
    )
