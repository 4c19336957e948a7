"""Features of a day: brings the home's feature store up to the lake, and tells whether the day is the newest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from features.store.day_files import day_name
from features.store.manifest import StoreKey
from features.store.store import update
from features.versioning.set_diff import EDITION
from serving.day_jobs.days import clock_of, day_of_run, parse_day_ns
from serving.feature_jobs.selection import write_edition
from serving.schedule import is_followed_by_night
from storage.clock import DAY_NS, US_NS, TimeSource, floor_ns
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.night.pinned_inputs import chosen_instruments
from training.night.recipe_choice import choose_recipe
from training.recipe import get_recipe

logger = get_logger(__name__)

BACKFILL: Final = "backfill_history"
"""The DAG whose days start a night only if they are yesterday's."""
_LAST: Final = """
    SELECT coalesce(epoch_us(max(ts_close)), 0) AS close_us,
           count(*) FILTER (ts_open >= make_timestamptz($2) AND ts_open < make_timestamptz($3)) AS bars
    FROM bars WHERE width = $1
"""


def build_day_features(
    settings: Settings, day: str, *, is_backfilled: bool = False, clock: TimeSource | None = None
) -> dict[str, Any]:
    """Build the features of each day whose bars changed, with those of the recipe that nights train; return counts.

    A night reads the same files. Days are built in order, so the first of several runs builds the days of all.

    Args:
        settings: the home, and the recipe.
        day: its name; `is_built` of the result says whether the store has it.
        is_backfilled: a backfill brought the bars, see `why_no_night`.
        clock: the present (default: see `clock_of`).

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
    reason = why_no_night(settings, day, is_backfilled=is_backfilled, clock=clock)
    return about | counts | {"why_no_night": reason}


def build_features_of_run(
    settings: Settings, params: Mapping[str, Any], partition_key: str | None, sources: Collection[str]
) -> dict[str, Any]:
    """Build the features of a run's day, see `build_day_features` and `day_of_run`.

    Args:
        settings: the home.
        params, partition_key: of the run.
        sources: the DAGs whose `bars` started it; none for a run by hand.
    """
    is_backfilled = set(sources) == {BACKFILL}
    return build_day_features(settings, day_of_run(partition_key, params), is_backfilled=is_backfilled)


def why_no_night(
    settings: Settings, day: str, *, is_backfilled: bool = False, clock: TimeSource | None = None
) -> str:
    """Return why no night follows a day; an empty text if one does.

    Only the newest day has one: the last that is complete in the lake. That is decided by the bars and not by a clock,
    so sealing a recorded month trains once and not thirty times, whatever the order of its days. A backfill may bring
    its days one after the other into an empty lake, where each is the newest for a while: of those only yesterday
    counts.
    """
    day_ns = parse_day_ns(day)
    with Lake.open(settings, read_only=True) as lake:
        bounds = [settings.bars.width, day_ns // US_NS, (day_ns + DAY_NS) // US_NS]
        found = lake.query(_LAST, bounds).to_pylist()[0]
    if not found["bars"]:
        return f"the lake has no bar of {day}, so a night would find nothing new"
    newest_ns = floor_ns(int(found["close_us"]) * US_NS, DAY_NS) - DAY_NS
    if day_ns < newest_ns:
        return f"{day} is not the newest day: the bars of {day_name(newest_ns)} are complete"
    now_ns = (clock or clock_of(settings)).now_ns()
    if is_backfilled and day_ns + DAY_NS < floor_ns(now_ns, DAY_NS):
        return f"{day} was backfilled, and is not yesterday: a backfill ends at features"
    if not is_followed_by_night(settings.airflow.nightly, day):
        return f"no night follows {day} by the schedule airflow.nightly = {settings.airflow.nightly!r}"
    return ""
