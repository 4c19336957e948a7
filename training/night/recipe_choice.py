"""Recipes that fit the data of a lake, and the choice of one for a night.

A recipe fits where the lake has bars of its width, origins, venues and instruments, every column that its features
read, and a range that is long enough for one fold. Bars count as in a night: those that were known in time, and that
no sealed holdout keeps from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from features.panel.asof_join import BOOK_COLUMNS, JOINED, PAID_COLUMNS, RELAY_COLUMNS
from features.panel.panel import COLUMNS, open_bounds_us
from features.sets import columns_of, get_set
from storage.clock import DAY_NS, US_NS, iso, width_ns
from storage.contracts.contract import ORIGINS
from storage.errors import HoldoutError, ProjectError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.lake.point_in_time import is_known
from storage.settings import Settings
from training.data.folds import Fold, walk_forward_folds
from training.data.labels import delay_bars
from training.night.readable_range import enforce_holdouts
from training.recipe import Recipe, get_recipe, recipe_names

NEVER_CHOSEN: Final = frozenset({"demo"})
"""Recipes that a night uses only where they are named: `demo` is made for the simulated market."""

_JOINED_TABLES: Final = {"books": BOOK_COLUMNS, "funding": PAID_COLUMNS, "lags": RELAY_COLUMNS}


@dataclass(frozen=True, slots=True)
class RecipeFit:
    """How a recipe fits a lake.

    Args:
        recipe: its name, or the path of its file.
        width: of its bars.
        instruments: ids with bars that it accepts.
        rows: of such bars.
        since_ns, until_ns: first open and last close of these; `None` where there are none.
        folds: number of folds that the range has.
        missing: what it lacks, in words; empty: it fits.
    """

    recipe: str
    width: str
    instruments: tuple[str, ...]
    rows: int
    since_ns: int | None
    until_ns: int | None
    folds: int
    missing: tuple[str, ...]

    @property
    def is_fitting(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def venues(self) -> tuple[str, ...]:
        """Venues of the instruments."""
        return tuple(sorted({name.partition("|")[0] for name in self.instruments}))

    @property
    def days(self) -> float:
        """Length of the range in days."""
        if self.since_ns is None or self.until_ns is None:
            return 0.0
        return (self.until_ns - self.since_ns) / DAY_NS

    @property
    def found(self) -> str:
        """What data there is for the recipe, in words."""
        if self.since_ns is None or self.until_ns is None:
            return "there is none"
        return (
            f"{self.width} bars of {len(self.instruments)} instruments at {', '.join(self.venues)} over "
            f"{self.days:.1f} days from {iso(self.since_ns)}, {self.folds} folds"
        )

    @property
    def summary(self) -> str:
        """Whether it fits, or what is missing, and the data, in words."""
        if self.is_fitting:
            return f"{self.recipe} fits: {self.found}"
        return f"{self.recipe} lacks {'; '.join(self.missing)} ({self.found})"


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """The recipe of a night, and why it was chosen."""

    recipe: str
    reason: str


def choose_recipe(
    settings: Settings,
    lake: Lake,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    at: int | None = None,
) -> RecipeChoice:
    """Return the recipe that setting `training.recipe` names, or else the only one that fits the lake.

    Args:
        settings: the home.
        lake: its tables.
        since_ns, until_ns: bounds of the bars' open (default: all bars).
        at: snapshot of the lake (default: the newest).

    Raises:
        SettingsError: none fits, or several do; the message says of each what is missing or what data it has.
        HoldoutError: the bounds reach into a sealed holdout.
    """
    if settings.training.recipe:
        return RecipeChoice(settings.training.recipe, "setting training.recipe names it")
    fits = check_recipes(
        settings,
        lake,
        (name for name in recipe_names() if name not in NEVER_CHOSEN),
        since_ns=since_ns,
        until_ns=until_ns,
        at=at,
    )
    fitting = [fit for fit in fits if fit.is_fitting]
    if len(fitting) == 1:
        return RecipeChoice(
            fitting[0].recipe, f"of {len(fits)} recipes only this one fits the lake: {fitting[0].found}"
        )
    every = "\n".join(f"  {fit.summary}" for fit in (*fitting, *(fit for fit in fits if fit.missing)))
    if fitting:
        names = ", ".join(fit.recipe for fit in fitting)
        raise SettingsError(
            f"{len(fitting)} recipes fit the lake, {names}, and none was chosen:\n{every}",
            hint=f"choose one: tickwalk nightly --recipe {fitting[0].recipe}, or set training.recipe",
        )
    nearest = max(fits, key=lambda fit: (fit.since_ns is not None, -len(fit.missing), fit.days))
    raise SettingsError(
        f"no recipe fits the lake:\n{every}",
        hint=f"the nearest is {nearest.recipe}: record or import what it lacks, or write a recipe for your data",
    )


def check_recipes(
    settings: Settings,
    lake: Lake,
    names: Iterable[str],
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    at: int | None = None,
) -> list[RecipeFit]:
    """Return how each recipe fits a lake; one that cannot be read says so. For the arguments see `choose_recipe`."""
    return [_check_named(name, settings, lake, since_ns=since_ns, until_ns=until_ns, at=at) for name in names]


def _check_named(
    name: str,
    settings: Settings,
    lake: Lake,
    *,
    since_ns: int | None,
    until_ns: int | None,
    at: int | None,
) -> RecipeFit:
    try:
        recipe = get_recipe(name)
    except (SettingsError, ProjectError) as error:
        return RecipeFit(name, "", (), 0, None, None, 0, (f"a valid file: {error.message}",))
    grace_ns = settings.bars.grace_ns
    try:
        readable = enforce_holdouts(
            lake, recipe, since_ns=since_ns, until_ns=until_ns, grace_ns=grace_ns, at=at
        )
    except HoldoutError as error:
        if since_ns is not None or until_ns is not None:
            raise
        return RecipeFit(name, recipe.width, (), 0, None, None, 0, (f"bars to read: {error.message}",))
    found = _count_bars(recipe, settings, lake, since_ns=readable.since_ns, until_ns=readable.until_ns, at=at)
    names = tuple(item for item in found["instruments"] if recipe.accepts(item))
    first_ns, last_ns = found["first_ns"], found["last_ns"]
    if not names:
        return RecipeFit(name, recipe.width, (), 0, None, None, 0, (_asked(recipe),))
    missing = list(_missing_columns(recipe, found, lake, names, at=at))
    folds: list[Fold] = []
    try:
        folds = forecast_folds(first_ns, last_ns, recipe, grace_ns=settings.bars.grace_ns)
    except RangeError as error:
        missing.append(f"history: {error.message}")
    return RecipeFit(name, recipe.width, names, found["rows"], first_ns, last_ns, len(folds), tuple(missing))


def forecast_folds(since_ns: int, until_ns: int, recipe: Recipe, *, grace_ns: int) -> list[Fold]:
    """Return the folds of a range, if every bar of it has a price: a night has these, or fewer.

    Args:
        since_ns, until_ns: open of the first bar, and close of the last.
        recipe: the labels and the folds.
        grace_ns: from a bar's close to the decision.

    Raises:
        RangeError: the range is too short for a fold.
    """
    bar_ns, label = width_ns(recipe.width), recipe.label
    leave = delay_bars(bar_ns, grace_ns=grace_ns, delay_ms=label.delay_ms) + label.horizon_bars
    # The first label needs half of the returns of its volatility.
    start_ns = since_ns + (1 + -(-label.volatility_bars // 2)) * bar_ns
    stop_ns = until_ns - (leave - 1) * bar_ns
    return walk_forward_folds(start_ns, stop_ns, width_ns=bar_ns, geometry=recipe.folds)


def _count_bars(
    recipe: Recipe,
    settings: Settings,
    lake: Lake,
    *,
    since_ns: int | None,
    until_ns: int | None,
    at: int | None,
) -> dict[str, Any]:
    """Return instruments, rows, bounds, and the number of values in each column that the features read."""
    columns = sorted(columns_of(get_set(recipe.feature_set)) & set(COLUMNS) - set(JOINED))
    counts = "".join(f", count({name}) AS n_{name}" for name in (*columns, "close", "bid"))
    accepted = list(recipe.instruments)
    (found,) = lake.query(
        f"SELECT list(DISTINCT instrument ORDER BY instrument) AS instruments, count(*) AS rows, "
        f"epoch_us(min(ts_open)) * {US_NS} AS first_ns, epoch_us(max(ts_close)) * {US_NS} AS last_ns{counts} "
        f"FROM bars WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?) "
        f"AND {is_known('served')} AND list_contains(?, origin) AND (? OR list_contains(?, instrument)) "
        f"AND (? OR list_contains(?, split_part(instrument, '|', 1)))",
        (
            recipe.width,
            *open_bounds_us(since_ns, until_ns),
            settings.bars.grace_ns,
            list(recipe.origins),
            not accepted,
            accepted,
            not recipe.venues,
            list(recipe.venues),
        ),
        at=at,
    ).to_pylist()
    counted: dict[str, Any] = found | {"instruments": found["instruments"] or []}
    return counted


def _asked(recipe: Recipe) -> str:
    """Return the bars that a recipe asks for, in words."""
    of_venues = f" of {' or '.join(recipe.venues)}" if recipe.venues else ""
    origin = "" if set(recipe.origins) == set(ORIGINS) else f" from {' or '.join(recipe.origins)}"
    return f"{recipe.width} bars{of_venues}{origin}"


def _missing_columns(
    recipe: Recipe, found: Mapping[str, Any], lake: Lake, instruments: tuple[str, ...], *, at: int | None
) -> Iterator[str]:
    wanted = columns_of(get_set(recipe.feature_set))
    if absent := sorted(name for name in wanted - set(JOINED) if not found[f"n_{name}"]):
        yield f"columns that its features read: {', '.join(absent)}"
    elif not found["n_close"] and not found["n_bid"]:
        yield "prices: no bar has a print or a quote"
    for table, columns in _JOINED_TABLES.items():
        if wanted & set(columns) and not _has_rows(lake, table, instruments, at=at):
            yield f"rows of {table} for its features {', '.join(_reading(recipe, columns))}"


def _reading(recipe: Recipe, columns: tuple[str, ...]) -> list[str]:
    return [item.name for item in get_set(recipe.feature_set) if columns_of([item]) & set(columns)]


def _has_rows(lake: Lake, table: str, instruments: tuple[str, ...], *, at: int | None) -> bool:
    where = "" if table == "lags" else "WHERE list_contains(?, instrument)"
    params = () if table == "lags" else (list(instruments),)
    return bool(lake.query(f"SELECT 1 FROM {table} {where} LIMIT 1", params, at=at).num_rows)
