"""Who notices that the recorder is dead, and calls someone?

`tickwalk alert watch` is a process of its own: it reads the heartbeat files of a home, judges them, and on a change
runs `alert.command` and posts to `alert.webhook`. It needs neither the recorder nor Airflow nor the lake. What was
told is kept in `recorder/alerts.state`, so that a restart of the watcher, or `tickwalk alert check --tell` run by a
timer, tells nothing twice.

There is one alert a kind of trouble and shard. It is told when it begins, again after `alert.repeat_s` while it
lasts, and once when it is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import httpx
import msgspec

from ingest.concurrency import run_in_daemon_thread
from ingest.recorder.heartbeat import read_heartbeats
from serving.monitoring.checks import HealthIssue, judge
from storage.atomic_write import write_atomic
from storage.clock import NS, TimeSource, WallTime, iso
from storage.errors import SettingsError
from storage.logs import get_logger
from storage.settings import Settings
from storage.settings.services import AlertSettings

logger = get_logger(__name__)

STATE_FILE: Final = "alerts.state"
_SECRET_VARIABLE: Final = "TICKWALK_ALERT_WEBHOOK"  # noqa: S105  the name of one

Event = Literal["alert", "repeat", "over"]


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told: `event` says whether the trouble is new, goes on, or is over."""

    event: Event
    kind: str
    shard: str
    detail: str
    since_ns: int
    now_ns: int

    def as_json(self, home: Path) -> bytes:
        """Return it as one JSON object, with a sentence for people under `text`."""
        whose = f" (shard {self.shard})" if self.shard else ""
        words = {"alert": "ALERT", "repeat": "STILL", "over": "OVER"}[self.event]
        said = asdict(self) | {
            "text": f"tickwalk {words}: {self.kind}{whose}: {self.detail}",
            "since": iso(self.since_ns),
            "now": iso(self.now_ns),
            "host": socket.gethostname(),
            "home": str(home),
        }
        return json.dumps(said).encode()


Tell = Callable[[Alert], bool]
"""Tells someone, and says whether anybody was reached."""


@dataclass(frozen=True, slots=True)
class SentAlert:
    """A trouble that someone was told of; `gone_ns` says since when it seems to be over, 0 while it lasts."""

    kind: str
    shard: str
    detail: str
    since_ns: int
    told_ns: int
    gone_ns: int = 0


class AlertManager:
    """Decides what is to be told, and when. Time is an argument."""

    def __init__(self, limits: AlertSettings, told: Sequence[SentAlert] = ()) -> None:
        """Start with what an earlier watcher told."""
        self._limits = limits
        self._told = {(item.kind, item.shard): item for item in told}
        self._failed: dict[tuple[str, str], tuple[int, int]] = {}

    @property
    def told(self) -> list[SentAlert]:
        """The troubles that someone was told of and that are not over."""
        return [self._told[key] for key in sorted(self._told)]

    def look(self, troubles: Sequence[HealthIssue], now_ns: int, tell: Tell) -> list[Alert]:
        """Take what is wrong now, tell what changed, and return what was told.

        A trouble that comes and goes is one alert: it is over when it has been gone for `alert.settle_s`. Where
        nobody could be reached it is tried again, after waits that double up to `alert.repeat_s`.
        """
        found = {(trouble.kind, trouble.shard): trouble for trouble in troubles}
        due = [self._going_on(trouble, now_ns) for _, trouble in sorted(found.items())]
        due += [self._gone(held, now_ns) for key, held in sorted(self._told.items()) if key not in found]
        return [alert for alert in due if alert is not None and self._tell(alert, tell)]

    def _going_on(self, trouble: HealthIssue, now_ns: int) -> Alert | None:
        held = self._told.get((trouble.kind, trouble.shard))
        if held is None:
            return Alert("alert", trouble.kind, trouble.shard, trouble.detail, now_ns, now_ns)
        self._told[held.kind, held.shard] = replace(held, gone_ns=0)
        # A time in the future means that the clock was set back: tell again, rather than never.
        if 0 <= now_ns - held.told_ns < self._limits.repeat_s * NS:
            return None
        return Alert("repeat", trouble.kind, trouble.shard, trouble.detail, held.since_ns, now_ns)

    def _gone(self, held: SentAlert, now_ns: int) -> Alert | None:
        gone_ns = held.gone_ns or now_ns
        self._told[held.kind, held.shard] = replace(held, gone_ns=gone_ns)
        if 0 <= now_ns - gone_ns < self._limits.settle_s * NS:
            return None
        return Alert("over", held.kind, held.shard, held.detail, held.since_ns, now_ns)

    def _tell(self, alert: Alert, tell: Tell) -> bool:
        key = (alert.kind, alert.shard)
        tries, next_ns = self._failed.get(key, (0, 0))
        if tries and alert.now_ns < next_ns:
            return False
        if not tell(alert):
            wait_s = min(self._limits.repeat_s, self._limits.check_s * 2**tries)
            self._failed[key] = (min(tries + 1, 30), alert.now_ns + int(wait_s * NS))
            return False
        self._failed.pop(key, None)
        if alert.event == "over":
            del self._told[key]
        else:
            self._told[key] = SentAlert(*key, alert.detail, alert.since_ns, alert.now_ns)
        return True


