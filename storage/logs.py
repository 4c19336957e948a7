"""Structured logging to standard error.

Each line is one change of state: a short constant event with fields. Lines are text, or JSON with
`TICKWALK_LOG=json`.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

import structlog

from storage.errors import SettingsError

LEVELS: Final = ("debug", "info", "warning", "error")
_shown: list[str] = ["info"]


def configure_logs(*, level: str = "info", json: bool | None = None) -> None:
    """Set up logging, once per process (in the command line, a daemon or a test).

    Args:
        level: the least level shown: `debug`, `info`, `warning` or `error`.
        json: write one JSON object per line (default: by `TICKWALK_LOG`, `text` or `json`).
    """
    if level not in LEVELS:
        raise SettingsError(f"log level {level!r} does not exist", hint=f"use one of: {', '.join(LEVELS)}")
    _shown[0] = level
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


def shown_level() -> str:
    """Return the least level that this process shows, for processes that it starts."""
    return _shown[0]


def get_logger(name: str) -> Any:
    """Return the logger of a module; `name` becomes the field `module`."""
    return structlog.get_logger(module=name)
