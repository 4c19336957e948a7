"""Estimates of a night's time from measured steps, and nights that are shrunk or refused by them.

Clocks are given: the time of each step follows a known law, whatever the machine.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import SettingsError
from storage.settings import Settings
from tests.training.builders import SMALL_RECIPE, fill_lake, panel_of, settings_in, walk
from training.models.controls import BASELINES
from training.night.artifacts import NightArtifacts, fits_file
from training.night.paces import StepPaces, earlier_nights, measured_paces, paces_of, real_step
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold
from training.night.time_budget import (
    ESTIMATE,
    describe_time,
    estimate_night,
    keep_within,
    remaining_time,
    reused_fits,
)
from training.recipe import Recipe, get_recipe

STEPS = 700
LOG_PRICE = walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3)
HOUR_S = 3_600.0
# Seconds for a row that trains, and for a fit whatever its rows.
COST_S = {"ridge": 1e-4, "mlp": 2e-3, "lstm": 9e-3}
FIXED_S = 0.3
CELL_S = {"build_panel": 4e-3, "plan_folds": 2e-4, "leak_suite": 1e-3, "fold": 5e-4, "judge_night": 3e-3}


def recipe_in(folder: Path, more: str = "", *, name: str = "timed", **changes: str) -> str:
    text = SMALL_RECIPE.format(name=name, rows="served")
    for key, value in changes.items():
        assert f"\n{key} = " in text, key
        text = "\n".join(
            f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in text.splitlines()
        )
    head, _, tail = text.partition("[folds]")
    path = folder / f"{name}.toml"
    path.write_text(f"{head}{more}\n[folds]{tail}\n", encoding="utf-8")
    return str(path)


def true_fit_s(model: str, rows: Mapping[str, int], recipe: Recipe) -> float:
    """Return the seconds of a fit by a law that is not that of the estimate: a forward pass takes a quarter."""
    passes = rows["valid"] + rows["test"]
    epochs = 1
    if model not in BASELINES:
        epochs = recipe.fit.epochs
        passes += rows["valid"] * epochs * recipe.fit.checks
    return FIXED_S + COST_S[model] * (rows["train"] * epochs + passes / 4)


def run_timed(settings: Settings, night: str, *, is_trained: bool = True) -> float:
    """Build a night, give its steps the seconds of the law, and return their sum."""
    build_panel(settings, night)
    folder = NightArtifacts.find(settings, night)
    recipe = folder.recipe
    cells = folder.read("panel.json")["steps"] * len(folder.facts["instruments"])
    total = 0.0
    for fold in plan_folds(settings, night):
        rows = folder.read("folds.json")["folds"][fold]["rows"]
        fits = {}
        for model, number in recipe.model_seeds:
            seconds = true_fit_s(model, rows, recipe)
            fits[NightArtifacts.model_name(model, number)] = {"is_reused": False, "seconds": seconds}
            if is_trained:
                path = folder.model_path(fold, model, number)
                folder.write(f"{path}/metrics.json", {"rows": rows})
                folder.write(f"{path}/fit.json", {})
        spent = sum(entry["seconds"] for entry in fits.values()) + CELL_S["fold"] * cells
        total += spent
        if is_trained:
            folder.write(fits_file(fold), fits)
            folder.write(f"timings/train_fold-{fold:02d}.json", {"seconds": spent})
    for step, seconds in CELL_S.items():
        if step != "fold":
            total += seconds * cells
            if is_trained:
                folder.write(f"timings/{step}.json", {"seconds": seconds * cells})
    return total


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with one night, whose steps took the seconds of the law."""
    settings = settings_in(tmp_path_factory.mktemp("earlier"))
    fill_lake(settings, LOG_PRICE)
    night = open_night(settings, recipe=recipe_in(settings.home), until="2025-02-20T05:00")
    run_timed(settings, night)
    return settings


def estimate_of(settings: Settings, night: str) -> dict[str, Any]:
    found: dict[str, Any] = NightArtifacts.find(settings, night).read(ESTIMATE)
    return found


@pytest.mark.drill
def test_estimate_from_earlier_nights_is_within_a_factor_of_two(earlier: Settings) -> None:
    """The next night is longer, and has other epochs, folds, seeds and models."""
    path = recipe_in(
        earlier.home, "least_seeds = 0", seeds="3", epochs="5", n_folds="3", test_units="1", stride="1"
    )
    night = open_night(earlier, recipe=path, within_s=math.inf)
    found = estimate_of(earlier, night)
    assert found["source"].startswith("measured in timed-")
    assert found["within_s"] is None
    assert (found["seeds"], found["shrunk_from"], found["reused"]) == (3, 0, 0)
    true_s = run_timed(earlier, night, is_trained=False)
    folder = NightArtifacts.find(earlier, night)
    assert len(folder.read("folds.json")["folds"]) == 3
    assert true_s / 2 < found["seconds"] < 2 * true_s
    assert set(found["steps"]) == {
        "build_panel",
        "plan_folds",
        "leak_suite",
        *(f"train_fold-{fold:02d}" for fold in range(3)),
        "judge_night",
    }
    shutil.rmtree(folder.path)


