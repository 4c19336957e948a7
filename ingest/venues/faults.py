"""What goes wrong on request: which faults of a venue can be ordered, and when do they strike?

The faults are those that clients of the venue report (lost sockets, replays, duplicates, late messages, one
silent coin, garbage, lost acknowledgements, refused requests). Times are seconds since the start of the tape,
in the tape's own time. `FaultPlan` is seeded and draws in the order of the tape, so that a run can be repeated.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from ingest.venues.frames import Block, Frame
from ingest.venues.subscriptions import Subscription

GarbageKind = Literal["text", "truncated", "unknown_channel", "wrong_shape", "binary"]

GARBAGE: Final[dict[GarbageKind, str | bytes]] = {
    "text": "Websocket connection established.",
    "truncated": '{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"1097',
    "unknown_channel": '{"channel":"weather","data":{"coin":"BTC","rain":"0.3"}}',
    "wrong_shape": '{"channel":"trades","data":{"coin":"BTC","px":109741.0,"time":"soon"}}',
    "binary": b"\x00\xff\xfe tickwalk \x80",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """Cut every socket, and take none until the outage is over."""

    at_s: float = 0.0
    outage_s: float = 0.0
    clean: bool = False
    """Close with code 1000 rather than drop the connection (which a client sees as 1006)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Send nothing of one coin while the others, and pongs, flow."""

    coin: str
    channels: tuple[str, ...] = ()
    """Only these; empty silences them all."""
    at_s: float = 0.0
    for_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Send a share of the trades messages twice."""

    share: float
    at_s: float = 0.0
    for_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorder:
    """Hold back a share of the trades messages for up to `window_s`, so that later ones overtake them."""

    share: float
    window_s: float
    at_s: float = 0.0
    for_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Send something that is no message of the protocol."""

    kind: GarbageKind
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseAck:
    """Do not acknowledge a subscription, the next `times` times that it is asked for."""

    channel: str
    coin: str
    times: int = 1
    takes_effect: bool = True
    """Whether the stream starts all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSubscribed:
    """Answer a new subscription with `Already subscribed`, as the venue does after a fast reconnect.

    The stream starts, without a replay.
    """

    channel: str
    coin: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPongs:
    """Leave pings unanswered."""

    at_s: float = 0.0
    for_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class FailInfo:
    """Answer the next `times` requests to `/info` with an error."""

    status: int = 500
    html: bool = False
    retry_after_s: int | None = None
    times: int = 1


Strike = Disconnect | Garbage
Counted = LoseAck | ClaimSubscribed | FailInfo
Fault = Strike | Counted | Silence | Duplicate | Reorder | NoPongs


class FaultPlan:
    """The faults ordered so far, and what they do to each block."""

    def __init__(self, faults: Iterable[Fault], *, start_ms: int, seed: int) -> None:
        self._start_ms = start_ms
        self._random = random.Random(seed)
        self._strikes: list[Strike] = []
        self._counted: list[list[Counted]] = []
        self._silences: list[Silence] = []
        self._shares: list[Duplicate | Reorder] = []
        self._mute_pongs: list[NoPongs] = []
        self._held: list[tuple[float, int, Frame]] = []
        self._sequence = itertools.count()
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Order a fault; one whose time has passed strikes at the next block."""
        match fault:
            case Disconnect() | Garbage():
                self._strikes.append(fault)
                self._strikes.sort(key=lambda item: item.at_s)
            case Silence():
                self._silences.append(fault)
            case Duplicate() | Reorder():
                self._shares.append(fault)
            case NoPongs():
                self._mute_pongs.append(fault)
            case LoseAck() | ClaimSubscribed() | FailInfo():
                self._counted.append([fault] * fault.times)

    def strikes(self, time_ms: int) -> list[Strike]:
        """Return, once, the faults of a single instant that are due."""
        now_s = self._since_start_s(time_ms)
        due = [item for item in self._strikes if item.at_s <= now_s]
        del self._strikes[: len(due)]
        return due

    def arrange(self, block: Block) -> list[Frame]:
        """Return the frames to send at a block: without the silenced, with the doubled and the late."""
        if not (self._silences or self._shares or self._held):
            return block.frames
        now_s = self._since_start_s(block.time_ms)
        out = [heapq.heappop(self._held)[2] for _ in range(self._count_released(now_s))]
        for frame in block.frames:
            if self.is_silent(frame.channel, frame.coin, block.time_ms):
                continue
            copies, delay_s = self._draw(now_s) if frame.prints else (1, 0.0)
            if delay_s:
                heapq.heappush(self._held, (now_s + delay_s, next(self._sequence), frame))
            else:
                out.extend([frame] * copies)
        return out

    def release(self) -> list[Frame]:
        """Return what is still held back, oldest first; a lost socket or the end of the tape ends the wait."""
        frames = [frame for _, _, frame in sorted(self._held)]
        self._held.clear()
        return frames

    def is_silent(self, channel: str, coin: str, time_ms: int) -> bool:
        """Return whether a stream is silenced at an instant."""
        now_s = self._since_start_s(time_ms)
        return any(
            item.coin == coin
            and (not item.channels or channel in item.channels)
            and item.at_s <= now_s < item.at_s + item.for_s
            for item in self._silences
        )

    def loses_pongs(self, time_ms: int) -> bool:
        """Return whether pings go unanswered at an instant."""
        now_s = self._since_start_s(time_ms)
        return any(item.at_s <= now_s < item.at_s + item.for_s for item in self._mute_pongs)

    def on_subscribe(self, subscription: Subscription) -> LoseAck | ClaimSubscribed | None:
        """Return, and use up, what goes wrong with a subscription."""
        for queue in self._counted:
            fault = queue[0]
            if isinstance(fault, FailInfo):
                continue
            if (fault.channel, fault.coin) == (subscription.channel, subscription.coin):
                self._use(queue)
                return fault
        return None

    def on_info(self) -> FailInfo | None:
        """Return, and use up, what goes wrong with a request to `/info`."""
        for queue in self._counted:
            fault = queue[0]
            if isinstance(fault, FailInfo):
                self._use(queue)
                return fault
        return None

    def _use(self, queue: list[Counted]) -> None:
        queue.pop()
        if not queue:
            self._counted.remove(queue)

    def _count_released(self, now_s: float) -> int:
        return sum(due_s <= now_s for due_s, _, _ in self._held)

    def _draw(self, now_s: float) -> tuple[int, float]:
        """Return (copies, delay in seconds) of one trades message."""
        copies, delay_s = 1, 0.0
        for item in self._shares:
            if not item.at_s <= now_s < item.at_s + item.for_s:
                continue
            if self._random.random() >= item.share:
                continue
            if isinstance(item, Duplicate):
                copies += 1
            else:
                delay_s = item.window_s * (1 - self._random.random())
        return copies, delay_s

    def _since_start_s(self, time_ms: int) -> float:
        return (time_ms - self._start_ms) / 1_000
