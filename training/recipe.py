"""Recipes: the data, labels, folds, models and costs of a night, in one frozen value.

A recipe has a name, or is a TOML file that names another recipe as its `base` and lists the differences:

    base = "candles"
    name = "candles-2h"
    [label]
    horizon_bars = 24
    [position]
    hold_bars = 24

Such a file in `recipes/` of the user's project folder is found by its name alone (storage/project.py).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from features.sets import get_set
from storage.clock import width_ns
from storage.contracts.contract import ORIGINS
from storage.errors import ProjectError, SettingsError
from storage.lake.point_in_time import CLOCKS, Basis
from storage.project import current_project, refuse_name
from training.data.folds import FoldGeometry
from training.data.labels import LabelRule
from training.evaluation.costs import Costs
from training.evaluation.positions import PositionRule
from training.models.controls import BASELINES
from training.models.fit_rule import FitRule
from training.models.networks import networks

_PREDICTIONS_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training configuration.

    Args:
        name: versions are registered under it; each name has one champion.
        feature_set: name of a set in `features.sets`; the data must have its inputs.
        width: bar width.
        window_bars: bars in a network's input.
        stride: train and valid rows are every `stride`-th step of the clock, since the labels of neighbours overlap;
            all test rows are used.
        seeds: fits of each challenger; the first is evaluated and deployed, and the gate tests it among all of them.
        least_seeds: fewest seeds to which a night is shrunk that would not end before the next one; 0: it is refused.
        shrunk_from: seeds that the recipe asked for, in a night that was shrunk; 0 in every other recipe.
        controls: baselines in every report; of them, ridge may serve.
        challengers: models that may serve, simplest first: each must earn more than those before it.
        origins: accepted origins of bars (default: all).
        instruments: ids; empty: every instrument with bars in the range.
        venues: accepted venues of instruments, such as `gaiaex`; empty: all.
        rows: which rows of bars teach: those that a live system had in time (`served`), or also those that the venue
            had published in time and that were repaired or backfilled later (`available`). Validation, tests, the gate
            and live scoring always use `served`.
    """

    name: str
    feature_set: str
    width: str
    window_bars: int
    label: LabelRule
    folds: FoldGeometry
    position: PositionRule
    costs: Costs
    stride: int = 1
    seeds: int = 1
    fit: FitRule = field(default_factory=FitRule)
    controls: tuple[str, ...] = ("zero", "momentum", "ridge")
    challengers: tuple[str, ...] = ("lightgbm", "mlp", "lstm")
    origins: tuple[str, ...] = ORIGINS
    instruments: tuple[str, ...] = ()
    rows: Basis = "served"
    venues: tuple[str, ...] = ()
    least_seeds: int = 0
    shrunk_from: int = 0

    def __post_init__(self) -> None:
        width_ns(self.width)
        get_set(self.feature_set)
        if not self.controls or not self.challengers:
            raise SettingsError(f"recipe {self.name} needs at least one control and one challenger")
        self._check_challengers((*BASELINES, *networks()))
        if not set(self.controls) <= set(BASELINES):
            raise SettingsError("a control must be a baseline", hint=f"use some of: {', '.join(BASELINES)}")
        if self.rows not in CLOCKS:
            raise SettingsError(
                f"recipe {self.name}: rows is {self.rows!r}", hint=f"use one of: {', '.join(CLOCKS)}"
            )
        self._check_universe()
        if min(self.window_bars, self.stride, self.seeds) < 1:
            raise SettingsError(f"recipe {self.name}: window_bars, stride and seeds start at 1")
        if not 0 <= self.least_seeds <= self.seeds or (self.shrunk_from and self.shrunk_from <= self.seeds):
            raise SettingsError(
                f"recipe {self.name}: least_seeds is {self.least_seeds}, shrunk_from {self.shrunk_from}, and seeds "
                f"{self.seeds}",
                hint="least_seeds lies in 0 .. seeds; shrunk_from is set by a night that was shrunk",
            )

    def _check_universe(self) -> None:
        for venue in self.venues:
            if not _VENUE.fullmatch(venue) or self.venues.count(venue) > 1:
                raise SettingsError(
                    f"recipe {self.name}: venues names {venue!r}",
                    hint="name each once, as the first part of an instrument's id: hyperliquid, gaiaex",
                )
        for name in self.instruments:
            if not self.accepts(name):
                raise SettingsError(
                    f"recipe {self.name}: instrument {name} is of none of its venues: {', '.join(self.venues)}",
                    hint="name its venue in venues too, or leave venues out",
                )

    def accepts(self, instrument: str) -> bool:
        """Return whether an instrument, given by its id, is of an accepted venue."""
        return not self.venues or instrument.partition("|")[0] in self.venues

    def _check_challengers(self, available: tuple[str, ...]) -> None:
        for name in self.models:
            if name not in available:
                raise SettingsError(
                    f"no model is called {name!r}",
                    hint=f"use one of: {', '.join(available)}; or run in the directory of the project that defines it",
                )
        refittable = ("lightgbm", *available[len(BASELINES) :])
        if not set(self.challengers) <= set(refittable):
            raise SettingsError(
                "a challenger must be a model that can be refitted", hint=f"use {', '.join(refittable)}"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """Controls, then challengers."""
        return (*self.controls, *self.challengers)

    @property
    def model_seeds(self) -> tuple[tuple[str, int], ...]:
        """All fits of a fold: model and number of its seed."""
        further = [(name, number) for number in range(1, self.seeds) for name in self.challengers]
        return (*((name, 0) for name in self.models), *further)

    @property
    def trained(self) -> tuple[tuple[str, int], ...]:
        """Those of `model_seeds` that a fold trains."""
        return self.model_seeds

    @property
    def predictions(self) -> str:
        """Name of the predictions that are judged in place of challengers; empty for a night."""
        return ""

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


_VENUE: Final = re.compile(r"[a-z0-9_-]+")
_RECORDED: Final = ("live", "venue_replay", "recent")
"""Origins of bars that the recorder made."""


@dataclass(frozen=True, slots=True)
class JudgedRecipe(Recipe):
    """A recipe whose only challenger are predictions that were made elsewhere; its controls are trained as ever.

    It takes the arguments of `Recipe`, with the name of the predictions as the challenger; see `judged_recipe`.
    """

    def _check_challengers(self, available: tuple[str, ...]) -> None:
        if self.predictions in available or not _PREDICTIONS_NAME.match(self.predictions):
            why = "is a model" if self.predictions in available else "is no name"
            raise SettingsError(
                f"predictions cannot be called {self.predictions!r}, which {why}",
                hint="use 1 to 40 letters, digits, dots, hyphens and underscores, a letter or digit first: --name",
            )

    @property
    def trained(self) -> tuple[tuple[str, int], ...]:
        """The controls."""
        return tuple((name, 0) for name in self.controls)

    @property
    def predictions(self) -> str:
        """Name of the predictions."""
        return self.challengers[0]


def judged_recipe(recipe: Recipe, predictions: str) -> Recipe:
    """Return a recipe in which predictions of that name are judged in place of the challengers.

    Raises:
        SettingsError: predictions cannot have that name.
    """
    plain = recipe.to_plain() | {"challengers": [predictions], "seeds": 1}
    return recipe_from_plain(plain, is_judged=True)


RECIPES: Final[dict[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="demo",
            feature_set="live",
            width="1m",
            window_bars=16,
            label=LabelRule(horizon_bars=5, volatility_bars=60),
            folds=FoldGeometry(
                n_folds=4, embargo_bars=16, unit="hour", test_units=6, valid_units=6, train_units=8
            ),
            position=PositionRule(threshold=1.0, hold_bars=5),
            # The simulated market is small: a larger capital would pay more for its own impact than it can earn.
            costs=Costs(half_spread_bps=1.0, capital_usd=10_000.0),
            seeds=2,
            fit=FitRule(epochs=10, batch=256),
        ),
        Recipe(
            name="candles",
            feature_set="candles",
            width="5m",
            window_bars=24,
            label=LabelRule(horizon_bars=12, volatility_bars=288),
            folds=FoldGeometry(
                n_folds=5, embargo_bars=36, unit="week", test_units=1, valid_units=1, train_units=2
            ),
            position=PositionRule(threshold=1.0, hold_bars=12),
            costs=Costs(half_spread_bps=1.0),
            stride=3,
            seeds=2,
            least_seeds=1,
            fit=FitRule(epochs=8, batch=512),
        ),
        Recipe(
            name="hyperliquid-1m",
            feature_set="recorded",
            width="1m",
            window_bars=32,
            label=LabelRule(horizon_bars=15, volatility_bars=240),
            folds=FoldGeometry(
                n_folds=5, embargo_bars=60, unit="day", test_units=1, valid_units=1, train_units=2
            ),
            position=PositionRule(threshold=1.0, hold_bars=15),
            costs=Costs(half_spread_bps=1.0),
            stride=5,
            seeds=2,
            least_seeds=1,
            fit=FitRule(epochs=8, batch=512),
            origins=_RECORDED,
            venues=("hyperliquid",),
        ),
        Recipe(
            name="gaiaex-mid",
            feature_set="mids",
            width="1m",
            window_bars=32,
            label=LabelRule(horizon_bars=15, volatility_bars=240),
            folds=FoldGeometry(
                n_folds=5, embargo_bars=60, unit="day", test_units=1, valid_units=1, train_units=2
            ),
            position=PositionRule(threshold=1.0, hold_bars=15),
            # A venue without a trade feed has no notional, and then every fill pays the impact of a whole bar's.
            costs=Costs(half_spread_bps=1.0, impact_bps=3.0),
            stride=5,
            seeds=2,
            least_seeds=1,
            fit=FitRule(epochs=8, batch=512),
            origins=_RECORDED,
            venues=("gaiaex",),
        ),
    )
}


