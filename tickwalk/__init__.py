"""The public Python interface: `tickwalk.open(home)` reads a home, also beside a running recorder.

    import tickwalk

    with tickwalk.open("var") as home:
        bars = home.bars("BTC", "1m", since="2026-01-31").pl()

`tickwalk.judge` judges predictions that were made elsewhere, and writes its result into the home.

Importing this package loads neither torch nor pyarrow, DuckDB or pandera; they are loaded when a method needs them.
Guide with an example of every method: docs/python.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import TickwalkError

if TYPE_CHECKING:
    from features.frame_features import FrameFeatures
    from tickwalk.home import HomeReader
    from tickwalk.instants import Instant
    from tickwalk.result import QueryResult
    from tickwalk.trials import record_trial
    from training.night.night_list import NightDetails

    __version__: str

__all__ = [
    "FrameFeatures",
    "HomeReader",
    "NightDetails",
    "QueryResult",
    "TickwalkError",
    "__version__",
    "features",
    "judge",
    "open",
    "record_trial",
]

_LAZY = {
    "FrameFeatures": "features.frame_features",
    "HomeReader": "tickwalk.home",
    "NightDetails": "training.night.night_list",
    "QueryResult": "tickwalk.result",
    "record_trial": "tickwalk.trials",
}


def open(home: str | Path | None = None, *, config: str | Path | None = None) -> HomeReader:  # noqa: A001
    """Open a home for reading.

    Settings are those of the command: `tickwalk.toml`, then `TICKWALK_*` variables, then the arguments here.

    Args:
        home: the folder that a recorder, an import or a night wrote (default: setting `home`, `./var`).
        config: a settings file (default: `TICKWALK_CONFIG`, or `./tickwalk.toml` where it exists).

    Raises:
        TickwalkError: there is no home or no lake, a newer release wrote it, or a setting is wrong.
    """
    from tickwalk.home import HomeReader

    return HomeReader.open(home, config=config)


def judge(
    predictions: str | Path | Any,
    *,
    recipe: str,
    name: str | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    at: int | None = None,
    home: str | Path | None = None,
    config: str | Path | None = None,
) -> NightDetails:
    """Judge predictions that were made elsewhere by a recipe's folds, costs, leak checks and gate.

    It does what `tickwalk judge` does: it trains the recipe's controls, and writes evidence and a report. Judging equal
    predictions on equal rows again changes nothing. docs/outside-models.md has the columns.

    Args:
        predictions: path of a Parquet or CSV file, or a table of pyarrow, polars, DuckDB or pandas.
        recipe: name of a recipe, or path of a TOML file.
        name: of the predictions; all of one name are one lineage (default: that of the file).
        since, until: bounds of the bars' open, right-open (default: all).
        at: number of the snapshot to read (default: the newest).
        home, config: as in `open`.

    Raises:
        TickwalkError: the predictions, the recipe or the range cannot be used; the message names the value.
    """
    from tickwalk.judgement import judge_in

    return judge_in(
        predictions, recipe=recipe, name=name, since=since, until=until, at=at, home=home, config=config
    )


def features(feature_set: str, *, width: str | None = None) -> FrameFeatures:
    """Return a feature set as a function from a frame of bars to a frame of features.

        features_of = tickwalk.features("candles")
        values = features_of(bars)  # a pandas or polars DataFrame, or a pyarrow Table

    Args:
        feature_set: name of a set, such as `candles`; `tickwalk features list` lists them.
        width: bar width (default: the frame's column `width`, or else the least time between two bars).

    Raises:
        TickwalkError: there is no such set or width.
    """
    from features.frame_features import FrameFeatures

    return FrameFeatures(feature_set, width=width)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tickwalk")
        except PackageNotFoundError:  # a checkout that was not installed
            return "0"
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tickwalk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
