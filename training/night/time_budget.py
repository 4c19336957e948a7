"""Time budget of a night: an estimate from measured steps, and fewer seeds, or a refusal, where it takes too long.

The estimate is made when a night is opened, before anything is built: from the paces of training/night/paces.py, the
folds that the range has, and the observed bars in them, less the fits that an earlier night has trained on the same
windows. A night that is opened again keeps its number of seeds, so that it continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from features.panel.panel import PRINTED, QUIET, Panel
from storage.errors import SettingsError
from storage.settings import Settings
from training.data.folds import Fold, TimeSpan
from training.night.artifacts import NightArtifacts
from training.night.fit_store import recipe_of_fit
from training.night.identity import name_of
from training.night.paces import (
    COMPUTER,
    FOLD,
    StepPaces,
    earlier_nights,
    fit_work,
    measured_paces,
    paces_of,
    real_build,
    real_step,
)
from training.night.recipe_choice import forecast_folds
from training.recipe import Recipe, recipe_from_plain

ESTIMATE: Final = "timings/estimate.json"
"""File of a night with its estimate."""
_SHARED: Final = ("feature_fingerprint", "seed", "training_code", "project_code", "lessons_hash")
"""Keys of `night.json` on which fits of a fold depend, beside the computer and its rows."""


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """The time that a night takes.

    Args:
        steps: seconds by step, in order: `build_panel`, `plan_folds`, `train_fold-00` and so on, `judge_night`.
        source: where the paces come from, in words.
        within_s: time until the next night starts.
        seeds: of each challenger.
        shrunk_from: seeds that the recipe asks for, where the night was shrunk; otherwise 0.
        reused: fits that an earlier night has trained.
        workers: processes that train at once.
    """

    steps: Mapping[str, float]
    source: str
    within_s: float
    seeds: int
    shrunk_from: int = 0
    reused: int = 0
    workers: int = 1

    @property
    def seconds(self) -> float:
        """Of the whole night."""
        return sum(self.steps.values())

    def described(self) -> dict[str, object]:
        """Return the estimate in words, for a log."""
        limit = describe_time(self.within_s)
        return {
            "takes": describe_time(self.seconds),
            "limit": limit,
            "seeds": self.seeds,
            "source": self.source,
        }

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "seconds": self.seconds,
            "steps": dict(self.steps),
            "source": self.source,
            "within_s": self.within_s,
            "seeds": self.seeds,
            "shrunk_from": self.shrunk_from,
            "reused": self.reused,
            "workers": self.workers,
        }


def keep_within(
    settings: Settings,
    recipe: Recipe,
    panel: Panel,
    identity: Mapping[str, Any],
    *,
    within_s: float,
    workers: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Recipe, TimeEstimate | None]:
    """Return the recipe of a night that ends in time, with fewer seeds if need be, and the estimate.

    A night that was opened before, whatever its seeds, is continued, and has no new estimate.

    Args:
        settings: the home, with its earlier nights.
        recipe: of the night.
        panel: its bars.
        identity: of the night: computer, code and features.
        within_s: time until the next night starts; infinite: no limit.
        workers: processes that train at once.
        clock: returns seconds, for the measurement.

    Raises:
        SettingsError: it cannot end in time.
        RangeError: the range is too short for a fold.
    """
    candidates = [recipe, *_shrunk(recipe)]
    for candidate in candidates:
        night = name_of(candidate, {**identity, "recipe": candidate.to_plain()})
        if NightArtifacts(settings.models_dir / "nights" / night).has("night.json"):
            return candidate, None
    nights = earlier_nights(settings, recipe.name, identity)
    paces = paces_of(nights) if nights else None
    if paces is None or not paces.steps or not set(recipe.models) <= set(paces.models):
        step = real_step(
            recipe, device=torch.device(identity["device"]), threads=int(identity["threads"]) or 1
        )
        paces = measured_paces(recipe, panel, clock=clock, step=step, build=real_build(recipe), known=paces)
    estimates = [
        estimate_night(
            candidate,
            panel,
            paces,
            grace_ns=settings.bars.grace_ns,
            within_s=within_s,
            reused=reused_fits(nights, candidate, panel, identity),
            workers=workers,
        )
        for candidate in candidates
    ]
    for candidate, estimate in zip(candidates, estimates, strict=True):
        if estimate.seconds <= within_s:
            return candidate, estimate
    raise _too_long(recipe, estimates, within_s)


def _shrunk(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipe with ever fewer seeds, down to the fewest that it allows."""
    if recipe.least_seeds:
        for seeds in range(recipe.seeds - 1, recipe.least_seeds - 1, -1):
            yield replace(recipe, seeds=seeds, shrunk_from=recipe.seeds)


