"""Data of a report: the files of a night and its rows in the lake, read once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.monitoring.health import FeatureHealth
from features.panel.panel import PRINTED, QUIET, Panel
from serving.report.lake_queries import RecordedData, read_recorded
from storage.clock import width_ns
from storage.contracts.tables import STATUSES
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.artifacts import NightArtifacts, fits_file
from training.night.holdouts import HoldoutEvent, read_holdouts
from training.night.leak_suite import LEAK_SUITE
from training.night.night_list import verdict_state
from training.night.outside_judgement import PREDICTIONS
from training.night.tear_sheet import TEAR_SHEET
from training.night.trial_ledger import count_on_tests
from training.recipe import Recipe

_EARLIER: Final = 10
"""Most nights in the table of earlier ones."""


@dataclass(frozen=True, slots=True)
class DataGap:
    """A run of bars of one instrument that were neither printed nor quiet."""

    instrument: str
    status: str
    from_ns: int
    to_ns: int
    bars: int


@dataclass(frozen=True, slots=True)
class NightReport:
    """Data of a finished night.

    Args:
        night, panel, proof, verdict, summary, deploy: the files of those names (`training/night/steps.py`).
        folds: the entries of `folds.json`.
        leaks: total number of leaked rows in `folds.json`.
        metrics: by fold and member (`model`, or `model+1` for a second seed).
        recipe: the night's recipe.
        health: health of the night's features.
        holes: runs of unverified bars, by instrument and time.
        label_span_ns: time from a decision to the end of its label, which the purge removes.
        recorded: data of the lake at the night's snapshot.
        trials: members that the home has evaluated on these tests until now, by source.
        holdouts: events of sealed ranges until now.
        fits: by fold: members with the ids of their fits, and whether an earlier night had made them.
        leak_suite: the file of that name; `None` for a night of a release that had none.
        outside: of a judgement, `predictions.json` (`training/night/outside_judgement.py`); of a night, `None`. A
            judgement has no `deploy.json`.
        tear_sheet: the file of that name; `None` for a night of a release that had none.
        earlier: judged nights of the recipe on bars up to the end of this night's, and this one, oldest first: night,
            until_ns, challenger, ic, net, state.
    """

    night: dict[str, Any]
    panel: dict[str, Any]
    proof: dict[str, Any]
    verdict: dict[str, Any]
    summary: dict[str, Any]
    deploy: dict[str, Any]
    folds: list[dict[str, Any]]
    leaks: int
    metrics: dict[tuple[int, str], dict[str, Any]]
    recipe: Recipe
    health: FeatureHealth
    holes: tuple[DataGap, ...]
    label_span_ns: int
    recorded: RecordedData
    trials: dict[str, int]
    holdouts: list[HoldoutEvent]
    fits: dict[int, dict[str, Any]]
    leak_suite: dict[str, Any] | None
    outside: dict[str, Any] | None = None
    tear_sheet: dict[str, Any] | None = None
    earlier: tuple[dict[str, Any], ...] = ()

    @property
    def bar_ns(self) -> int:
        """Width of a bar."""
        return width_ns(self.recipe.width)

    @property
    def models(self) -> tuple[str, ...]:
        """Controls, then challengers."""
        return self.recipe.models

    @property
    def challenger(self) -> str:
        """The model that the gate evaluates."""
        return str(self.verdict["challenger"])


def read_night(settings: Settings, night: str) -> NightReport:
    """Read the data of a night.

    Raises:
        GateError: there is no such night, or a step of it has not run; the error names the step.
        LakeError: the night's snapshot cannot be read.
    """
    folder = NightArtifacts.find(settings, night)
    verdict = folder.read("verdict.json", step="judge_night")
    plan, recipe = folder.read("folds.json", step="plan_folds"), folder.recipe
    data = folder.read_data()
    metrics = {
        (entry["index"], folder.model_name(*fit)): folder.read(
            f"{folder.model_path(entry['index'], *fit)}/metrics.json"
        )
        for entry in plan["folds"]
        for fit in recipe.model_seeds
    }
    with Lake.open(settings, read_only=True) as lake:
        recorded = read_recorded(lake, folder.facts)
        trials, holdouts = count_on_tests(lake, folder), read_holdouts(lake)
    return NightReport(
        night=folder.facts,
        panel=folder.read("panel.json"),
        proof=folder.read("proof.json"),
        verdict=verdict,
        summary=folder.read("summary.json"),
        deploy={} if recipe.predictions else folder.read("deploy.json"),
        folds=plan["folds"],
        leaks=int(plan["leaks"]),
        metrics=metrics,
        recipe=recipe,
        health=FeatureHealth.from_dict(folder.read("health.json", step="build_panel")),
        holes=tuple(find_holes(data.panel)),
        label_span_ns=int(data.labels.ts_span_end_ns[0] - data.labels.ts_decided_ns[0]),
        recorded=recorded,
        trials=trials,
        holdouts=holdouts,
        fits={
            entry["index"]: folder.read(name)
            for entry in plan["folds"]
            if folder.has(name := fits_file(entry["index"]))
        },
        leak_suite=folder.read(LEAK_SUITE) if folder.has(LEAK_SUITE) else None,
        outside=folder.read(PREDICTIONS) if recipe.predictions else None,
        tear_sheet=folder.read(TEAR_SHEET) if folder.has(TEAR_SHEET) else None,
        earlier=tuple(judged_until(settings, folder)),
    )


def judged_until(settings: Settings, folder: NightArtifacts) -> list[dict[str, Any]]:
    """Return figures of the newest judged nights of a night's recipe on bars up to the end of its own, oldest first."""
    facts, found = folder.facts, []
    for name in NightArtifacts.ids(settings):
        other = NightArtifacts.find(settings, name)
        own = other.facts
        if (
            own["recipe"]["name"] != facts["recipe"]["name"]
            or own["until_ns"] > facts["until_ns"]
            or (own["until_ns"] == facts["until_ns"] and name != folder.path.name)
            or not other.has("verdict.json")
        ):
            continue
        verdict, models = other.read("verdict.json"), other.read("summary.json")["models"]
        figures = models.get(verdict["challenger"], {})
        found.append(
            {
                "night": name,
                "until_ns": own["until_ns"],
                "challenger": verdict["challenger"],
                "ic": figures.get("test", {}).get("ic", {}).get("value"),
                "net": figures.get("traded", {}).get("net"),
                "state": verdict_state(verdict),
            }
        )
    return sorted(found, key=lambda night: (night["until_ns"], night["night"]))[-_EARLIER:]


def find_holes(panel: Panel) -> Iterator[DataGap]:
    """Yield runs of equal status that is neither printed nor quiet."""
    for instrument, row in zip(panel.instruments, panel.status.numpy(), strict=True):
        edges = np.flatnonzero(np.diff(row)) + 1
        starts, stops = np.r_[0, edges], np.r_[edges, len(row)]
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if row[start] not in (PRINTED, QUIET):
                yield DataGap(
                    instrument=instrument,
                    status=STATUSES[row[start]],
                    from_ns=int(panel.ts_open_ns[start]),
                    to_ns=int(panel.ts_close_ns[stop - 1]),
                    bars=stop - start,
                )
