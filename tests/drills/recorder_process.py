"""A recorder in a process that may be killed, forked from one with all imports loaded.

Recorders are forked from a server that has imported everything, and are processes of their own in all else.
"""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import signal
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from ingest.recorder.recorder import Recorder
from storage.lake.lake import Lake
from storage.logs import configure_logs
from storage.settings import load_settings


def context() -> ForkServerContext:
    """Return what starts recorders."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.drills.recorder_process"])
    return made


def start(home: Path, values: Mapping[str, object], *, name: str | None = None) -> ForkServerProcess:
    """Start a recorder on a home with settings over the defaults; the name is its first recording's."""
    process = context().Process(target=_main, args=(home, dict(values), name), daemon=True)
    process.start()
    return process


def _main(home: Path, values: dict[str, object], name: str | None) -> None:
    faulthandler.enable()
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