def _too_long(recipe: Recipe, estimates: Sequence[TimeEstimate], within_s: float) -> SettingsError:
    full, least = estimates[0], estimates[-1]
    if len(estimates) > 1:
        tried = f", and {describe_time(least.seconds)} with {least.seeds} of its {full.seeds} seeds"
        hint = "set fewer seeds, models or epochs, a larger stride, or fewer instruments in the recipe"
    else:
        tried = ""
        hint = (
            "set least_seeds, so that it may be shrunk, or fewer models, epochs or instruments in the recipe"
        )
    longest = max(full.steps, key=lambda name: full.steps[name])
    return SettingsError(
        f"a night of recipe {recipe.name} takes about {describe_time(full.seconds)}{tried}, and the next one starts "
        f"after {describe_time(within_s)}; its longest step is {longest} with {describe_time(full.steps[longest])} "
        f"({full.source})",
        hint=f"{hint}; or start nights less often (airflow.nightly), or lift the limit: tickwalk nightly --within 0",
    )


def estimate_night(
    recipe: Recipe,
    panel: Panel,
    paces: StepPaces,
    *,
    grace_ns: int,
    within_s: float,
    reused: frozenset[tuple[str, int]] = frozenset(),
    workers: int = 1,
) -> TimeEstimate:
    """Return the time of a night from paces.

    Args:
        recipe: models, seeds, folds and epochs.
        panel: its bars.
        paces: of all models of the recipe.
        grace_ns: from a bar's close to the decision.
        within_s: see `TimeEstimate`.
        reused: fits that cost nothing: member, and start of the fold's test.
        workers: processes that train at once. Paces of nights that trained so include that they slow each other down.

    Raises:
        RangeError: the range is too short for a fold.
    """
    bounds = int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1])
    folds = forecast_folds(*bounds, recipe, grace_ns=grace_ns)
    cells = panel.n_steps * panel.n_instruments
    steps = {name: pace * cells for name, pace in paces.steps.items() if name not in (FOLD, "judge_night")}
    count, longest_s, training = 0, 0.0, dict[str, float]()
    watched = torch.isin(panel.status, torch.tensor([PRINTED, QUIET], dtype=panel.status.dtype)).sum(dim=0)
    before = np.concatenate([[0], watched.numpy().cumsum()])
    for fold in folds:
        rows = _rows_of(fold, panel, before, recipe)
        opening_s, jobs_s = paces.steps.get(FOLD, 0.0) * cells, dict.fromkeys(recipe.models, 0.0)
        for model, number in recipe.model_seeds:
            if (NightArtifacts.model_name(model, number), fold.test.start_ns) in reused:
                count += 1
            else:
                jobs_s[model] += paces.models[model] * fit_work(model, rows, recipe)
        training[f"train_fold-{fold.index:02d}"] = opening_s + sum(jobs_s.values())
        longest_s = max(longest_s, opening_s + max(jobs_s.values()))
    # All seeds of a model on a fold are one job, which no number of processes makes shorter.
    busy_s = max(sum(training.values()), 1e-9)
    share = max(busy_s / workers, min(longest_s, busy_s)) / busy_s
    steps |= {name: seconds * share for name, seconds in training.items()}
    steps["judge_night"] = paces.steps.get("judge_night", 0.0) * cells
    if "judge_night" not in paces.steps or paces.source.startswith("measured by"):
        # The refit of the slowest model that may serve, on all rows.
        every = {"train": float(before[-1]) / recipe.stride, "valid": 0.0, "test": 0.0}
        steps["judge_night"] += max(
            paces.models[name] * fit_work(name, every, recipe) for name in recipe.challengers
        )
    return TimeEstimate(steps, paces.source, within_s, recipe.seeds, recipe.shrunk_from, count, workers)


