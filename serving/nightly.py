"""A whole night without Airflow, with the same steps as the nightly DAG; folds are trained by a runner."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.fit_view import FitPoint, FitWatch
from serving.recipe_note import write_recipe_note
from serving.report import write_report
from serving.schedule import night_until, nightly_interval_s
from serving.training_curves import CurveWriter
from storage.clock import WallTime, parse_time_ns
from storage.errors import SettingsError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.models.device import available_device
from training.models.trainer import EpochLog
from training.night.artifacts import NightArtifacts
from training.night.recipe_choice import RecipeChoice, choose_recipe
from training.night.runners import count_workers
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_folds
from training.night.time_budget import ESTIMATE, describe_time, remaining_time

logger = get_logger(__name__)


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
    within_s: float | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    on_fit: Callable[[FitPoint], None] = lambda _: None,
) -> NightResult:
    """Run all steps of a night and write its report; finished steps are not repeated.

    Args:
        settings: the home, the seed, the device and the runner.
        recipe, since, until, at, within_s: see `training.night.steps.open_night`.
        on_step: called before each step with its description, and with the time left where that is estimated.
        on_fit: called at every validation point of a network.
    """
    on_step("pinning the data")
    training = settings.training
    workers = count_workers(
        training.runner, training.workers, threads=training.threads, device=available_device(training.device)
    )
    night = open_night(
        settings, recipe=recipe, since=since, until=until, at=at, within_s=within_s, workers=workers
    )
    progress = NightProgress(NightArtifacts.find(settings, night), on_step)
    progress.begin("build_panel", text="building and proving features")
    build_panel(settings, night)
    progress.begin("plan_folds", text="planning folds")
    folds = plan_folds(settings, night)

    watch, curves = FitWatch(len(folds)), curve_writer(settings, night)

    def tell_epoch(model: str, fold: int, log: EpochLog) -> None:
        point = watch.point(model, fold, log)
        on_fit(point)
        progress.tell(str(point))
        if curves is not None:
            curves.write(model, fold, log)

    processes = f" in {workers} processes" if workers > 1 else ""
    progress.begin(
        *(f"train_fold-{fold:02d}" for fold in folds), text=f"training {len(folds)} folds{processes}"
    )
    with curves or contextlib.nullcontext():
        train_folds(settings, night, on_epoch=tell_epoch)
    progress.begin("judge_night", text="judging the challenger")
    verdict = judge_night(settings, night)
    on_step("writing the report")
    page = write_report(settings, night)
    drawing = NightArtifacts.find(settings, night).read("folds.json")["drawing"]
    return NightResult(night, verdict, drawing, page)


def curve_writer(settings: Settings, night: str) -> CurveWriter | None:
    """Return the writer of a night's training curves, to `curves/NIGHT` in the home, if the settings want them.

    Raises:
        SettingsError: the extra is not installed.
    """
    if not settings.training.curves:
        return None
    return CurveWriter(settings.home / "curves" / night)


def open_scheduled_night(
    settings: Settings, params: Mapping[str, Any], *, day: str | None, now_ns: int | None = None
) -> str:
    """Open a night of the DAG, and return its id.

    Args:
        settings: the home, and the schedule.
        params: `recipe`, `since` and `until` of the run; each may be `None`.
        day: partition key of the run, or `None` for one without.
        now_ns: during the night (default: now).

    Raises:
        SettingsError, RangeError: see `open_night`.
    """
    schedule = settings.airflow.nightly
    until = params["until"] or (night_until(schedule, day) if day else None)
    within_s = nightly_interval_s(schedule, WallTime().now_ns() if now_ns is None else now_ns)
    recipe = params["recipe"]
    if recipe is None:
        recipe = _noted_choice(settings, since=params["since"], until=until)
    return open_night(settings, recipe=recipe, since=params["since"], until=until, within_s=within_s)


def _noted_choice(settings: Settings, *, since: str | None, until: str | None) -> str:
    """Return the recipe that fits, and note it, or why there is none, for Airflow's pages."""
    try:
        choice = pick_recipe(settings, since=since, until=until)
    except SettingsError as error:
        write_recipe_note(settings, recipe="", text=error.message)
        raise
    write_recipe_note(settings, recipe=choice.recipe, text=choice.reason)
    logger.info("recipe chosen", recipe=choice.recipe, reason=choice.reason)
    return choice.recipe


class NightProgress:
    """Descriptions of the steps of a night with the time left, by the night's estimate.

    Args:
        folder: the night; one that was opened earlier keeps its estimate, and one may have none.
        on_step: called with each description.
        clock: returns seconds.
    """

    def __init__(
        self,
        folder: NightArtifacts,
        on_step: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_step, self._clock = on_step, clock
        self._estimate: dict[str, Any] = folder.read(ESTIMATE) if folder.has(ESTIMATE) else {}
        self._done: dict[str, float] = {}
        self._begun: tuple[str, ...] = ()
        self._began_s = clock()

    def begin(self, *steps: str, text: str) -> None:
        """Finish the steps before, and begin one, or several that run at once."""
        now_s = self._clock()
        for step in self._begun:
            self._done[step] = (now_s - self._began_s) / len(self._begun)
        self._begun, self._began_s = steps, now_s
        self.tell(text)

    def tell(self, text: str) -> None:
        """Describe what is done, with the time left and the estimate of the whole."""
        if self._estimate:
            spent_s = self._clock() - self._began_s
            left_s = remaining_time(self._estimate, self._done, self._begun, spent_s)
            text += f"; about {describe_time(left_s)} left of {describe_time(self._estimate['seconds'])}"
        self._on_step(text)
