"""A recorder in a process that may be killed, forked from one with all imports loaded.

Recorders are forked from a server that has imported everything, and are processes of their own in all else.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ingest.recorder.recorder import Recorder
from storage.lake.lake import Lake
from storage.logs import configure_logs
from storage.settings import load_settings
from tests.drills.forked import context, use_one_duckdb_thread


def start(home: Path, values: Mapping[str, object], *, name: str | None = None) -> ForkServerProcess:
    """Start a recorder on a home with settings over the defaults; the name is its first recording's."""
    process = context().Process(target=_main, args=(home, dict(values), name), daemon=True)
    process.start()
    return process


def _main(home: Path, values: dict[str, object], name: str | None) -> None:
    faulthandler.enable()
    use_one_duckdb_thread()
    configure_logs(level="error")
    asyncio.run(_record(home, values, name))


async def _record(home: Path, values: dict[str, object], name: str | None) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    settings = load_settings(overrides={"home": home, **values}, environ={})
    settings.ensure_home()
    with Lake.open(settings) as lake:
        await Recorder(settings, lake, name=name).run(stop)