def _rows_of(fold: Fold, panel: Panel, before: np.ndarray, recipe: Recipe) -> dict[str, float]:
    """Return the watched bars of a fold's parts, of one epoch.

    Args:
        fold: the windows.
        panel: the clock.
        before: (T + 1,) number of watched bars before each step, over all instruments.
        recipe: its stride.
    """

    def within(span: TimeSpan) -> float:
        first, stop = np.searchsorted(panel.ts_close_ns, [span.start_ns, span.stop_ns])
        return float(before[stop] - before[first])

    return {
        "train": within(fold.train) / recipe.stride,
        "valid": within(fold.valid) / recipe.stride,
        "test": within(fold.test),
    }


def reused_fits(
    nights: Sequence[NightArtifacts], recipe: Recipe, panel: Panel, identity: Mapping[str, Any]
) -> frozenset[tuple[str, int]]:
    """Return the fits of earlier nights with the same windows, instruments, features and code.

    Their rows may have changed since, so it is a forecast: a night looks for fits by their rows.
    """
    own = recipe_of_fit(recipe)
    found = set()
    for folder in nights:
        facts = folder.facts
        if (
            any(facts.get(name) != identity.get(name) for name in (*_SHARED, *COMPUTER))
            or tuple(facts["instruments"]) != panel.instruments
            or recipe_of_fit(recipe_from_plain(facts["recipe"])) != own
            or not folder.has("folds.json")
            or (recipe.folds.scheme == "expanding" and facts["since_ns"] != int(panel.ts_open_ns[0]))
        ):
            continue
        for entry in folder.read("folds.json")["folds"]:
            for member in _trained(folder, entry["index"]):
                found.add((member, int(entry["test"][0])))
    return frozenset(found)


def _trained(folder: NightArtifacts, fold: int) -> Iterator[str]:
    for path in folder.path.glob(f"fold-{fold:02d}/*/fit.json"):
        yield path.parent.name


def describe_time(seconds: float) -> str:
    """Return a duration in words.

    >>> describe_time(42), describe_time(754), describe_time(100_000), describe_time(float("inf"))
    ('42 s', '12 min 34 s', '1 d 3 h', 'no limit')
    """
    if seconds == float("inf"):
        return "no limit"
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    left = max(round(seconds), 0)
    for place, (size, unit) in enumerate(units[:-1]):
        if left >= size:
            more, name = units[place + 1]
            rest = left % size // more
            return f"{left // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{left} s"


def remaining_time(
    estimate: Mapping[str, Any], done: Mapping[str, float], current: Collection[str], spent_s: float
) -> float:
    """Return the seconds that are left of a night.

    The estimates of what is left are scaled by the time that the finished steps took, relative to their own estimates.

    Args:
        estimate: plain values of a `TimeEstimate`.
        done: seconds of finished steps, by step.
        current: the steps at work.
        spent_s: seconds since they began.
    """
    steps: Mapping[str, float] = estimate["steps"]
    planned = sum(steps.get(name, 0.0) for name in done)
    # A few seconds say little about hours.
    factor = sum(done.values()) / planned if planned > 0 and planned >= 0.05 * estimate["seconds"] else 1.0
    left = sum(seconds for name, seconds in steps.items() if name not in done and name not in current)
    begun = sum(steps.get(name, 0.0) for name in current)
    return factor * left + max(factor * begun - spent_s, 0.0)
