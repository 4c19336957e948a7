"""Supervisor of the daemons: starts each after what it needs, restarts what died or hangs, and keeps the account.

`step` is called about once a second and looks at every service anew, so a new supervisor goes on with the daemons of
one that was killed. Time is an argument. The supervisor's program is `serving/airflow/supervise.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from serving.airflow.daemons import DaemonFolder, DaemonProcess, describe_exit
from serving.airflow.services import Service
from storage.errors import TickwalkError
from storage.logs import get_logger

logger = get_logger(__name__)

ServicePhase = Literal["waiting", "starting", "healthy", "unhealthy", "unknown", "backoff", "done"]
CHECK_S: Final = 5.0
"""Seconds between two health checks of a service that is healthy, and between two that count as failed."""
START_LIMIT_S: Final = 300.0
"""Seconds after which a service that was never healthy counts as hung."""


@dataclass(frozen=True, slots=True)
class RestartDelay:
    """Exponential backoff between a death and the restart."""

    first_s: float = 1.0
    most_s: float = 60.0
    reset_s: float = 300.0
    """A service that was up for so long starts again with the first delay."""

    def delay_s(self, deaths: int) -> float:
        """Return the delay after this many deaths in a row, the first of which is 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(deaths - 1, 32))


@dataclass(slots=True)
class ServiceRecord:
    """What the supervisor knows of a service; written to its state file."""

    name: str
    phase: ServicePhase = "waiting"
    pid: int | None = None
    since_s: float = 0.0
    """When the phase began, seconds since the epoch."""
    restarts: int = 0
    deaths: int = 0
    """Times that it died, hung or could not be started, since `up`."""
    last_exit: str = ""
    """How it ended last; empty if it never did."""
    retry_s: float = 0.0
    """When it is started again, seconds since the epoch; 0 unless it waits for that."""


@dataclass(slots=True)
class _Watch:
    """Monotonic times and counts of one service, which mean nothing to another process."""

    up_since_s: float = 0.0
    checked_s: float = -CHECK_S
    missed_s: float = -CHECK_S
    misses: int = 0
    deaths_in_a_row: int = 0
    retry_s: float = 0.0
    was_healthy: bool = False


