"""Daemon processes: start, status and complete stop.

A daemon leads its own session, and every process that it starts stays in that session: Airflow moves tasks to their own
process groups, but never to another session. So `stop` ends the whole session. A file beside the log stores the
leader's pid with its start time, because pids are reused; the file of a process that has ended is ignored.
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

# Two readings of a process's start time differ by a clock tick, and by more after the clock was set.
_SAME_START_S: Final = 2.0
_KILL_WAIT_S: Final = 5.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class DaemonProcess:
    """A started daemon; its pid is also its session id."""

    pid: int
    started_s: float
    """Start time, seconds since the epoch."""

    def leader(self) -> psutil.Process | None:
        """Return the process if it is alive; None for a zombie or another process with the same pid."""
        try:
            found = psutil.Process(self.pid)
            is_same = abs(found.create_time() - self.started_s) <= _SAME_START_S
            return found if is_same and _is_alive(found) else None
        except psutil.NoSuchProcess:
            return None

    def session(self) -> list[psutil.Process]:
        """Return every living process of the session, with or without the leader."""
        found = []
        for candidate in psutil.process_iter():
            try:
                # A session id is not reused while a member lives, but may be afterwards.
                is_member = os.getsid(candidate.pid) == self.pid
                if (
                    is_member
                    and candidate.create_time() >= self.started_s - _SAME_START_S
                    and _is_alive(candidate)
                ):
                    found.append(candidate)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        return found


class DaemonFolder:
    """Folder with the log and pid file of each daemon.

    Args:
        path: created by `make`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Create the folder, accessible to its owner only."""
        self.path.mkdir(exist_ok=True, mode=0o700)

    def log(self, name: str) -> Path:
        """Return the path of the daemon's log; the previous run's log is `.log.1`."""
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
        """Return the process recorded in the daemon's pid file, dead or alive."""
        try:
            recorded = json.loads(self._pid_file(name).read_text(encoding="utf-8"))
            return DaemonProcess(pid=int(recorded["pid"]), started_s=float(recorded["started_s"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def is_running(self, name: str) -> bool:
        """Return whether the daemon's leading process is alive."""
        process = self.find(name)
        return process is not None and process.leader() is not None

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str], *, timeout_s: float) -> int:
        """Run a program to its end with output to the log; return its exit code."""
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
        """Start a daemon in its own session and record its pid."""
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
        """Stop a daemon and every process it started; return whether there was anything to stop.

        SIGTERM goes to the leader first, so that it can stop its children in order. Processes that remain after
        `grace_s` get SIGTERM too, then the same time again (5 s at most), and are killed.
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
            remaining = process.session()
            _signal(remaining, send)
            _await_end(remaining, wait_s)
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
    """Return how a child process ended, as far as the system still knows."""
    try:
        _, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return "it ended"
    code = os.waitstatus_to_exitcode(status)
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it exited with code {code}"


def _is_alive(process: psutil.Process) -> bool:
    try:
        # A process whose main thread has ended looks like a zombie while other threads still run.
        return process.is_running() and (
            process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
        )
    except psutil.NoSuchProcess:
        return False


def _await_end(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    """Wait until all have ended; a zombie counts as ended, since init may take seconds to reap it."""
    deadline_s = time.monotonic() + timeout_s
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    for process in processes:
        _reap(process)


def _reap(process: psutil.Process) -> None:
    """Reap an ended process if it is our child."""
    try:
        if process.ppid() == os.getpid() and not _is_alive(process):
            process.wait(timeout=1.0)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return


def _signal(processes: Sequence[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            send(process)
        except psutil.NoSuchProcess:
            continue
