"""Subscription state of one connection, and the messages that bring it to what is wanted.

`SubscriptionState` is pure: time is an argument, in seconds of a monotonic clock. Subscriptions converge to what is
wanted whatever is lost on the way: every one has its own timeout, `Already subscribed` is a success, and the venue's
echo matches if it has at least the fields that were sent (the venue fills in fields that were left out).
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

SubscriptionOutcome = Literal["confirmed", "removed", "refused"]

_PATIENCE_GROWTH: Final = 2.0
_MOST_PATIENCE: Final = 6.0
# Most messages sent for an unsubscription that the venue does not confirm.
_UNSUBSCRIBE_TRIES: Final = 3
_ERROR_MEANINGS: Final[tuple[tuple[str, str], ...]] = (
    ("Already subscribed", "subscribe"),
    ("Already unsubscribed", "unsubscribe"),
    ("Invalid subscription", "refused"),
)


@dataclass(slots=True)
class _Entry:
    phase: Literal["requested", "confirmed", "renewing", "unsubscribing", "refused"]
    at_s: float
    tries: int = 1


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    """Effect of an answer of the venue on one subscription."""

    subscription: Subscription
    outcome: SubscriptionOutcome


class SubscriptionState:
    """Requested, confirmed and refused subscriptions of one connection."""

    def __init__(self, wanted: Iterable[Subscription], *, timeout_s: float) -> None:
        """Start with nothing requested.

        Args:
            wanted: subscriptions to make, most urgent first.
            timeout_s: send a message again after so long without an answer; doubles with each try, up to six times.
        """
        self._timeout_s = timeout_s
        self._wanted: dict[Subscription, None] = dict.fromkeys(wanted)
        self._entries: dict[Subscription, _Entry] = {}

    @property
    def wanted(self) -> tuple[Subscription, ...]:
        """The wanted subscriptions."""
        return tuple(self._wanted)

    @property
    def confirmed(self) -> frozenset[Subscription]:
        """Subscriptions that the venue confirmed."""
        return frozenset(want for want, entry in self._entries.items() if entry.phase == "confirmed")

    @property
    def refused(self) -> frozenset[Subscription]:
        """Subscriptions that the venue refused; not requested again on this connection."""
        return frozenset(want for want, entry in self._entries.items() if entry.phase == "refused")

    @property
    def missing(self) -> frozenset[Subscription]:
        """Wanted subscriptions that are not confirmed."""
        return frozenset(self._wanted) - self.confirmed

    def set_wanted(self, wanted: Iterable[Subscription]) -> None:
        """Replace the wanted subscriptions."""
        self._wanted = dict.fromkeys(wanted)

    def reset(self) -> None:
        """Start over with a new connection, which has no subscriptions."""
        self._entries.clear()

    def renew(self, subscription: Subscription) -> bool:
        """Unsubscribe and subscribe again; false if it is not confirmed, hence requested already."""
        entry = self._entries.get(subscription)
        if entry is None or entry.phase != "confirmed" or subscription not in self._wanted:
            return False
        entry.phase = "renewing"
        return True

    def overdue(self, now_s: float) -> list[Subscription]:
        """Return requested subscriptions that were not answered in time."""
        return [
            want
            for want, entry in self._entries.items()
            if entry.phase == "requested" and now_s >= self._due_s(entry)
        ]

    def next_message(self, now_s: float) -> str | None:
        """Return the next message and count it as sent; None if nothing is to be sent now."""
        for want in self._wanted:
            entry = self._entries.get(want)
            if entry is not None and entry.phase == "renewing":
                self._entries[want] = _Entry("unsubscribing", now_s)
                return _message("unsubscribe", want)
            if entry is None or (
                entry.phase in ("requested", "unsubscribing") and now_s >= self._due_s(entry)
            ):
                # An unconfirmed unsubscription counts as done: the next answer shows what the venue thinks.
                tries = entry.tries + 1 if entry is not None and entry.phase == "requested" else 1
                self._entries[want] = _Entry("requested", now_s, tries)
                return _message("subscribe", want)
        for want in [want for want in self._entries if want not in self._wanted]:
            entry = self._entries[want]
            if entry.phase in ("requested", "confirmed", "renewing"):
                self._entries[want] = _Entry("unsubscribing", now_s)
                return _message("unsubscribe", want)
            if entry.phase == "refused" or (
                now_s >= self._due_s(entry) and entry.tries >= _UNSUBSCRIBE_TRIES
            ):
                del self._entries[want]
            elif now_s >= self._due_s(entry):
                self._entries[want] = _Entry("unsubscribing", now_s, entry.tries + 1)
                return _message("unsubscribe", want)
        return None

    def due_s(self) -> float | None:
        """Return when the next timeout falls due; None if nothing is awaited."""
        waiting = [
            self._due_s(entry)
            for entry in self._entries.values()
            if entry.phase in ("requested", "unsubscribing")
        ]
        return min(waiting, default=None)

    def handle_answer(self, frame: bytes) -> SubscriptionChange | None:
        """Apply an answer of the venue; None if it concerns no subscription of this connection."""
        try:
            message = json.loads(frame)
            channel, data = message["channel"], message["data"]
            if channel == "subscriptionResponse":
                return self._answer(str(data["method"]), data["subscription"])
            if channel == "error":
                for text, meaning in _ERROR_MEANINGS:
                    if str(data).startswith(text) and "{" in data:
                        return self._answer(meaning, json.loads(data[data.index("{") :]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # the pipeline quarantines it, with the reason
        return None

    def _answer(self, method: str, echo: Any) -> SubscriptionChange | None:
        want = self._match(echo)
        if want is None:
            return None
        entry = self._entries[want]
        if method == "subscribe":
            # An unsubscription requested in the meantime stands; its own answer is still to come.
            if entry.phase in ("renewing", "unsubscribing"):
                return None
            entry.phase = "confirmed"
            return SubscriptionChange(want, "confirmed")
        if method == "unsubscribe":
            if entry.phase == "unsubscribing":
                del self._entries[want]
            return SubscriptionChange(want, "removed")
        if entry.phase == "unsubscribing":
            del self._entries[want]
        else:
            entry.phase = "refused"
        return SubscriptionChange(want, "refused")

    def _match(self, echo: Any) -> Subscription | None:
        """Return the subscription that an echo answers: the most specific one whose fields it all has."""
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
    state: SubscriptionState,
    changed: asyncio.Event,
    shared: ConnectionContext,
    name: str,
) -> None:
    """Send subscriptions, and again those not acknowledged in time, until cancelled.

    Args:
        socket: the open connection.
        state: the subscriptions of this connection.
        changed: set when there may be more to send.
        shared: rate limit and timers.
        name: of the socket, for the log.
    """
    has_warned = False
    while True:
        now_s = now() if shared.has_timers else 0.0
        overdue = state.overdue(now_s)
        if overdue and not has_warned:
            logger.warning("subscriptions not acknowledged", missing=len(overdue), socket=name)
        has_warned = bool(overdue) or (has_warned and bool(state.missing))
        message = state.next_message(now_s)
        if message is not None:
            if shared.has_timers:
                await shared.messages.spend()
            await socket.send(message)
            continue
        due_s = state.due_s() if shared.has_timers else None
        await _wait(changed, None if due_s is None else due_s - now_s)
        changed.clear()


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        await asyncio.wait_for(event.wait(), None if timeout_s is None else max(0.0, timeout_s))
    except TimeoutError:
        return