class Supervisor:
    """Keeps services running.

    Args:
        services: in start order; they stop in reverse order.
        folder: their pid files and logs.
        start: starts the process of a service; an error of it counts as a death.
        is_healthy: checks a living service; None where that cannot be known, since what answers for it is down.
        delay: between a death and the restart.
        previous: records of an earlier supervisor, whose counts continue.
    """

    def __init__(
        self,
        services: Sequence[Service],
        folder: DaemonFolder,
        *,
        start: Callable[[Service], DaemonProcess],
        is_healthy: Callable[[Service], bool | None],
        delay: RestartDelay | None = None,
        previous: Iterable[ServiceRecord] = (),
    ) -> None:
        self.services = services
        self._folder = folder
        self._start = start
        self._is_healthy = is_healthy
        self._delay = delay or RestartDelay()
        earlier = {record.name: record for record in previous}
        self.records = {
            service.name: earlier.get(service.name, ServiceRecord(service.name)) for service in services
        }
        self._watches = {service.name: _Watch() for service in services}
        for service in services:
            self._adopt(service)

    def _adopt(self, service: Service) -> None:
        """Continue the record of an earlier supervisor by what runs now."""
        record = self.records[service.name]
        if service.once:
            # Never beside a daemon that needs its result: the database of a live scheduler is not migrated.
            users = [other for other in self.services if service.name in needed_by(other, self.services)]
            is_used = any(self._folder.is_running(other.name) for other in users)
            record.phase = "done" if is_used else "waiting"
        elif record.pid is not None and not self._folder.is_running(service.name):
            record.pid, record.phase = None, "waiting"
            record.last_exit = "it ended while no supervisor ran"
            record.restarts += 1

    def step(self, now_s: float, *, wall_s: float) -> None:
        """Look at every service once, and restart what needs it.

        Args:
            now_s: monotonic time.
            wall_s: seconds since the epoch, for the records.
        """
        for service in self.services:
            record, watch = self.records[service.name], self._watches[service.name]
            if record.phase == "done":
                continue
            process = self._folder.find(service.name)
            if process is not None and process.leader() is not None:
                self._check(service, process, now_s, wall_s)
                continue
            if record.pid is not None and self._note_end(service, process, now_s, wall_s):
                continue
            if now_s >= watch.retry_s:
                self._start_if_ready(service, now_s, wall_s)

    def stop_all(self, *, grace_s: float) -> tuple[str, ...]:
        """Stop every service in reverse order; return the names of those that ran.

        Args:
            grace_s: time for running tasks to finish.
        """
        return stop_services(self.services, self._folder, grace_s=grace_s)

    def _check(self, service: Service, process: DaemonProcess, now_s: float, wall_s: float) -> None:
        """Look at a living process: its health, and whether it hangs."""
        record, watch = self.records[service.name], self._watches[service.name]
        if record.pid != process.pid or watch.up_since_s == 0.0:  # started by an earlier supervisor
            record.pid, record.retry_s = process.pid, 0.0
            watch.up_since_s = now_s
            self._enter(record, "starting", wall_s)
        if now_s - watch.up_since_s >= self._delay.reset_s:
            watch.deaths_in_a_row = 0
        if service.once or (record.phase == "healthy" and now_s - watch.checked_s < CHECK_S):
            return
        watch.checked_s = now_s
        healthy = self._is_healthy(service)
        if healthy:
            watch.misses, watch.was_healthy = 0, True
            self._enter(record, "healthy", wall_s)
        elif watch.was_healthy:
            self._enter(record, "unknown" if healthy is None else "unhealthy", wall_s)
        # A service whose needs are missing cannot be blamed.
        if healthy is False and all(self._is_ready(name) for name in service.needs):
            self._count_miss(service, now_s, wall_s)

    def _count_miss(self, service: Service, now_s: float, wall_s: float) -> None:
        watch = self._watches[service.name]
        if now_s - watch.missed_s < CHECK_S:
            return
        watch.missed_s = now_s
        watch.misses += 1
        is_hung = watch.misses >= service.hung_checks and (
            watch.was_healthy or now_s - watch.up_since_s >= START_LIMIT_S
        )
        if not is_hung:
            return
        if not service.has_tasks:
            self._folder.stop(service.name, grace_s=service.stop_grace_s, by=service.stop_signal)
        elif leader := (process := self._folder.find(service.name)) and process.leader():
            # Its tasks must not get a SIGTERM; see `DaemonFolder.kill_orphans`.
            leader.kill()
        self._note_death(
            service, f"it failed {watch.misses} health checks in a row and was stopped", now_s, wall_s
        )

    def _note_end(self, service: Service, process: DaemonProcess | None, now_s: float, wall_s: float) -> bool:
        """Record how a process ended that was seen alive; return whether its work is done."""
        code = self._folder.exit_code(process) if process else None
        if service.once and code == 0:
            self._folder.forget(service.name)
            record = self.records[service.name]
            record.pid = None
            self._enter(record, "done", wall_s)
            return True
        self._note_death(service, describe_exit(code), now_s, wall_s)
        return False

    def _note_death(self, service: Service, how: str, now_s: float, wall_s: float) -> None:
        record, watch = self.records[service.name], self._watches[service.name]
        watch.deaths_in_a_row += 1
        delay_s = self._delay.delay_s(watch.deaths_in_a_row)
        watch.retry_s, watch.misses, watch.was_healthy, watch.up_since_s = now_s + delay_s, 0, False, 0.0
        record.pid, record.deaths = None, record.deaths + 1
        record.last_exit, record.retry_s = how, wall_s + delay_s
        self._enter(record, "backoff", wall_s)
        logger.warning("daemon ended", name=service.name, how=how, retry_in_s=delay_s)

    def _start_if_ready(self, service: Service, now_s: float, wall_s: float) -> None:
        record, watch = self.records[service.name], self._watches[service.name]
        if not all(self._is_ready(name) for name in service.needs):
            self._enter(record, "waiting", wall_s)
            return
        self._folder.kill_orphans(service.name)
        try:
            process = self._start(service)
        except (TickwalkError, OSError) as error:
            self._note_death(service, str(error), now_s, wall_s)
            return
        if record.deaths and not service.once:
            record.restarts += 1
        record.pid, record.retry_s = process.pid, 0.0
        watch.up_since_s, watch.was_healthy, watch.misses = now_s, False, 0
        self._enter(record, "starting", wall_s)
        logger.info("daemon started", name=service.name, pid=process.pid, restarts=record.restarts)

    def _is_ready(self, name: str) -> bool:
        """Return whether a service is up or done; one that is not among ours is not needed here."""
        record = self.records.get(name)
        return record is None or record.phase in ("healthy", "done")

    def _enter(self, record: ServiceRecord, phase: ServicePhase, wall_s: float) -> None:
        if record.phase != phase:
            record.phase, record.since_s = phase, wall_s


def needed_by(service: Service, services: Sequence[Service]) -> set[str]:
    """Return the names of all services that a service needs, and of those that they need."""
    found: set[str] = set()
    for name in service.needs:
        needed = next((other for other in services if other.name == name), None)
        found |= {name} | (needed_by(needed, services) if needed else set())
    return found


def stop_services(services: Sequence[Service], folder: DaemonFolder, *, grace_s: float) -> tuple[str, ...]:
    """Stop services in reverse order; return the names of the daemons that ran.

    Args:
        services: in start order.
        folder: their pid files.
        grace_s: time for running tasks to finish; then they are stopped, and retried after the next start.
    """
    stopped = []
    for service in reversed(services):
        patience_s = grace_s if service.has_tasks else service.stop_grace_s
        if folder.stop(service.name, grace_s=patience_s, by=service.stop_signal) and not service.once:
            stopped.append(service.name)
            logger.info("daemon stopped", name=service.name)
    return tuple(stopped)
