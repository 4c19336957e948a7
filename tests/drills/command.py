"""The `tickwalk` command in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer
from typing import Final

from serving import cli
from storage.lake.lake import Lake
from tests.drills.forked import context, use_one_duckdb_thread
from tests.drills.homes import fresh
from tests.paths import ROOT

_LONGEST_S: Final = 180.0
"""What runs on for longer hangs."""


class Command:
    """A running command in a forked process, with as much of `subprocess.Popen` as drills need."""

    def __init__(self, arguments: list[str]) -> None:
        """Start `tickwalk` with these arguments."""
        reader, writer = context().Pipe(duplex=False)
        self._process = context().Process(target=_main, args=(arguments, writer), daemon=True)
        self._process.start()
        writer.close()
        with reader:
            self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        """What it says on standard output and standard error."""

    @property
    def returncode(self) -> int | None:
        """Return the exit code; None while the command runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> None:
        """Wait until the command has ended, or kill it where it hangs."""
        self._process.join(_LONGEST_S)
        if self.returncode is None:
            self._process.kill()
            raise AssertionError(f"the command did not end within {_LONGEST_S:g} s")

    def communicate(self) -> str:
        """Wait until the command has ended; return what it said that was not read yet."""
        hanging = Timer(_LONGEST_S, self._process.kill)
        hanging.start()
        with self.stdout:
            said = self.stdout.read()
        hanging.cancel()
        self.wait()
        return said


def tickwalk(home: Path, values: Mapping[str, object], *arguments: str) -> Command:
    """Start a command on a home with settings over the defaults; what it says is read from `stdout`."""
    chosen = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    if not (settings := fresh(home)).lake_dir.exists():
        Lake.open(settings).close()  # a new lake costs the tests less than it costs another process
    return Command(["--home", str(home), "--log-level", "info", *chosen, *arguments])


def until_said(process: Command, *words: str) -> str:
    """Read a process's lines until one holds all of the words; return what it said up to there."""
    said = []
    for line in process.stdout:
        said.append(line)
        if all(word in line for word in words):
            return "".join(said)
    raise AssertionError(f"nothing said {words} in:\n{''.join(said)}")


def _main(arguments: list[str], writer: Connection) -> None:
    with writer:
        for standard in (1, 2):
            os.dup2(writer.fileno(), standard)
    # What the server was started with may be closed by now.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2))
    os.environ["COLUMNS"] = "300"
    os.chdir(ROOT)
    use_one_duckdb_thread()
    cli.main(arguments)
