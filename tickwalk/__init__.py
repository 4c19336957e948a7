"""The public Python interface: `tickwalk.open(home)` reads a home, also beside a running recorder.

    import tickwalk

    with tickwalk.open("var") as home:
        bars = home.bars("BTC", "1m", since="2026-01-31").pl()

Importing this package loads neither torch nor pyarrow, DuckDB or pandera; they are loaded when a method needs them.
Guide with an example of every method: docs/python.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import TickwalkError

if TYPE_CHECKING:
    from tickwalk.home import HomeReader
    from tickwalk.result import QueryResult
    from tickwalk.trials import record_trial
    from training.night.night_list import NightDetails

    __version__: str

__all__ = [
    "HomeReader",
    "NightDetails",
    "QueryResult",
    "TickwalkError",
    "__version__",
    "open",
    "record_trial",
]

_LAZY = {
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
