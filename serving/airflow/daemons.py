"""Daemon processes: start, status, logs and complete stop.

A daemon leads its own session, and every process that it starts stays in that session: Airflow moves tasks to their own
process groups, but never to another session. So `stop` ends the whole session. A file beside the log stores the
leader's pid with its start time, because pids are reused; the file of a process that has ended is ignored.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from storage.atomic_write import write_atomic

# Two readings of a process's start time differ by a clock tick, and by more after the clock was set.
_SAME_START_S: Final = 2.0
_KILL_WAIT_S: Final = 5.0
_POLL_S: Final = 0.05
_LOG_BYTES: Final = 10_000_000
_LOGS_KEPT: Final = 5


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
        # An exit code is known only while the handle of our child lives.
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def make(self) -> None:
        """Create the folder, accessible to its owner only."""
        self.path.mkdir(exist_ok=True, mode=0o700)

    def log(self, name: str) -> Path:
        """Return the path of the daemon's log; older logs are `.log.1` to `.log.5`."""
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

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], *, user: str = "", log: str = ""
    ) -> DaemonProcess:
        """Start a daemon in its own session and record its pid.

        Args:
            name: of the pid file.
            command: command line, with the path of the program.
            env: complete environment.
            user: user to become, which takes root; empty: the present one.
            log: name of the log, where that is another's; empty: `name`.
        """
        # Appending is what makes `rotate_log` possible, and keeps what an earlier run wrote.
        with self.log(log or name).open("ab") as output:
            output.write(f"--- {name} starts, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n".encode())
            output.flush()
            child = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=user or None,
                group=user or None,
                extra_groups=[] if user else None,
            )
        self._children[child.pid] = child
        return self.record(name, child.pid, command)

    def record(self, name: str, pid: int, command: Sequence[str]) -> DaemonProcess:
        """Write the pid file of a process that already runs."""
        process = DaemonProcess(pid=pid, started_s=psutil.Process(pid).create_time())
        note = {"pid": process.pid, "started_s": process.started_s, "command": list(command)}
        write_atomic(self._pid_file(name), json.dumps(note), is_synced=False, is_unique=False)
        return process

    def forget(self, name: str) -> None:
        """Remove the pid file."""
        self._pid_file(name).unlink(missing_ok=True)

    def exit_code(self, process: DaemonProcess) -> int | None:
        """Return the exit code of an ended process, negative for a signal; None if it was not started here."""
        child = self._children.get(process.pid)
        return None if child is None else child.poll()

    def rotate_log(self, name: str, *, most_bytes: int = _LOG_BYTES) -> bool:
        """Move the content of a log that has grown too large to `.log.1`; return whether it did.

        The daemon keeps its open file, so that is copied and emptied, as logrotate does with `copytruncate`; lines that
        are written in between are lost.
        """
        log = self.log(name)
        try:
            if log.stat().st_size <= most_bytes:
                return False
        except FileNotFoundError:
            return False
        older = [log.with_suffix(f".log.{number}") for number in range(1, _LOGS_KEPT + 1)]
        for younger, elder in zip(older[-2::-1], older[:0:-1], strict=True):
            if younger.exists():
                younger.replace(elder)
        shutil.copy2(log, older[0])
        os.truncate(log, 0)
        return True

    def kill_orphans(self, name: str) -> bool:
        """Kill what an ended daemon left running; return whether there was anything.

        No SIGTERM: a task that gets one cancels the job that it watches, and one that is killed finds it again when it
        is retried.
        """
        process = self.find(name)
        if process is None or process.leader() is not None:
            return False
        remaining = process.session()
        _signal(remaining, psutil.Process.kill)
        _await_end(remaining, _KILL_WAIT_S)
        return bool(remaining)

    def stop(self, name: str, *, grace_s: float, by: signal.Signals = signal.SIGTERM) -> bool:
        """Stop a daemon and every process it started; return whether there was anything to stop.

        The signal `by` goes to the leader first, so that it can stop its children in order. Processes that remain after
        `grace_s` get SIGTERM, then the same time again (5 s at most), and are killed.
        """
        process = self.find(name)
        if process is None:
            return False
        members = process.session()
        if leader := process.leader():
            _signal([leader], lambda found: found.send_signal(by))
            _await_end([leader], grace_s)
        for send, wait_s in (
            (psutil.Process.terminate, min(grace_s, _KILL_WAIT_S)),
            (psutil.Process.kill, _KILL_WAIT_S),
        ):
            remaining = process.session()
            _signal(remaining, send)
            _await_end(remaining, wait_s)
        self.forget(name)
        return bool(members)

    def _pid_file(self, name: str) -> Path:
        return self.path / f"{name}.pid.json"


def describe_exit(code: int | None) -> str:
    """Return how a process ended, by its exit code."""
    if code is None:
        return "it ended"
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