def test_fits_that_an_earlier_night_trained_cost_nothing(earlier: Settings) -> None:
    """The tests of the earlier night tile the calendar, so the longer range adds folds and moves none."""
    path = recipe_in(earlier.home, n_folds="9")
    night = open_night(earlier, recipe=path, within_s=math.inf)
    found = estimate_of(earlier, night)
    assert found["reused"] == 2
    folder = NightArtifacts.find(earlier, night)
    first, second = (found["steps"][f"train_fold-{fold:02d}"] for fold in (0, 1))
    cells = STEPS * 2
    assert first == pytest.approx(CELL_S["fold"] * cells)
    assert second > 3 * first
    shutil.rmtree(folder.path)


def test_processes_share_the_fits_but_no_job_becomes_shorter(tmp_path: Path) -> None:
    recipe = get_recipe(recipe_in(tmp_path, challengers='["mlp", "lstm"]', seeds="1"))
    panel = panel_of(np.exp(LOG_PRICE))
    paces = StepPaces(dict.fromkeys(recipe.models, 0.0) | {"mlp": 1.0, "lstm": 1.0}, {"build_panel": 1.0}, "")

    def trained_s(workers: int) -> float:
        found = estimate_night(recipe, panel, paces, grace_ns=2 * 10**9, within_s=math.inf, workers=workers)
        assert found.workers == workers
        assert found.steps["build_panel"] == panel.n_steps * panel.n_instruments
        return sum(seconds for name, seconds in found.steps.items() if name.startswith("train_fold"))

    folds = recipe.folds.n_folds
    assert trained_s(2) == pytest.approx(trained_s(1) / 2)
    # Two equal jobs a fold: more processes than jobs gain nothing.
    assert trained_s(100) == pytest.approx(trained_s(1000))
    assert trained_s(1) / (2 * folds) <= trained_s(100) < trained_s(1) / (2 * folds) * 1.5


def test_pace_of_a_fold_counts_the_work_of_its_jobs_and_not_the_time_by_the_clock(earlier: Settings) -> None:
    (night,) = NightArtifacts.ids(earlier)
    folder = NightArtifacts.find(earlier, night)
    name = "timings/train_fold-00.json"
    alone, timing = paces_of([folder]), folder.read(name)
    folder.write(name, {"seconds": timing["seconds"] / 2, "busy_s": timing["seconds"]})
    assert paces_of([folder]) == alone
    folder.write(name, timing)


