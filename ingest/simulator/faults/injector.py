"""Injection of delivery faults into the messages of a block.

The injector is seeded and draws in the order of the blocks, so that a run can be repeated.
"""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TypeVar

from ingest.simulator.faults.faults import (
    ClaimSubscribed,
    Counted,
    Delivery,
    Disconnect,
    Duplicate,
    FailInfo,
    FeedName,
    Garbage,
    Lag,
    LoseAck,
    NoPongs,
    Outage,
    RateLimit,
    RefuseConnections,
    RelayFrozen,
    RelayStale,
    Reorder,
    SilentStream,
    Strike,
)
from ingest.simulator.wire.encoder import Frame
from ingest.simulator.wire.subscriptions import StreamSubscription

AnyDelivery = TypeVar("AnyDelivery", bound=Delivery)


class FaultInjector:
    """Pending and active faults of delivery; `advance` sets the time."""

    def __init__(self, *, seed: int) -> None:
        self.now_s = 0.0
        """Seconds since the start of the source, of the newest block; before it 0."""
        self._random = random.Random(seed)
        self._instant_faults: list[Strike] = []
        self._counted: list[list[Counted]] = []
        self._windows: list[Delivery] = []
        self._shares: list[Duplicate | Reorder] = []
        self._silences: list[SilentStream] = []
        self._delayed: list[tuple[float, int, Frame]] = []
        self._sequence = itertools.count()

    def add(self, fault: Strike | Counted | Delivery) -> None:
        """Add a fault; one whose time has passed happens at the next block."""
        match fault:
            case Disconnect() | Garbage() | Outage():
                self._instant_faults.append(fault)
                self._instant_faults.sort(key=lambda item: item.at_s)
            case LoseAck() | ClaimSubscribed() | FailInfo() | RefuseConnections():
                self._counted.append([fault] * fault.times)
            case SilentStream():
                self._silences.append(fault)
            case Duplicate() | Reorder():
                self._shares.append(fault)
            case _:
                self._windows.append(fault)

    def advance(self, now_s: float) -> None:
        """Advance to the time of a block."""
        self.now_s = max(self.now_s, now_s)

    def due_faults(self) -> list[Strike]:
        """Return, once, the faults of a single instant that are due."""
        due = [item for item in self._instant_faults if item.at_s <= self.now_s]
        del self._instant_faults[: len(due)]
        return due

    def arrange(self, frames: list[Frame]) -> list[Frame]:
        """Return the frames to send at a block: without silenced ones, with duplicates and delayed ones."""
        if not (self._silences or self._shares or self._delayed):
            return frames
        out = [heapq.heappop(self._delayed)[2] for _ in range(self._count_released())]
        for frame in frames:
            if self.is_silent(frame.channel, frame.coin):
                continue
            copies, delay_s = self._draw() if frame.prints else (1, 0.0)
            if delay_s:
                heapq.heappush(self._delayed, (self.now_s + delay_s, next(self._sequence), frame))
            else:
                out.extend([frame] * copies)
        return out

    def release(self) -> list[Frame]:
        """Return the delayed frames, oldest first, at the loss of a socket or the end of the source."""
        frames = [frame for _, _, frame in sorted(self._delayed)]
        self._delayed.clear()
        return frames

    def is_silent(self, channel: str, coin: str) -> bool:
        """Return whether a stream is silenced."""
        return any(
            item.coin == coin and (not item.channels or channel in item.channels) and item.holds(self.now_s)
            for item in self._silences
        )

    def loses_pongs(self) -> bool:
        """Return whether pings stay unanswered."""
        return bool(self._active(NoPongs))

    def lag_ns(self) -> int:
        """Return the additional delay of deliveries."""
        return round(sum(item.by_s for item in self._active(Lag)) * 1e9)

    def most_connections(self) -> int | None:
        """Return how many connections a minute are accepted, or None for any number."""
        return min((item.per_minute for item in self._active(RateLimit)), default=None)

    def relay_is_stale(self, symbol: str) -> bool:
        """Return whether the relay reports the loss of its upstream."""
        return any(item.symbol in ("", symbol) for item in self._active(RelayStale))

    def relay_is_frozen(self, symbol: str) -> bool:
        """Return whether a relayed book is frozen without a report."""
        return any(item.symbol in ("", symbol) for item in self._active(RelayFrozen))

    def on_subscribe(self, subscription: StreamSubscription) -> LoseAck | ClaimSubscribed | None:
        """Return, and use up, the fault of a subscription."""
        for queue in self._counted:
            fault = queue[0]
            if isinstance(fault, LoseAck | ClaimSubscribed) and (fault.channel, fault.coin) == (
                subscription.channel,
                subscription.coin,
            ):
                self._use(queue)
                return fault
        return None

    def on_info(self) -> FailInfo | None:
        """Return, and use up, the fault of a request to `/info`."""
        for queue in self._counted:
            fault = queue[0]
            if isinstance(fault, FailInfo):
                self._use(queue)
                return fault
        return None

    def on_connect(self, feed: FeedName) -> RefuseConnections | None:
        """Return, and use up, the refusal of a handshake."""
        for queue in self._counted:
            fault = queue[0]
            if isinstance(fault, RefuseConnections) and fault.feed == feed:
                self._use(queue)
                return fault
        return None

    def _active(self, kind: type[AnyDelivery]) -> list[AnyDelivery]:
        """Return the active faults of a kind."""
        return [item for item in self._windows if isinstance(item, kind) and item.holds(self.now_s)]

    def _use(self, queue: list[Counted]) -> None:
        queue.pop()
        if not queue:
            self._counted.remove(queue)

    def _count_released(self) -> int:
        return sum(due_s <= self.now_s for due_s, _, _ in self._delayed)

    def _draw(self) -> tuple[int, float]:
        """Return (copies, delay in seconds) of one trades message."""
        copies, delay_s = 1, 0.0
        for item in self._shares:
            if not item.holds(self.now_s) or self._random.random() >= item.share:
                continue
            if isinstance(item, Duplicate):
                copies += 1
            else:
                delay_s = item.window_s * (1 - self._random.random())
        return copies, delay_s
