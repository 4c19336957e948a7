"""A whole night in one process, with the same steps as the nightly DAG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.report import write_report
from storage.clock import parse_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.artifacts import NightArtifacts
from training.night.recipe_choice import RecipeChoice, choose_recipe
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold


@dataclass(frozen=True, slots=True)
class NightResult:
    """Result of a night: its id, the value of `verdict.json`, the folds as text, and the path of the report."""

    night: str
    verdict: dict[str, Any]
    folds: str
    report: str


def pick_recipe(
    settings: Settings, *, since: str | None = None, until: str | None = None, at: int | None = None
) -> RecipeChoice:
    """Return the recipe of a night that names none, as `open_night` chooses it, with the reason.

    Raises:
        SettingsError: none fits the lake, or several do.
    """
    with Lake.open(settings, read_only=True) as lake:
        return choose_recipe(
            settings,
            lake,
            since_ns=parse_time_ns(since) if since else None,
            until_ns=parse_time_ns(until) if until else None,
            at=at,
        )


def run_night(
    settings: Settings,
    *,
    recipe: str,
    since: str | None = None,
    until: str | None = None,
    at: int | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> NightResult:
    """Run all steps of a night and write its report; finished steps are not repeated.

    Args:
        settings: the home, the seed and the device.
        recipe, since, until, at: see `training.night.steps.open_night`.
        on_step: called before each step with its description.
    """
    on_step("pinning the data")
    night = open_night(settings, recipe=recipe, since=since, until=until, at=at)
    on_step("building and proving features")
    build_panel(settings, night)
    on_step("planning folds")
    for fold in (folds := plan_folds(settings, night)):
        on_step(f"training fold {fold + 1} of {len(folds)}")
        train_fold(
            settings,
            night,
            fold,
            on_epoch=lambda model, at_fold, log: on_step(
                f"training fold {at_fold + 1} of {len(folds)}: {model}, epoch {log.epoch:g}"
            ),
        )
    on_step("judging the challenger")
    verdict = judge_night(settings, night)
    on_step("writing the report")
    page = write_report(settings, night)
    drawing = NightArtifacts.find(settings, night).read("folds.json")["drawing"]
    return NightResult(night, verdict, drawing, page)