class WorkClock:
    """A clock that work moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def fit(self, model: str, rows: int) -> None:
        self.now_s += FIXED_S / 10 + COST_S[model] * rows

    def build(self, panel: Any) -> None:
        self.now_s += 0.5 + 1e-4 * panel.n_steps * panel.n_instruments


@pytest.mark.parametrize(("epochs", "seeds", "stride"), [(2, 1, 1), (20, 3, 4)])
def test_estimate_from_a_few_steps_is_within_a_factor_of_two(
    tmp_path: Path, epochs: int, seeds: int, stride: int
) -> None:
    changes = {"epochs": str(epochs), "seeds": str(seeds), "stride": str(stride)}
    recipe = get_recipe(recipe_in(tmp_path, challengers='["mlp", "lstm"]', **changes))
    panel, clock = panel_of(np.exp(LOG_PRICE)), WorkClock()
    paces = measured_paces(recipe, panel, clock=clock, step=clock.fit, build=clock.build)
    found = estimate_night(recipe, panel, paces, grace_ns=2 * 10**9, within_s=math.inf)
    assert found.source == "measured by a few steps of each model"
    # The bars of the newest fold, from the first label at 21:51 on: it is validated from 04:00 and tested from 06:00.
    rows = {"train": 369, "valid": 120, "test": 120}
    counted = {name: 2 * count // (1 if name == "test" else stride) for name, count in rows.items()}
    true_s = sum(true_fit_s(model, counted, recipe) for model, _ in recipe.model_seeds)
    assert true_s / 2 < found.steps["train_fold-00"] < 2 * true_s
    # What a build costs whatever its bars is paid once a build, and not for each bar of a longer panel.
    cells = panel.n_steps * panel.n_instruments
    assert found.steps["plan_folds"] == pytest.approx(1e-4 * cells)
    assert found.steps["build_panel"] > 31 * 0.5
    longer = measured_paces(
        recipe, panel_of(np.tile(np.exp(LOG_PRICE), 20)), clock=clock, step=clock.fit, build=clock.build
    )
    assert longer.steps["build_panel"] < 0.2 * paces.steps["build_panel"]
    known = StepPaces({"mlp": 1.0}, {"build_panel": 7.0}, "measured in a night")
    kept = measured_paces(recipe, panel, clock=clock, step=clock.fit, build=clock.build, known=known)
    assert (kept.models["mlp"], kept.steps) == (1.0, {"build_panel": 7.0}), "measured paces fill gaps only"
    assert set(kept.models) == {"ridge", "mlp", "lstm"}


def test_measuring_takes_a_step_of_every_model_and_leaves_torch_as_it_was(tmp_path: Path) -> None:
    recipe = get_recipe(recipe_in(tmp_path, controls='["zero", "momentum", "ridge"]'))
    before = torch.random.get_rng_state()
    step = real_step(recipe, device=torch.device("cpu"), threads=1)
    for name in recipe.models:
        step(name, 64)
    assert torch.equal(torch.random.get_rng_state(), before)


def opened(settings: Settings, within_s: float, **changes: str) -> tuple[str, NightArtifacts]:
    path = recipe_in(settings.home, "least_seeds = 1", name="shrinking", seeds="4", **changes)
    night = open_night(settings, recipe=path, within_s=within_s)
    return night, NightArtifacts.find(settings, night)


def copy_timings(settings: Settings) -> None:
    """Give the recipe `shrinking` an earlier night with the timings of `timed`."""
    (night,) = [name for name in NightArtifacts.ids(settings) if name.startswith("timed-")]
    target = settings.models_dir / "nights" / night.replace("timed", "shrinking")
    shutil.copytree(settings.models_dir / "nights" / night, target)
    facts = json.loads((target / "night.json").read_bytes())
    facts["recipe"]["name"] = "shrinking"
    (target / "night.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.fixture
def shrinking(earlier: Settings, tmp_path: Path) -> Settings:
    """A copy of the home, in which a night of the recipe `shrinking` ran."""
    settings = settings_in(tmp_path / "home")
    shutil.copytree(earlier.home, settings.home)
    copy_timings(settings)
    return settings


def test_a_night_that_takes_too_long_has_fewer_seeds_and_the_same_bits(shrinking: Settings) -> None:
    night, folder = opened(shrinking, math.inf)
    full_s = estimate_of(shrinking, night)["seconds"]
    assert "shrunk_from" in folder.facts["recipe"]
    shutil.rmtree(folder.path)
    night, folder = opened(shrinking, 0.7 * full_s)
    estimate = estimate_of(shrinking, night)
    seeds = folder.recipe.seeds
    assert 1 <= seeds < 4
    assert (estimate["seeds"], estimate["shrunk_from"], folder.recipe.shrunk_from) == (seeds, 4, 4)
    assert estimate["seconds"] <= 0.7 * full_s < full_s
    # Opened again it is the same night, whatever time there is then.
    assert opened(shrinking, math.inf)[0] == opened(shrinking, full_s / 2)[0] == night
    assert estimate_of(shrinking, night) == estimate
    # A recipe with as many seeds makes another night of the same fits.
    path = recipe_in(shrinking.home, name="fewer", seeds=str(seeds))
    fewer = NightArtifacts.find(shrinking, open_night(shrinking, recipe=path))
    assert fewer.path.name.partition("-")[2] != night.partition("-")[2], "what was shrunk is in the id"
    for found in (folder, fewer):
        build_panel(shrinking, found.path.name)
        for fold in plan_folds(shrinking, found.path.name):
            train_fold(shrinking, found.path.name, fold)
            shutil.rmtree(shrinking.models_dir / "fits")  # so that the other trains anew
    verdicts = [judge_night(shrinking, found.path.name) for found in (folder, fewer)]
    assert verdicts[0]["challenger"] == verdicts[1]["challenger"]
    files = [
        {
            path.relative_to(found.path).as_posix(): path.read_bytes()
            for path in found.path.glob("fold-*/*/*.safetensors")
        }
        for found in (folder, fewer)
    ]
    assert files[0] == files[1]
    assert len(files[0]) >= 3 * (seeds + 1)
    notes = [found.read("summary.json")["notes"] for found in (folder, fewer)]
    said = f"each challenger has {seeds} of the recipe's 4 seeds, so that the night ends before the next one"
    assert said in notes[0]
    assert said not in notes[1]


def test_a_night_that_cannot_end_in_time_is_refused_with_its_longest_step(shrinking: Settings) -> None:
    with pytest.raises(SettingsError) as caught:
        opened(shrinking, 1.0)
    text = str(caught.value)
    assert "a night of recipe shrinking takes about" in text
    assert "with 1 of its 4 seeds, and the next one starts after 1 s" in text
    assert "its longest step is" in text
    assert "measured in shrinking-" in text
    assert "tickwalk nightly --within 0" in text
    assert len(NightArtifacts.ids(shrinking)) == 2, "nothing was opened"
    fixed = recipe_in(shrinking.home, name="shrinking", seeds="4")
    with pytest.raises(SettingsError, match=r"takes about [^,]*, and the next one .*set least_seeds"):
        open_night(shrinking, recipe=fixed, within_s=1.0)


def test_paces_of_another_computer_do_not_count(earlier: Settings) -> None:
    (night,) = [name for name in NightArtifacts.ids(earlier) if name.startswith("timed-")]
    facts = NightArtifacts.find(earlier, night).facts
    assert [folder.path.name for folder in earlier_nights(earlier, "timed", facts)] == [night]
    assert earlier_nights(earlier, "timed", facts | {"threads": 2}) == []
    assert earlier_nights(earlier, "other", facts) == []
    found = earlier_nights(earlier, "timed", facts)
    paces = paces_of(found)
    assert set(paces.models) == {"ridge", "mlp"}
    # Nor does a night whose recipe this home cannot read any more, such as one with a removed model of the project.
    lost = found[0].path.with_name("timed-lost")
    lost.mkdir()
    plain = facts["recipe"] | {"challengers": ["removed"]}
    (lost / "night.json").write_text(json.dumps(facts | {"recipe": plain}), encoding="utf-8")
    assert [folder.path.name for folder in earlier_nights(earlier, "timed", facts)] == [night]
    shutil.rmtree(lost)
    assert paces.steps["build_panel"] == pytest.approx(CELL_S["build_panel"])
    folder = found[0]
    panel = folder.read_data().panel
    own = reused_fits(found, folder.recipe, panel, facts)
    assert {member for member, _ in own} == {"ridge", "mlp"}
    # Other seeds, features, rows of one epoch, or instruments make other fits.
    assert reused_fits(found, folder.recipe, panel, facts | {"seed": 8}) == frozenset()
    assert reused_fits(found, replace(folder.recipe, stride=1), panel, facts) == frozenset()
    assert reused_fits(found, folder.recipe, panel.select([0]), facts) == frozenset()


def test_remaining_time_follows_the_pace_so_far() -> None:
    steps = {"build_panel": 100.0, "train_fold-00": 200.0, "train_fold-01": 200.0, "judge_night": 50.0}
    estimate = {"steps": steps, "seconds": 550.0}
    assert remaining_time(estimate, {}, ["build_panel"], 0.0) == 550.0
    assert remaining_time(estimate, {}, ["build_panel"], 40.0) == 510.0
    # The first step took twice as long as was estimated, so the others will.
    assert remaining_time(estimate, {"build_panel": 200.0}, ["train_fold-00"], 100.0) == 300.0 + 500.0
    # A step that takes longer than estimated has nothing left.
    assert remaining_time(estimate, {}, ["judge_night"], 80.0) == 500.0


def test_seeds_fall_one_by_one_to_the_fewest_allowed(tmp_path: Path, earlier: Settings) -> None:
    (night,) = [name for name in NightArtifacts.ids(earlier) if name.startswith("timed-")]
    folder = NightArtifacts.find(earlier, night)
    panel = folder.read_data().panel
    recipe = replace(folder.recipe, seeds=4, least_seeds=2)
    seconds = []
    for within_s in (math.inf, 1e9, 1e8):
        chosen, estimate = keep_within(earlier, recipe, panel, folder.facts, within_s=within_s)
        assert estimate is not None
        seconds.append(estimate.seconds)
        assert chosen == recipe
    chosen, estimate = keep_within(earlier, recipe, panel, folder.facts, within_s=seconds[0] - 1e-6)
    assert estimate is not None
    assert (chosen.seeds, chosen.shrunk_from, chosen.least_seeds) == (3, 4, 2)
    chosen, estimate = keep_within(earlier, recipe, panel, folder.facts, within_s=estimate.seconds - 1e-6)
    assert estimate is not None
    assert chosen.seeds == 2
    with pytest.raises(SettingsError, match="with 2 of its 4 seeds"):
        keep_within(earlier, recipe, panel, folder.facts, within_s=estimate.seconds - 1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("least_seeds = 3", "least_seeds is 3, shrunk_from 0, and seeds 1"),
        ("shrunk_from = 1", "shrunk_from is set by a night that was shrunk"),
    ],
)
def test_wrong_keys_of_the_budget_are_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        get_recipe(recipe_in(tmp_path, more))


def test_times_are_said_in_two_units(tmp_path: Path) -> None:
    said: Callable[[float], str] = describe_time
    assert [said(seconds) for seconds in (0.2, 59.6, 3_600, 5_400, 90_000)] == [
        "0 s",
        "1 min",
        "1 h",
        "1 h 30 min",
        "1 d 1 h",
    ]
