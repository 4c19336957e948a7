"""What does a connection still lack of what it is to carry, and what is to be said to the venue next?

Pure: time is an argument, in seconds of a clock that never falls. Subscriptions converge to what is wanted whatever
is lost on the way: every one has its own timeout, `Already subscribed` is a success, and the venue's echo counts
where it holds at least what was asked (it fills in fields that were left out).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from websockets.asyncio.client import ClientConnection

from ingest.concurrency import now
from ingest.feed.connection_context import ConnectionContext
from ingest.feed.subscription_plan import Subscription
from storage.logs import get_logger

logger = get_logger(__name__)

SubscriptionOutcome = Literal["held", "gone", "refused"]

_PATIENCE_GROWTH: Final = 2.0
_MOST_PATIENCE: Final = 6.0
# An end of a subscription that nobody confirms is not worth more than this many messages.
_LEAVE_TRIES: Final = 3
_CLAIMS: Final[tuple[tuple[str, str], ...]] = (
    ("Already subscribed", "subscribe"),
    ("Already unsubscribed", "unsubscribe"),
    ("Invalid subscription", "refused"),
)


@dataclass(slots=True)
class _Entry:
    phase: Literal["asked", "held", "renewed", "leaving", "refused"]
    at_s: float
    tries: int = 1


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    """What an answer of the venue changed: who, and into what."""

    wanted: Subscription
    verdict: SubscriptionOutcome


class SubscriptionState:
    """Keeps one connection's subscriptions on their way to what is wanted."""

    def __init__(self, wanted: Iterable[Subscription], *, timeout_s: float) -> None:
        """Start with nothing asked.

        Args:
            wanted: what is to be subscribed, most urgent first.
            timeout_s: without an answer for so long, a message is sent again; then twice as long, up to six times.
        """
        self._timeout_s = timeout_s
        self._wanted: dict[Subscription, None] = dict.fromkeys(wanted)
        self._entries: dict[Subscription, _Entry] = {}

    @property
    def wanted(self) -> tuple[Subscription, ...]:
        """What is to be subscribed."""
        return tuple(self._wanted)

    @property
    def held(self) -> frozenset[Subscription]:
        """What the venue confirmed."""
        return frozenset(want for want, entry in self._entries.items() if entry.phase == "held")

    @property
    def refused(self) -> frozenset[Subscription]:
        """What the venue said it has not; it is not asked for again on this connection."""
        return frozenset(want for want, entry in self._entries.items() if entry.phase == "refused")

    @property
    def missing(self) -> frozenset[Subscription]:
        """What is wanted and not confirmed."""
        return frozenset(self._wanted) - self.held

    def want(self, wanted: Iterable[Subscription]) -> None:
        """Change what is to be subscribed."""
        self._wanted = dict.fromkeys(wanted)

    def forget(self) -> None:
        """Start over: a new connection carries nothing."""
        self._entries.clear()

    def renew(self, wanted: Subscription) -> bool:
        """Have a subscription ended and asked for anew; false where it is not held, thus being asked for already."""
        entry = self._entries.get(wanted)
        if entry is None or entry.phase != "held" or wanted not in self._wanted:
            return False
        entry.phase = "renewed"
        return True

    def overdue(self, now_s: float) -> list[Subscription]:
        """Return what was asked for and not answered in time."""
        return [
            want
            for want, entry in self._entries.items()
            if entry.phase == "asked" and now_s >= self._due_s(entry)
        ]

    def next(self, now_s: float) -> str | None:
        """Return the next message to send, taken as sent; None when all is said for now."""
        for want in self._wanted:
            entry = self._entries.get(want)
            if entry is not None and entry.phase == "renewed":
                self._entries[want] = _Entry("leaving", now_s)
                return _message("unsubscribe", want)
            if entry is None or (entry.phase in ("asked", "leaving") and now_s >= self._due_s(entry)):
                # An end that was never confirmed counts as one: asking again shows what the venue thinks.
                tries = entry.tries + 1 if entry is not None and entry.phase == "asked" else 1
                self._entries[want] = _Entry("asked", now_s, tries)
                return _message("subscribe", want)
        for want in [want for want in self._entries if want not in self._wanted]:
            entry = self._entries[want]
            if entry.phase in ("asked", "held", "renewed"):
                self._entries[want] = _Entry("leaving", now_s)
                return _message("unsubscribe", want)
            if entry.phase == "refused" or (now_s >= self._due_s(entry) and entry.tries >= _LEAVE_TRIES):
                del self._entries[want]
            elif now_s >= self._due_s(entry):
                self._entries[want] = _Entry("leaving", now_s, entry.tries + 1)
                return _message("unsubscribe", want)
        return None

    def due_s(self) -> float | None:
        """Return when the next timeout falls due; None while nothing is awaited."""
        waiting = [
            self._due_s(entry) for entry in self._entries.values() if entry.phase in ("asked", "leaving")
        ]
        return min(waiting, default=None)

    def take(self, frame: bytes) -> SubscriptionChange | None:
        """Read an answer of the venue; None where it says nothing of ours."""
        try:
            message = json.loads(frame)
            channel, data = message["channel"], message["data"]
            if channel == "subscriptionResponse":
                return self._answer(str(data["method"]), data["subscription"])
            if channel == "error":
                for text, meaning in _CLAIMS:
                    if str(data).startswith(text) and "{" in data:
                        return self._answer(meaning, json.loads(data[data.index("{") :]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # whoever reads the journal quarantines it, with the reason
        return None

    def _answer(self, method: str, echo: Any) -> SubscriptionChange | None:
        want = self._match(echo)
        if want is None:
            return None
        entry = self._entries[want]
        if method == "subscribe":
            # An end that was asked for in the meantime stands; its own answer is still to come.
            if entry.phase in ("renewed", "leaving"):
                return None
            entry.phase = "held"
            return SubscriptionChange(want, "held")
        if method == "unsubscribe":
            if entry.phase == "leaving":
                del self._entries[want]
            return SubscriptionChange(want, "gone")
        if entry.phase == "leaving":
            del self._entries[want]
        else:
            entry.phase = "refused"
        return SubscriptionChange(want, "refused")

    def _match(self, echo: Any) -> Subscription | None:
        """Return what an echo answers: of all that it holds every field of, the one asked for most exactly."""
        if not isinstance(echo, dict):
            return None
        fields = echo.items()
        fitting = [want for want in self._entries if want.body().items() <= fields]
        return max(fitting, key=lambda want: len(want.body()), default=None)

    def _due_s(self, entry: _Entry) -> float:
        patience = min(_PATIENCE_GROWTH ** (entry.tries - 1), _MOST_PATIENCE)
        return entry.at_s + self._timeout_s * patience


def _message(method: str, wanted: Subscription) -> str:
    return json.dumps({"method": method, "subscription": wanted.body()}, separators=(",", ":"))


async def subscribe(
    socket: ClientConnection,
    desired: SubscriptionState,
    news: asyncio.Event,
    shared: ConnectionContext,
    name: str,
) -> None:
    """Say what is wanted, and again what is not acknowledged in time; goes on until cancelled.

    Args:
        socket: where to say it.
        desired: what is to be said.
        news: set when there may be more to say.
        shared: pace and timers.
        name: the socket's, for the log.
    """
    is_told = False
    while True:
        now_s = now() if shared.has_timers else 0.0
        overdue = desired.overdue(now_s)
        if overdue and not is_told:
            logger.warning("subscriptions not acknowledged", missing=len(overdue), socket=name)
        is_told = bool(overdue) or (is_told and bool(desired.missing))
        message = desired.next(now_s)
        if message is not None:
            if shared.has_timers:
                await shared.messages.spend()
            await socket.send(message)
            continue
        due_s = desired.due_s() if shared.has_timers else None
        await _wait(news, None if due_s is None else due_s - now_s)
        news.clear()


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        await asyncio.wait_for(event.wait(), None if timeout_s is None else max(0.0, timeout_s))
    except TimeoutError:
        return
