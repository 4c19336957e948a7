"""Retraining nights and the champion, as the models folder and the version ledger have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from storage.clock import US_NS
from storage.errors import GateError
from training.evaluation.metrics import largest_fall
from training.night.artifacts import NightArtifacts
from training.night.registry import VersionEvent, champions_after, read_versions
from training.night.time_budget import ESTIMATE

if TYPE_CHECKING:
    from storage.lake.lake import Lake
    from storage.settings import Settings
    from training.night.fold_dataset import NightFold

Outcome = Literal["promoted", "paper", "refused", "unfinished"]

JUDGED: Final = "judged-"
"""Prefix of the id of the batch that a judgement of predictions commits."""
_OUTCOMES: Final[dict[str, Outcome]] = {"champion": "promoted", "paper": "paper", "rejected": "refused"}

_TIME: Final[pa.DataType] = pa.timestamp("us", tz="Etc/UTC")  # as DuckDB names it
_SCHEMA: Final = pa.schema(
    [
        ("night", pa.string()),
        ("recipe", pa.string()),
        ("since", _TIME),
        ("until", _TIME),
        ("instruments", pa.int64()),
        ("snapshot", pa.int64()),
        ("outcome", pa.string()),
        ("version", pa.string()),
        ("model", pa.string()),
        ("reason", pa.string()),
        ("judged", _TIME),
        ("ic", pa.float64()),
        ("net", pa.float64()),
        ("sharpe", pa.float64()),
        ("drawdown", pa.float64()),
        ("deflated_sharpe", pa.float64()),
        ("fills", pa.int64()),
        ("leaks", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class NightDetails:
    """One retraining night.

    Args:
        night: its id.
        outcome: `promoted`, `paper` (sound, but only on prices without quotes), `refused`, or `unfinished` while a
            step is missing.
        manifest: what it was made from (`night.json`): recipe, range, snapshot, hashes, seed, code.
        verdict: version, challenger, champion before it, reason and rules; empty while unfinished.
        figures: the challenger's on the test rows of all folds: `test` (rows, ic, rank_ic, r2, hit_rate), `traded`
            (gross, fee, spread, impact, funding, net as shares of capital; fills, sharpe, deflated_sharpe) and more;
            empty while unfinished.
        models: the same figures of every model and control, by name.
        rules: the gate's, each with name, passed, value, limit and reason.
        drawdown: largest fall of the challenger's cumulated net from a peak, as a share of capital; `None` while
            unfinished.
        leaks: leaked rows over all folds; `None` before the folds were planned.
        folder: where its files lie.
        estimate: of its time, when it was opened (`training.night.time_budget.TimeEstimate`); empty without one.
        seconds: that its steps took so far.
        report: its page; `None` where none was written.
    """

    night: str
    outcome: Outcome
    manifest: Mapping[str, Any]
    verdict: Mapping[str, Any]
    figures: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    rules: tuple[Mapping[str, Any], ...]
    drawdown: float | None
    leaks: int | None
    folder: Path
    report: Path | None
    estimate: Mapping[str, Any]
    seconds: float

    def fold(self, index: int) -> NightFold:
        """Return a fold, whose rows are torch datasets.

        Args:
            index: of the fold, from 0.

        Raises:
            GateError: the night has no such fold, or its folds are not planned yet.
        """
        found = {fold.index: fold for fold in self.folds()}
        if index not in found:
            raise GateError(f"night {self.night} has no fold {index}", hint=f"its folds: {sorted(found)}")
        return found[index]

    def folds(self) -> tuple[NightFold, ...]:
        """Return all folds, oldest first.

        Raises:
            GateError: they are not planned yet.
        """
        from training.night.fold_dataset import NightFold

        folder = NightArtifacts(self.folder)
        entries = folder.read("folds.json", step="plan_folds")["folds"]
        return tuple(NightFold(folder, entry) for entry in entries)


def read_night(settings: Settings, night: str) -> NightDetails:
    """Return a night by its id.

    Raises:
        GateError: there is no such night.
    """
    folder = NightArtifacts.find(settings, night)
    verdict: dict[str, Any] = folder.read("verdict.json") if folder.has("verdict.json") else {}
    summary: dict[str, Any] = folder.read("summary.json") if folder.has("summary.json") else {}
    models: dict[str, Any] = summary.get("models", {})
    page = settings.report_path(night)
    outcome: Outcome = _OUTCOMES[verdict_state(verdict)] if verdict else "unfinished"
    return NightDetails(
        night=night,
        outcome=outcome,
        manifest=folder.facts,
        verdict=verdict,
        figures=models.get(verdict.get("challenger", ""), {}),
        models=models,
        rules=tuple(verdict.get("rules", ())),
        drawdown=drawdown_of(summary, verdict.get("challenger", "")),
        leaks=folder.read("folds.json")["leaks"] if folder.has("folds.json") else None,
        folder=folder.path,
        report=page if page.exists() else None,
        estimate=folder.read(ESTIMATE) if folder.has(ESTIMATE) else {},
        seconds=sum(folder.step_seconds().values()),
    )


def drawdown_of(summary: Mapping[str, Any], model: str) -> float | None:
    """Return the largest fall of a model's cumulated net from a peak (or from 0), as a share of capital.

    >>> drawdown_of({"equity": {"net": {"mlp": [0.1, 0.3, 0.15, 0.25]}}}, "mlp")
    0.15
    """
    net = summary.get("equity", {}).get("net", {}).get(model)
    if not net:
        return None
    return largest_fall(net)


def list_nights(settings: Settings, lake: Lake) -> pa.Table:
    """Return one row a night that was opened; see `HomeReader.nights`."""
    judged_ns: dict[str, int] = {}
    for event in read_versions(lake):
        judged_ns.setdefault(event.night, event.ts_knowable_ns)
    # Predictions have no version; the batch of their evidence and trial is named after the judgement.
    judgements = lake.query(
        "SELECT batch_id, ts_knowable_ns FROM batches WHERE starts_with(batch_id, ?)", (JUDGED,)
    )
    for row in judgements.to_pylist():
        judged_ns.setdefault(row["batch_id"].removeprefix(JUDGED), row["ts_knowable_ns"])
    rows = [_row(read_night(settings, night), judged_ns.get(night)) for night in NightArtifacts.ids(settings)]
    rows.sort(key=lambda row: (row["judged"] is None, row["judged"] or 0, row["night"]))
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _row(details: NightDetails, judged_ns: int | None) -> dict[str, Any]:
    manifest, test, traded = (
        details.manifest,
        details.figures.get("test", {}),
        details.figures.get("traded", {}),
    )
    return {
        "night": details.night,
        "recipe": manifest["recipe"]["name"],
        "since": manifest["since_ns"] // US_NS,
        "until": manifest["until_ns"] // US_NS,
        "instruments": len(manifest["instruments"]),
        "snapshot": manifest["snapshot"],
        "outcome": details.outcome,
        "version": details.verdict.get("version"),
        "model": details.verdict.get("challenger"),
        "reason": details.verdict.get("reason"),
        "judged": None if judged_ns is None else judged_ns // US_NS,
        "ic": test.get("ic", {}).get("value"),
        **{name: traded.get(name) for name in ("net", "sharpe", "deflated_sharpe", "fills")},
        "drawdown": details.drawdown,
        "leaks": details.leaks,
    }


def find_champion(lake: Lake, recipe: str | None) -> VersionEvent | None:
    """Return what serves a recipe, or the only recipe that has a champion.

    Raises:
        GateError: no recipe was named, and several have a champion.
    """
    serving = list(champions_after(read_versions(lake, recipe=recipe)).values())
    if len(serving) > 1:
        names = ", ".join(event.recipe for event in serving)
        raise GateError(
            f"{len(serving)} recipes have a champion: {names}", hint="name one: champion(recipe=...)"
        )
    return serving[0] if serving else None


def verdict_state(verdict: Mapping[str, Any]) -> str:
    """Return the state that a verdict gave its version; those of older releases say only whether it was promoted."""
    return str(verdict.get("state") or ("champion" if verdict["promoted"] else "rejected"))
