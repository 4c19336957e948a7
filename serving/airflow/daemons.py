"""Which of our daemons is running, and how does one start and stop so that nothing of it stays?

A daemon leads its own session, and everything that it starts stays in that session: Airflow moves tasks to process
groups of their own, but never to another session. So the session is what is stopped. A file beside the log keeps
the leader's pid with its start time, since pids are used again; the file of a process that is gone counts for nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import psutil

from storage.atomic_write import write_atomic

# Two readings of one process's start differ by a clock tick, and more after the clock was set.
_SAME_START_S: Final = 2.0
_KILL_WAIT_S: Final = 5.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class DaemonProcess:
    """A daemon that was started: its pid is also its session."""

    pid: int
    started_s: float
    """When it started, seconds since the epoch."""

    def leader(self) -> psutil.Process | None:
        """Return the process while it lives; a zombie does not, nor does another that took its pid."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started_s) <= _SAME_START_S
            return found if same and _lives(found) else None
        except psutil.NoSuchProcess:
            return None

    def session(self) -> list[psutil.Process]:
        """Return every living process of its session, with or without the leader."""
        found = []
        for candidate in psutil.process_iter():
            try:
                # A session's number is not given out while a member lives, but may be once all are gone.
                is_member = os.getsid(candidate.pid) == self.pid
                if (
                    is_member
                    and candidate.create_time() >= self.started_s - _SAME_START_S
                    and _lives(candidate)
                ):
                    found.append(candidate)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        return found


class DaemonFolder:
    """The folder with each daemon's log and pid file.

    Args:
        path: need not exist before `make`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the folder, for its owner only."""
        self.path.mkdir(exist_ok=True, mode=0o700)

    def log(self, name: str) -> Path:
        """Return where the daemon's output goes; the run before lies beside it as `.log.1`."""
        return self.path / f"{name}.log"

    def tail(self, name: str, *, lines: int = 15) -> str:
        """Return the end of the daemon's log."""
        try:
            return "\n".join(
                self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            )
        except FileNotFoundError:
            return "(no log)"

    def find(self, name: str) -> DaemonProcess | None:
        """Return the daemon's process as its pid file tells it, dead or alive."""
        try:
            kept = json.loads(self._pid_file(name).read_text(encoding="utf-8"))
            return DaemonProcess(pid=int(kept["pid"]), started_s=float(kept["started_s"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def is_running(self, name: str) -> bool:
        """Does the daemon's own process live?"""
        process = self.find(name)
        return process is not None and process.leader() is not None

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str], *, timeout_s: float) -> int:
        """Run a program to its end, with its output in the log, and return its status."""
        with self._fresh_log(name) as log:
            done = subprocess.run(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=timeout_s,
                check=False,
            )
        return done.returncode

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> DaemonProcess:
        """Start a daemon in a session of its own and keep its pid."""
        with self._fresh_log(name) as log:
            child = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = DaemonProcess(pid=child.pid, started_s=psutil.Process(child.pid).create_time())
        note = {"pid": process.pid, "started_s": process.started_s, "command": list(command)}
        write_atomic(self._pid_file(name), json.dumps(note), is_synced=False, is_unique=False)
        return process

    def stop(self, name: str, *, grace_s: float) -> bool:
        """Stop a daemon and all that it started; return whether there was anything to stop.

        The leader is asked first and alone, so that it can end its children in its own order. What is left after
        `grace_s` is asked too, has a second such time (5 s at most), and is killed.
        """
        process = self.find(name)
        if process is None:
            return False
        members = process.session()
        if leader := process.leader():
            _signal([leader], psutil.Process.terminate)
            _await_end([leader], grace_s)
        for send, wait_s in (
            (psutil.Process.terminate, min(grace_s, _KILL_WAIT_S)),
            (psutil.Process.kill, _KILL_WAIT_S),
        ):
            rest = process.session()
            _signal(rest, send)
            _await_end(rest, wait_s)
        self._pid_file(name).unlink(missing_ok=True)
        return bool(members)

    def _pid_file(self, name: str) -> Path:
        return self.path / f"{name}.pid.json"

    def _fresh_log(self, name: str) -> BinaryIO:
        log = self.log(name)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        return log.open("wb")


def exit_text(process: DaemonProcess) -> str:
    """Return how a process that was our child ended, as far as the system still tells."""
    try:
        _, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return "it ended"
    code = os.waitstatus_to_exitcode(status)
    return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"


def _lives(process: psutil.Process) -> bool:
    try:
        # A process whose first thread ended already looks like a zombie while its other threads still run.
        return process.is_running() and (
            process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
        )
    except psutil.NoSuchProcess:
        return False


def _await_end(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    """Wait until none lives; a zombie counts as ended, since the first process may take seconds to collect it."""
    deadline_s = time.monotonic() + timeout_s
    while any(_lives(process) for process in processes) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    for process in processes:
        _collect(process)


def _collect(process: psutil.Process) -> None:
    """Take leave of a process that is our own child, if it ended."""
    try:
        if process.ppid() == os.getpid() and not _lives(process):
            process.wait(timeout=1.0)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return


def _signal(processes: Sequence[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            send(process)
        except psutil.NoSuchProcess:
            continue
