"""Alerts about failed recorders, sent to a command and a webhook.

`tickwalk alert watch` is a separate process: it reads the heartbeat files of a home, checks them, and when something
changes runs `alert.command` and posts to `alert.webhook`. It needs neither the recorder nor Airflow nor the lake. Sent
alerts are stored in `recorder/alerts.state`, so that a restart of the watcher, or `tickwalk alert check --tell` run by
a timer, sends nothing twice.

There is one alert per kind of issue and shard. It is sent when the issue starts, again every `alert.repeat_s` while it
lasts, and once when it is resolved.
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
from serving.monitoring.checks import HealthIssue, check_recorders
from storage.atomic_write import write_atomic
from storage.clock import NS, TimeSource, WallTime, iso
from storage.errors import SettingsError
from storage.logs import get_logger
from storage.settings import Settings
from storage.settings.services import AlertSettings

logger = get_logger(__name__)

STATE_FILE: Final = "alerts.state"
FURTHER_STATE_FILE: Final = "alerts-airflow.state"
_SECRET_VARIABLE: Final = "TICKWALK_ALERT_WEBHOOK"  # noqa: S105  a variable name, not a secret

Event = Literal["alert", "repeat", "over"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One message: `event` says whether the issue is new, continues, or is resolved."""

    event: Event
    kind: str
    shard: str
    detail: str
    since_ns: int
    now_ns: int

    def as_json(self, home: Path) -> bytes:
        """Return it as one JSON object, with a sentence for people under `text`."""
        shard = f" (shard {self.shard})" if self.shard else ""
        label = {"alert": "ALERT", "repeat": "STILL", "over": "OVER"}[self.event]
        message = asdict(self) | {
            "text": f"tickwalk {label}: {self.kind}{shard}: {self.detail}",
            "since": iso(self.since_ns),
            "now": iso(self.now_ns),
            "host": socket.gethostname(),
            "home": str(home),
        }
        return json.dumps(message).encode()


AlertSender = Callable[[Alert], bool]
"""Sends an alert; returns whether anyone was reached."""


@dataclass(frozen=True, slots=True)
class SentAlert:
    """An issue whose alert was sent; `gone_ns` is when it disappeared, 0 while it lasts."""

    kind: str
    shard: str
    detail: str
    since_ns: int
    told_ns: int
    gone_ns: int = 0


class AlertManager:
    """Decides which alerts to send, and when. Time is an argument."""

    def __init__(self, limits: AlertSettings, sent: Sequence[SentAlert] = ()) -> None:
        """Start with the alerts that an earlier watcher sent."""
        self._limits = limits
        self._sent = {(item.kind, item.shard): item for item in sent}
        self._failed: dict[tuple[str, str], tuple[int, int]] = {}

    @property
    def sent(self) -> list[SentAlert]:
        """Issues whose alert was sent and that are not resolved."""
        return [self._sent[key] for key in sorted(self._sent)]

    def update(self, issues: Sequence[HealthIssue], now_ns: int, send: AlertSender) -> list[Alert]:
        """Compare the present issues with those sent, send what changed, and return the sent alerts.

        An issue that comes and goes is one alert: it is resolved after it has been gone for `alert.settle_s`. If
        nobody could be reached, sending is retried with a backoff that doubles up to `alert.repeat_s`.
        """
        found = {(issue.kind, issue.shard): issue for issue in issues}
        due = [self._present_alert(issue, now_ns) for _, issue in sorted(found.items())]
        due += [
            self._resolved_alert(sent, now_ns) for key, sent in sorted(self._sent.items()) if key not in found
        ]
        return [alert for alert in due if alert is not None and self._try_send(alert, send)]

    def _present_alert(self, issue: HealthIssue, now_ns: int) -> Alert | None:
        sent = self._sent.get((issue.kind, issue.shard))
        if sent is None:
            return Alert("alert", issue.kind, issue.shard, issue.detail, now_ns, now_ns)
        self._sent[sent.kind, sent.shard] = replace(sent, gone_ns=0)
        # A time in the future means that the clock was set back: repeat the alert rather than stay silent.
        if 0 <= now_ns - sent.told_ns < self._limits.repeat_s * NS:
            return None
        return Alert("repeat", issue.kind, issue.shard, issue.detail, sent.since_ns, now_ns)

    def _resolved_alert(self, sent: SentAlert, now_ns: int) -> Alert | None:
        gone_ns = sent.gone_ns or now_ns
        self._sent[sent.kind, sent.shard] = replace(sent, gone_ns=gone_ns)
        if 0 <= now_ns - gone_ns < self._limits.settle_s * NS:
            return None
        return Alert("over", sent.kind, sent.shard, sent.detail, sent.since_ns, now_ns)

    def _try_send(self, alert: Alert, send: AlertSender) -> bool:
        key = (alert.kind, alert.shard)
        tries, next_ns = self._failed.get(key, (0, 0))
        if tries and alert.now_ns < next_ns:
            return False
        if not send(alert):
            wait_s = min(self._limits.repeat_s, self._limits.check_s * 2**tries)
            self._failed[key] = (min(tries + 1, 30), alert.now_ns + int(wait_s * NS))
            return False
        self._failed.pop(key, None)
        if alert.event == "over":
            del self._sent[key]
        else:
            self._sent[key] = SentAlert(*key, alert.detail, alert.since_ns, alert.now_ns)
        return True


