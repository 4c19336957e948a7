"""How does tickwalk log: one structured line a change of state.

Events are short and constant, facts are fields. Lines go to standard error, as text for a terminal and as
JSON where `TICKWALK_LOG=json` or the stream is no terminal and a collector reads it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

import structlog

from storage.errors import SettingsError

LEVELS: Final = ("debug", "info", "warning", "error")


def configure_logs(*, level: str = "info", json: bool | None = None) -> None:
    """Set up logging once, at the door (the command line, a daemon, a test).

    Args:
        level: the least level shown: `debug`, `info`, `warning` or `error`.
        json: one JSON object a line; by default as `TICKWALK_LOG` says (`text` or `json`).
    """
    if level not in LEVELS:
        raise SettingsError(f"log level {level!r} does not exist", hint=f"use one of: {', '.join(LEVELS)}")
    if json is None:
        json = os.environ.get("TICKWALK_LOG", "text") == "json"
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # Looked up at each line: a test or a daemon may replace the stream.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """Return the logger of a module; `name` becomes the field `module`."""
    return structlog.get_logger(module=name)