def judge_home(settings: Settings, *, now_ns: int) -> list[HealthIssue]:
    """Return what is wrong with a home's recorders."""
    return judge(read_heartbeats(settings), now_ns, settings.alert)


def look_once(settings: Settings, *, now_ns: int, tell: Tell | None = None) -> list[HealthIssue]:
    """Judge a home's recorders, tell what changed since the last look, and return what is wrong."""
    path = settings.recorder_dir / STATE_FILE
    deadman = AlertManager(settings.alert, _read_told(path))
    before = deadman.told
    troubles = judge_home(settings, now_ns=now_ns)
    deadman.look(troubles, now_ns, tell or (lambda alert: send(alert, settings)))
    if deadman.told != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(deadman.told), is_synced=False)
    return troubles


async def watch_forever(settings: Settings, stop: asyncio.Event, *, clock: TimeSource | None = None) -> None:
    """Look every `alert.check_s` until `stop` is set.

    Raises:
        SettingsError: nobody would be told: neither `alert.command` nor `alert.webhook` is set.
    """
    clock = clock or WallTime()
    if not (settings.alert.command or settings.alert.webhook):
        raise SettingsError(
            "nobody would be told: alert.command and alert.webhook are empty",
            hint="set one of them, or use: tickwalk alert check",
        )
    logger.info("watching recorders", home=str(settings.home), every_s=settings.alert.check_s)
    while not stop.is_set():
        now_ns = clock.now_ns()
        try:
            await run_in_daemon_thread(partial(look_once, settings, now_ns=now_ns), name="look")
        except OSError as error:
            # Such as a full disk: the notes of what was told cannot be kept, and the watch goes on.
            logger.warning("alert notes not kept", reason=error.strerror or str(error))
        try:
            await asyncio.wait_for(stop.wait(), settings.alert.check_s)
        except TimeoutError:
            continue


def send(alert: Alert, settings: Settings) -> bool:
    """Run the command and post to the webhook, whichever is set; say whether anybody was reached."""
    limits, body = settings.alert, alert.as_json(settings.home)
    reached = []
    if limits.command:
        reached.append(_run(limits.command, body, limits.timeout_s))
    if limits.webhook:
        reached.append(_post(limits.webhook, body, limits.timeout_s))
    if any(reached):
        logger.info("alert told", change=alert.event, kind=alert.kind, shard=alert.shard, detail=alert.detail)
    return any(reached)


def _run(command: str, body: bytes, timeout_s: float) -> bool:
    try:
        done = subprocess.run(
            shlex.split(command),
            input=body,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={name: value for name, value in os.environ.items() if name != _SECRET_VARIABLE},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        logger.warning("alert not told", by="command", reason=f"{type(error).__name__}: {error}")
        return False
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        logger.warning("alert not told", by="command", reason=f"it ended with {done.returncode}: {said}")
    return done.returncode == 0


def _post(webhook: str, body: bytes, timeout_s: float) -> bool:
    """Post to the webhook; its address holds a key, so neither it nor an error that quotes it is logged."""
    try:
        answer = httpx.post(
            webhook, content=body, headers={"Content-Type": "application/json"}, timeout=timeout_s
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.warning("alert not told", by="webhook", reason=type(error).__name__)
        return False
    if answer.is_error:
        logger.warning("alert not told", by="webhook", reason=f"it answered {answer.status_code}")
    return not answer.is_error


def _read_told(path: Path) -> list[SentAlert]:
    """Return the notes of the last look; without readable ones everything counts as new."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[SentAlert])
    except (OSError, msgspec.MsgspecError):
        return []