def check_home(settings: Settings, *, now_ns: int) -> list[HealthIssue]:
    """Return the issues of a home's recorders."""
    return check_recorders(read_heartbeats(settings), now_ns, settings.alert)


def check_once(
    settings: Settings,
    *,
    now_ns: int,
    send_alert: AlertSender | None = None,
    further: Sequence[HealthIssue] | None = None,
) -> list[HealthIssue]:
    """Check a home's recorders, send alerts for changes since the last check, and return the issues.

    Args:
        settings: the home, the limits, and whom to alert.
        now_ns: the current time.
        send_alert: sends one (default: `send`).
        further: issues of other checks; a caller with some keeps a state of its own, or each would end the other's.
    """
    path = settings.recorder_dir / (STATE_FILE if further is None else FURTHER_STATE_FILE)
    manager = AlertManager(settings.alert, _read_sent(path))
    before = manager.sent
    issues = [*check_home(settings, now_ns=now_ns), *(further or ())]
    manager.update(issues, now_ns, send_alert or (lambda alert: send(alert, settings)))
    if manager.sent != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(manager.sent), is_synced=False)
    return issues


async def watch_forever(settings: Settings, stop: asyncio.Event, *, clock: TimeSource | None = None) -> None:
    """Check every `alert.check_s` seconds until `stop` is set.

    Raises:
        SettingsError: nobody would be alerted: neither `alert.command` nor `alert.webhook` is set.
    """
    clock = clock or WallTime()
    if not (settings.alert.command or settings.alert.webhook):
        raise SettingsError(
            "nobody would be alerted: alert.command and alert.webhook are empty",
            hint="set one of them, or use: tickwalk alert check",
        )
    logger.info("watching recorders", home=str(settings.home), every_s=settings.alert.check_s)
    while not stop.is_set():
        now_ns = clock.now_ns()
        try:
            await run_in_daemon_thread(partial(check_once, settings, now_ns=now_ns), name="alert check")
        except OSError as error:
            # Such as a full disk: the sent alerts cannot be stored, but watching continues.
            logger.warning("alert state not saved", reason=error.strerror or str(error))
        try:
            await asyncio.wait_for(stop.wait(), settings.alert.check_s)
        except TimeoutError:
            continue


def send(alert: Alert, settings: Settings) -> bool:
    """Run the command and post to the webhook, whichever is set; return whether anyone was reached."""
    limits, body = settings.alert, alert.as_json(settings.home)
    reached = []
    if limits.command:
        reached.append(_run(limits.command, body, limits.timeout_s))
    if limits.webhook:
        reached.append(_post(limits.webhook, body, limits.timeout_s))
    if any(reached):
        logger.info("alert sent", change=alert.event, kind=alert.kind, shard=alert.shard, detail=alert.detail)
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
        logger.warning("alert not sent", by="command", reason=f"{type(error).__name__}: {error}")
        return False
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip()[-200:]
        logger.warning(
            "alert not sent", by="command", reason=f"it exited with code {done.returncode}: {output}"
        )
    return done.returncode == 0


def _post(webhook: str, body: bytes, timeout_s: float) -> bool:
    """Post to the webhook; its address holds a key, so neither it nor an error that quotes it is logged."""
    try:
        answer = httpx.post(
            webhook, content=body, headers={"Content-Type": "application/json"}, timeout=timeout_s
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.warning("alert not sent", by="webhook", reason=type(error).__name__)
        return False
    if answer.is_error:
        logger.warning("alert not sent", by="webhook", reason=f"it answered {answer.status_code}")
    return not answer.is_error


def _read_sent(path: Path) -> list[SentAlert]:
    """Return the alerts sent so far; without a readable file every issue counts as new."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[SentAlert])
    except (OSError, msgspec.MsgspecError):
        return []
