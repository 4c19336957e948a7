"""Features of a day: brings the home's feature store up to the lake, and tells whether the day is the newest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from features.store.day_files import day_name
from features.store.manifest import StoreKey
from features.store.store import update
from features.versioning.set_diff import EDITION
from serving.day_jobs.days import day_of_run, parse_day_ns
from serving.feature_jobs.selection import write_edition
from serving.schedule import is_followed_by_night
from storage.clock import DAY_NS, US_NS, floor_ns
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.night.pinned_inputs import chosen_instruments
from training.night.recipe_choice import choose_recipe
from training.recipe import get_recipe

logger = get_logger(__name__)

_LAST: Final = "SELECT coalesce(epoch_us(max(ts_close)), 0) AS close_us FROM bars WHERE width = ?"


def build_day_features(settings: Settings, day: str) -> dict[str, Any]:
    """Build the features of each day whose bars changed, with those of the recipe that nights train; return counts.

    A night reads the same files. Days are built in order, so the first of several runs builds the days of all.

    Args:
        settings: the home, and the recipe.
        day: its name; `is_built` of the result says whether the store has it.

    Raises:
        SettingsError: no recipe was chosen, and not exactly one fits the lake.
        RangeError: the lake has no bar for the recipe.
    """
    parse_day_ns(day)
    with Lake.open(settings, read_only=True) as lake:
        at = lake.snapshot()
        recipe = get_recipe(choose_recipe(settings, lake, at=at).recipe)
        grace_ns = settings.bars.grace_ns
        names = chosen_instruments(lake, recipe, since_ns=None, until_ns=None, at=at, grace_ns=grace_ns)
        key = StoreKey(
            recipe.feature_set,
            recipe.width,
            grace_ns,
            origins=tuple(recipe.origins),
            instruments=None if names is None else tuple(names),
        )
        done = update(settings.features_dir, lake, key, at=at)
    write_edition(done.folder / EDITION, recipe.feature_set)
    days = [day_name(open_ns) for open_ns in range(done.since_ns, done.until_ns, DAY_NS)]
    counts = {"built": len(done.built), "compared": len(done.compared), "kept": done.kept, "rows": done.rows}
    about = {"day": day, "recipe": recipe.name, "feature_set": recipe.feature_set, "is_built": day in days}
    logger.info("features of a day built", **about, **counts)
    return about | counts | {"why_no_night": why_no_night(settings, day)}


def build_features_of_run(
    settings: Settings, params: Mapping[str, Any], partition_key: str | None
) -> dict[str, Any]:
    """Build the features of a run's day, see `build_day_features` and `day_of_run`."""
    return build_day_features(settings, day_of_run(partition_key, params))


def why_no_night(settings: Settings, day: str) -> str:
    """Return why no night follows a day; an empty text if one does.

    Only the newest day has one: the last that is complete in the lake. That is decided by the bars and not by a clock,
    so a backfill of a month, which commits its bars first, trains once and not thirty times, whatever the order in
    which its days are built.
    """
    with Lake.open(settings, read_only=True) as lake:
        close_us = int(lake.query(_LAST, [settings.bars.width])["close_us"][0].as_py())
    newest_ns = floor_ns(close_us * US_NS, DAY_NS) - DAY_NS
    if parse_day_ns(day) < newest_ns:
        return f"{day} is not the newest day: the bars of {day_name(newest_ns)} are complete"
    if not is_followed_by_night(settings.airflow.nightly, day):
        return f"no night follows {day} by the schedule airflow.nightly = {settings.airflow.nightly!r}"
    return ""