def recipe_names() -> dict[str, str]:
    """Return every recipe that has a name, with its source: `built-in`, or the path of the project's file.

    Raises:
        ProjectError: a file of the project has the name of a built-in recipe.
    """
    found = dict.fromkeys(RECIPES, "built-in")
    project = current_project()
    for name, path in (project.recipe_paths if project else {}).items():
        refuse_name(name, kind="recipe", places=dict.fromkeys(RECIPES, "training/recipe.py"), here=str(path))
        found[name] = str(path)
    return found


def get_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or from a TOML file by its path.

    Raises:
        SettingsError: no recipe has that name, or the file is not valid.
        ProjectError: the user's project cannot be used.
    """
    return _find(name, ())


def _find(name: str, derived: tuple[str, ...]) -> Recipe:
    if name in derived:
        raise SettingsError(
            f"recipes are based on each other: {', '.join((*derived, name))}",
            hint=f"base one of them on {next(iter(RECIPES))}",
        )
    if name.endswith(".toml"):
        return _from_file(Path(name), (*derived, name))
    names = recipe_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"recipe {name!r} does not exist; there are: {', '.join(names)}",
            hint=f"use {nearest}, or a path that ends in .toml",
        )
    return RECIPES[name] if name in RECIPES else _from_file(Path(names[name]), (*derived, name), name=name)


def _from_file(path: Path, derived: tuple[str, ...], *, name: str = "") -> Recipe:
    """Read a recipe; `name` is that of a project's recipe, whose file need not repeat it."""
    try:
        overrides = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"recipe file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"recipe file {path} is not TOML: {error}") from error
    base = overrides.pop("base", None)
    if not isinstance(base, str):
        raise SettingsError(
            f"recipe file {path} names no base", hint=f'write base = "{next(iter(RECIPES))}" first'
        )
    if name and overrides.setdefault("name", name) != name:
        raise ProjectError(
            f"recipe file {path} has the name {overrides['name']!r}",
            hint=f"a project's recipe is called like its file: leave the key out, or write {name}",
        )
    parent = _find(base, derived)
    merged = _merge(parent.to_plain(), overrides, where=str(path))
    if merged["name"] == parent.name:
        raise SettingsError(f"recipe file {path} has the name of its base", hint="give it a name of its own")
    return recipe_from_plain(merged)


def _merge(plain: dict[str, Any], overrides: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    for key, value in overrides.items():
        if key not in plain:
            nearest = difflib.get_close_matches(key, plain, n=1, cutoff=0.0)[0]
            raise SettingsError(
                f"recipe key {key!r} in {where} does not exist", hint=f"the nearest is {nearest}"
            )
        plain[key] = _merge(plain[key], value, where=f"{where} [{key}]") if isinstance(value, dict) else value
    return plain


def recipe_from_plain(plain: Mapping[str, Any], *, is_judged: bool = False) -> Recipe:
    """Return the recipe from the plain values of `to_plain`.

    Args:
        plain: the values.
        is_judged: its challenger are predictions, as in `judged_recipe`.

    Raises:
        SettingsError: a value does not fit its key.
    """
    try:
        return msgspec.convert(dict(plain), JudgedRecipe if is_judged else Recipe)
    except msgspec.ValidationError as error:
        raise SettingsError(f"recipe {plain.get('name')!r} does not fit: {error}") from error
