"""A judgement of predictions in one process, with the same steps as a night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.prediction_files import read_predictions
from serving.report import write_report
from storage.settings import Settings
from training.night.artifacts import NightArtifacts
from training.night.outside_judgement import PREDICTIONS, judge_predictions, match_predictions
from training.night.outside_predictions import describe_counts
from training.night.steps import build_panel, open_night, plan_folds, train_fold


@dataclass(frozen=True, slots=True)
class JudgementResult:
    """Result of a judgement.

    Args:
        night: its id.
        verdict: the value of `verdict.json`.
        is_leaking: a leak check failed.
        notes: what became of the rows of the file, as sentences.
        folds: the judged folds as text.
        report: path of the page.
    """

    night: str
    verdict: dict[str, Any]
    is_leaking: bool
    notes: tuple[str, ...]
    folds: str
    report: str


def run_judgement(
    settings: Settings,
    predictions: str | Path | Any,
    *,
    recipe: str,
    name: str | None = None,
    since: str | None = None,
    until: str | None = None,
    at: int | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> JudgementResult:
    """Judge predictions and write the report; finished steps are not repeated.

    Args:
        settings: the home, the seed and the device.
        predictions, name: see `serving.prediction_files.read_predictions`.
        recipe, since, until, at: see `training.night.steps.open_night`.
        on_step: called before each step with its description.
    """
    on_step("reading the predictions")
    read = read_predictions(predictions, name=name)
    on_step("pinning the data")
    night = open_night(settings, recipe=recipe, since=since, until=until, at=at, outside=read.rows)
    on_step("building and proving features")
    build_panel(settings, night)
    on_step("planning folds")
    plan_folds(settings, night)
    on_step("matching and checking the predictions")
    for fold in (folds := match_predictions(settings, night)):
        on_step(f"training the controls of fold {folds.index(fold) + 1} of {len(folds)}")
        train_fold(settings, night, fold)
    on_step("judging the predictions")
    verdict = judge_predictions(settings, night)
    on_step("writing the report")
    page = write_report(settings, night)
    folder = NightArtifacts.find(settings, night)
    found = folder.read(PREDICTIONS)
    notes = describe_counts(found["counts"])
    if read.ignored:
        notes.append(f"columns that are not used: {', '.join(read.ignored)}")
    return JudgementResult(
        night,
        verdict,
        is_leaking=not all(check["passed"] for check in found["checks"]),
        notes=tuple(notes),
        folds=folder.read("folds.json")["drawing"],
        report=page,
    )
