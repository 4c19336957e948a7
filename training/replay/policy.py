"""Replay of a policy: a night at each time of a schedule, on what was known then, and what followed.

The replay's id is a hash of recipe, schedule, rows, code, seed and device, so the same command continues an interrupted
replay at its first unfinished night, and a finished one is not run again. A night continues at its first unfinished
fit. Deleted and run again, its nights, predictions
and results have equal bits; timings differ, and the stamps of its own lake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from storage.clock import iso
from storage.errors import RangeError
from storage.lake.fees import seed_fees
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.data.labels import Labels, make_labels
from training.models.device import compute_identity, prepare_device
from training.night.artifacts import NightArtifacts, fits_file, model_codes, training_code
from training.night.identity import feature_fingerprint, name_of
from training.night.preparation import folds_until
from training.night.readable_range import enforce_holdouts
from training.night.recipe_choice import choose_recipe
from training.recipe import Recipe, get_recipe
from training.replay.earnings import measure_replay
from training.replay.folder import ReplayedNight, ReplayFolder
from training.replay.known_rows import KnownRows
from training.replay.replayed_night import run_replayed_night
from training.replay.schedule import Schedule
from training.replay.serving import FollowingBars, write_served

logger = get_logger(__name__)

OnNight = Callable[[int, int, str], None]
"""Called with the number of finished nights, of all nights, and what is done now."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay would do.

    Args:
        replay: its id.
        nights: number of its nights, and of those that are finished.
        finished: number of finished nights.
        folds: number of different folds over all nights, each of which is trained once.
        fits: models and seeds on these folds, and one refit a night; those in the store of fits are reused.
    """

    replay: str
    nights: int
    finished: int
    folds: int
    fits: int


@dataclass(frozen=True, slots=True)
class FinishedReplay:
    """A finished replay: its id, folder, nights, and the value of `result.json`."""

    replay: str
    folder: ReplayFolder
    nights: tuple[ReplayedNight, ...]
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _OpenReplay:
    """A replay with the rows that it reads."""

    folder: ReplayFolder
    recipe: Recipe
    schedule: Schedule
    rows: KnownRows
    device: torch.device
    identity: dict[str, Any]


def plan_replay(settings: Settings, *, recipe: str | None, schedule: Schedule) -> ReplayPlan:
    """Return what a replay would do; nothing is trained.

    Raises:
        RangeError: the first night has too few bars for a fold; the hint names the first possible night.
    """
    with _opened(settings, recipe, schedule) as replay:
        tests = _tests_of(replay)
        fits = len(tests) * len(replay.recipe.model_seeds) + len(schedule.nights)
        finished = len(replay.folder.nights())
        return ReplayPlan(replay.folder.path.name, len(schedule.nights), finished, len(tests), fits)


def replay_policy(
    settings: Settings,
    *,
    recipe: str | None,
    schedule: Schedule,
    on_night: OnNight = lambda _done, _total, _name: None,
) -> FinishedReplay:
    """Run all nights of a replay, and measure what its versions earned; finished nights are not repeated.

    Args:
        settings: the home, the seed and the device.
        recipe: name of a recipe, or path of a TOML file; `None`: the only one that fits the lake.
        schedule: the nights.
        on_night: called as work proceeds.

    Raises:
        RangeError: the first night has too few bars for a fold; the hint names the first possible night.
        GateError: another process works on the same replay.
        HoldoutError: its range reaches into a sealed one.
        LeakError: a feature looks ahead.
    """
    with (
        _opened(settings, recipe, schedule) as replay,
        replay.folder.locked(),
        Lake.open(replay.folder.records) as records,
    ):
        folder = replay.folder
        _tests_of(replay)
        if not folder.has("replay.json"):
            folder.write("replay.json", {"replay": folder.path.name} | replay.identity)
        if not folder.has("result.json"):
            on_night(len(folder.nights()), len(schedule.nights), "building features of the range")
            following = FollowingBars.build(replay.rows, folder)
            _run_nights(replay, records, following, on_night)
            result = measure_replay(
                folder,
                records,
                following,
                replay.recipe,
                schedule,
                folder.nights(),
                grace_ns=replay.rows.grace_ns,
            )
            folder.write("result.json", result)
        return FinishedReplay(folder.path.name, folder, tuple(folder.nights()), folder.read("result.json"))


def _run_nights(replay: _OpenReplay, records: Lake, following: FollowingBars, on_night: OnNight) -> None:
    """Run the nights that are not finished."""
    folder, schedule = replay.folder, replay.schedule
    nights, total = folder.nights(), len(schedule.nights)
    for number, at_ns in enumerate(schedule.nights[len(nights) :], start=len(nights)):
        started = time.perf_counter()

        def show(step: str, number: int = number, at_ns: int = at_ns) -> None:
            on_night(number, total, f"night of {iso(at_ns)[:16]}: {step}")

        before = nights[-1] if nights else None
        night = run_replayed_night(
            folder, records, replay.rows, at_ns, replay.device, before=before, on_step=show
        )
        show("predicting the bars that follow")
        write_served(folder, replay.rows, following, number, night, schedule.until(at_ns), replay.device)
        _note_time(folder, number, night, time.perf_counter() - started)
        # This marks the night as finished.
        folder.write(f"nights/{number:05d}.json", night.to_plain())
        folder.trim(folder.night(night.night))
        nights.append(night)
        logger.info("night replayed", replay=folder.path.name, night=night.night, outcome=night.outcome)
    on_night(total, total, "adding up")


def _note_time(folder: ReplayFolder, number: int, night: ReplayedNight, seconds: float) -> None:
    """Write the seconds of a night, and how many of its fits another night had trained."""
    artifacts: NightArtifacts = folder.night(night.night)
    fits = [
        entry["is_reused"]
        for fold in range(night.folds)
        if artifacts.has(fits_file(fold))
        for entry in artifacts.read(fits_file(fold)).values()
    ]
    timings = folder.read("timings.json") if folder.has("timings.json") else {}
    entry = {"seconds": round(seconds, 3), "fits": len(fits), "reused": sum(fits)}
    folder.write("timings.json", timings | {f"{number:05d}": entry})


@contextmanager
def _opened(settings: Settings, recipe: str | None, schedule: Schedule) -> Iterator[_OpenReplay]:
    device = prepare_device(settings.training.device, threads=settings.training.threads)
    with Lake.open(settings) as lake:
        seed_fees(lake)
    with Lake.open(settings, read_only=True) as lake:
        if recipe is None:
            recipe = choose_recipe(
                settings, lake, at=lake.snapshot(), since_ns=None, until_ns=schedule.to_ns
            ).recipe
        plan = get_recipe(recipe)
        enforce_holdouts(lake, plan, since_ns=None, until_ns=schedule.to_ns, grace_ns=settings.bars.grace_ns)
        rows = KnownRows.read(lake, plan, settings, to_ns=schedule.to_ns, every_ns=schedule.every_ns)
        identity = {
            "recipe": plan.to_plain(),
            **asdict(schedule),
            **rows.hashes(),
            "feature_fingerprint": feature_fingerprint(plan),
            "seed": settings.training.seed,
            "false_promotions": settings.gate.false_promotions,
            "grace_ms": settings.bars.grace_ms,
            "training_code": training_code(),
            "project_code": model_codes(plan),
            **compute_identity(device),
        }
        folder = ReplayFolder.of(settings, name_of(plan, identity))
        yield _OpenReplay(folder, plan, schedule, rows, device, identity)


def _tests_of(replay: _OpenReplay) -> set[int]:
    """Return the starts of the tests of all nights' folds.

    Raises:
        RangeError: the first night has no fold.
    """
    rows, recipe = replay.rows, replay.recipe
    labels = make_labels(rows.panel, recipe.label, grace_ns=rows.grace_ns)
    found: set[int] = set()
    for number, at_ns in enumerate(replay.schedule.nights):
        try:
            folds = folds_until(labels, rows.panel, recipe, n_steps=max(rows.stop(at_ns), 1))
        except RangeError as error:
            if number:
                raise
            raise _too_early(error, at_ns, replay, labels) from error
        found |= {fold.test.start_ns for fold in folds}
    return found


def _too_early(error: RangeError, at_ns: int, replay: _OpenReplay, labels: Labels) -> RangeError:
    """Return the error for a first night without a fold, with the first night that would have one."""
    rows = replay.rows
    low, high = 1, rows.panel.n_steps

    def has_fold(n_steps: int) -> bool:
        try:
            return bool(folds_until(labels, rows.panel, replay.recipe, n_steps=n_steps))
        except RangeError:
            return False

    message = f"the first night, {iso(at_ns)}, has no fold: {error.message}"
    if not has_fold(high):
        return RangeError(message, hint=error.hint)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if has_fold(middle) else (middle + 1, high)
    first_ns = int(rows.panel.ts_close_ns[low - 1]) + rows.grace_ns
    return RangeError(message, hint=f"the first possible night is {iso(first_ns)}: use a later --from")
