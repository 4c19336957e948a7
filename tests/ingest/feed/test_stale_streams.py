"""Stale streams against quiet ones, by the pace of each coin."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.feed.stale_streams import Event, PaceChange, StaleStream, StaleStreamDetector, StreamRecovered
from storage.clock import NS
from storage.settings.recording import RecordSettings
from tests.patience import assert_within

START_NS = 1_790_000_000 * NS


class Scene:
    """Streams, each with its own pace, checked once a second."""

    def __init__(self, **record: Any) -> None:
        self.dogs = StaleStreamDetector(RecordSettings(**record))
        self.now_s = 0.0
        self.found: list[tuple[float, Event]] = []
        self._due: dict[tuple[int, str, str], tuple[float, float]] = {}

    def watch(self, connection: int, channel: str, coin: str, every_s: float) -> None:
        """Subscribe, and receive a frame every so often."""
        self.dogs.watch(connection, channel, coin, self._ns(self.now_s))
        self._due[connection, channel, coin] = (self.now_s + every_s, every_s)

    def mute(self, *streams: tuple[int, str, str]) -> None:
        for stream in streams:
            del self._due[stream]

    def hear(self, connection: int, channel: str, coin: str) -> None:
        self.dogs.record_frames(channel, coin, self._ns(self.now_s), connection=connection)

    def pass_s(self, seconds: float, answer: Callable[[StaleStream], None] | None = None) -> list[Event]:
        """Let time pass; return the findings."""
        end_s, found = self.now_s + seconds, []
        while self.now_s < end_s:
            self.now_s += 1.0
            arrivals = []
            for stream, (due_s, every_s) in self._due.items():
                while due_s <= self.now_s:
                    arrivals.append((due_s, stream))
                    due_s += every_s
                self._due[stream] = (due_s, every_s)
            for due_s, (connection, channel, coin) in sorted(arrivals):
                self.dogs.record_frames(channel, coin, self._ns(due_s), connection=connection)
            for event in self.dogs.check(self._ns(self.now_s)):
                self.found.append((self.now_s, event))
                found.append(event)
                if answer is not None and isinstance(event, StaleStream):
                    answer(event)
        return found

    def _ns(self, seconds: float) -> int:
        return START_NS + round(seconds * NS)


def silences(events: list[Event]) -> list[tuple[int, str, str, bool]]:
    return [(e.connection, e.channel, e.coin, e.is_lost) for e in events if isinstance(e, StaleStream)]


def test_a_slow_book_at_five_seconds_never_alarms_and_at_twenty_does() -> None:
    """Acceptance test 6 of the venue's contract, and F19."""
    scene = Scene()
    scene.watch(0, "l2Book", "BTC", 5.0)
    assert scene.pass_s(1_800.0) == []
    scene.mute((0, "l2Book", "BTC"))
    assert silences(scene.pass_s(20.0)) == [(0, "l2Book", "BTC", False)]


def test_a_slow_book_that_comes_every_twenty_seconds_from_the_start_alarms() -> None:
    scene = Scene()
    scene.watch(0, "l2Book", "BTC", 20.0)
    assert (0, "l2Book", "BTC", False) in silences(scene.pass_s(60.0))


def test_a_changed_cadence_of_books_is_reported_once_and_its_end_too() -> None:
    """F19: 0.5, 2, 5 seconds; what comes next?"""
    scene = Scene()
    for coin in ("BTC", "ETH", "SOL"):
        scene.watch(0, "l2Book", coin, 5.0)
    scene.pass_s(600.0)
    for coin in ("BTC", "ETH", "SOL"):
        scene.watch(0, "l2Book", coin, 10.0)
    drifts = [event for event in scene.pass_s(1_200.0) if isinstance(event, PaceChange)]
    assert drifts == [PaceChange("l2Book", 5.0, 10.0, is_over=False)]
    for coin in ("BTC", "ETH", "SOL"):
        scene.watch(0, "l2Book", coin, 5.0)
    drifts = [event for event in scene.pass_s(1_200.0) if isinstance(event, PaceChange)]
    assert drifts == [PaceChange("l2Book", 5.0, 5.0, is_over=True)]
    assert scene.dogs.cadence_s("l2Book") == 5.0


def test_one_dead_coin_is_subscribed_again_and_the_others_are_left_alone() -> None:
    """F6."""
    scene = Scene()
    for coin in ("BTC", "ETH"):
        scene.watch(0, "trades", coin, 2.0)
        scene.watch(0, "bbo", coin, 0.5)
        scene.watch(0, "l2Book", coin, 5.0)
    assert scene.pass_s(300.0) == []
    scene.mute(*((0, channel, "ETH") for channel in ("trades", "bbo", "l2Book")))
    found = silences(scene.pass_s(25.0))
    assert {coin for _, _, coin, _ in found} == {"ETH"}
    assert {channel for _, channel, _, _ in found} == {"trades", "bbo", "l2Book"}


def test_a_coin_without_trades_raises_no_alarm_while_its_book_flows() -> None:
    scene = Scene()
    scene.watch(0, "trades", "BTC", 10.0)
    scene.watch(0, "bbo", "BTC", 1.0)
    scene.watch(0, "l2Book", "BTC", 5.0)
    scene.pass_s(300.0)
    scene.mute((0, "trades", "BTC"))
    assert scene.pass_s(115.0) == [], "far beyond its own pace is four times three of its longest silences"
    assert silences(scene.pass_s(10.0)) == [(0, "trades", "BTC", False)]


def test_frames_on_the_second_socket_prove_this_one_stale() -> None:
    scene = Scene()
    for connection in (0, 1):
        scene.watch(connection, "trades", "BTC", 4.0)
    scene.watch(0, "bbo", "BTC", 1.0)
    scene.pass_s(120.0)
    scene.mute((0, "trades", "BTC"))
    assert silences(scene.pass_s(20.0)) == [(0, "trades", "BTC", False)]


def test_trades_resent_to_a_new_second_socket_prove_nothing() -> None:
    scene = Scene()
    scene.watch(0, "trades", "BTC", 40.0)
    scene.watch(0, "bbo", "BTC", 1.0)
    scene.pass_s(410.0)
    scene.mute((0, "trades", "BTC"))
    scene.pass_s(30.0)
    scene.dogs.watch(1, "trades", "BTC", START_NS + round(scene.now_s * NS))
    scene.hear(1, "trades", "BTC")
    assert scene.pass_s(60.0) == []


def test_candles_prove_nothing_while_nothing_trades() -> None:
    """F15: a minute without a print has no candle."""
    scene = Scene()
    scene.watch(0, "candle", "BTC", 1.0)
    scene.watch(0, "trades", "BTC", 1.0)
    scene.watch(0, "l2Book", "BTC", 5.0)
    scene.pass_s(120.0)
    scene.mute((0, "candle", "BTC"), (0, "trades", "BTC"))
    assert (0, "candle", "BTC", False) not in silences(scene.pass_s(60.0))


def test_candles_missing_while_trades_come_are_subscribed_again() -> None:
    scene = Scene()
    scene.watch(0, "candle", "BTC", 1.0)
    scene.watch(0, "trades", "BTC", 1.0)
    scene.pass_s(120.0)
    scene.mute((0, "candle", "BTC"))
    assert silences(scene.pass_s(15.0)) == [(0, "candle", "BTC", False)]


def test_a_coin_that_was_never_heard_is_not_judged_by_its_trades() -> None:
    scene = Scene()
    scene.watch(0, "trades", "NEW", 1e9)
    scene.watch(0, "bbo", "NEW", 1e9)
    assert scene.pass_s(3_600.0) == []


def test_a_recovered_stream_is_reported_once() -> None:
    scene = Scene()
    scene.watch(0, "activeAssetCtx", "BTC", 3.0)
    scene.pass_s(120.0)
    scene.mute((0, "activeAssetCtx", "BTC"))

    def resubscribed(silence: StaleStream) -> None:
        scene.hear(0, "activeAssetCtx", "BTC")
        scene.watch(0, "activeAssetCtx", "BTC", 3.0)

    found = scene.pass_s(60.0, resubscribed)
    assert silences(found) == [(0, "activeAssetCtx", "BTC", False)]
    assert [event for event in found if isinstance(event, StreamRecovered)] == [
        StreamRecovered(0, "activeAssetCtx", "BTC")
    ]


def test_if_a_new_subscription_brings_nothing_the_socket_is_reconnected_once() -> None:
    """F5, F6: if the reconnect does not help either, the socket is not cut again and again."""
    scene = Scene()
    scene.watch(0, "l2Book", "BTC", 5.0)
    scene.watch(0, "l2Book", "ETH", 5.0)
    scene.pass_s(120.0)
    scene.mute((0, "l2Book", "BTC"), (0, "l2Book", "ETH"))
    cuts: list[float] = []

    def reconnected(silence: StaleStream) -> None:
        if silence.is_lost:
            cuts.append(scene.now_s)
            scene.dogs.closed(silence.connection)
            for coin in ("BTC", "ETH"):
                scene.dogs.watch(silence.connection + 1, "l2Book", coin, START_NS + round(scene.now_s * NS))

    found = scene.pass_s(7_200.0, reconnected)
    assert len(cuts) == 1, "once for both streams, and no more in two hours"
    asked = [event for event in found if isinstance(event, StaleStream) and not event.is_lost]
    assert 10 < len(asked) < 60, "it is asked for again now and then"
    assert sum(event.is_news for event in asked) == 2


def test_a_false_alarm_makes_the_watchdog_more_patient() -> None:
    scene = Scene()
    scene.watch(0, "trades", "BTC", 5.0)
    scene.watch(0, "bbo", "BTC", 1.0)
    scene.pass_s(120.0)
    scene.mute((0, "trades", "BTC"))
    began_s = scene.now_s
    scene.pass_s(3_600.0, lambda silence: scene.hear(0, "trades", "BTC"))
    times = [at_s - began_s for at_s, event in scene.found if isinstance(event, StaleStream)]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert 3 <= len(times) <= 10
    assert pauses == sorted(pauses), "each asking waits longer than the one before"
    assert not any(event.is_lost for _, event in scene.found if isinstance(event, StaleStream))


@given(st.integers(-1_000_000, 1_000_000).filter(lambda step: not -1 <= step <= 10))
def test_a_clock_jump_raises_no_alarm(step_s: int) -> None:
    scene = Scene()
    scene.watch(0, "l2Book", "BTC", 5.0)
    scene.pass_s(60.0)
    assert scene.dogs.check(START_NS + round((60.0 + step_s) * NS)) == []
    assert scene.dogs.check(START_NS + round((61.0 + step_s) * NS)) == []


@given(
    gaps_s=st.lists(st.floats(0.05, 8.0), min_size=20, max_size=60),
    factor=st.floats(2.0, 5.0),
    least_s=st.floats(5.0, 20.0),
)
def test_a_steady_stream_may_be_silent_for_a_multiple_of_its_longest_silence(
    gaps_s: list[float], factor: float, least_s: float
) -> None:
    scene = Scene(silence_factor=factor, silence_least_s=least_s, silence_most_s=1_000.0)
    scene.dogs.check(START_NS)
    scene.dogs.watch(0, "activeAssetCtx", "BTC", START_NS)
    at_s = 0.0
    for gap_s in gaps_s:
        at_s += gap_s
        scene.dogs.record_frames("activeSpotAssetCtx", "BTC", START_NS + round(at_s * NS), connection=0)
        assert scene.dogs.check(START_NS + round(at_s * NS)) == []
    allowed_s = max(least_s, factor * max(gaps_s))
    # What was longest fades with half an hour; this takes minutes.
    soonest_s = max(least_s, 0.5 * allowed_s)
    now_s, found = at_s, []
    while not found:
        now_s += 0.5
        found = scene.dogs.check(START_NS + round(now_s * NS))
    assert soonest_s - 1e-6 <= now_s - at_s <= allowed_s + 0.51
    assert silences(found) == [(0, "activeAssetCtx", "BTC", False)]


def test_unwatched_streams_are_ignored() -> None:
    scene = Scene()
    scene.watch(0, "trades", "BTC", 1.0)
    scene.dogs.unwatch(0, "trades", "BTC")
    scene.dogs.unwatch(0, "trades", "BTC")
    scene.hear(0, "trades", "BTC")
    scene.hear(7, "l2Book", "BTC")
    assert scene.pass_s(100.0) == []
    assert scene.dogs.cadence_s("l2Book") is None


@pytest.mark.timed
@pytest.mark.parametrize("streams", [1_000])
def test_a_thousand_streams_are_checked_in_a_few_milliseconds(streams: int) -> None:
    scene = Scene()
    for number in range(streams):
        scene.watch(number % 4, "bbo", f"C{number}", 1e9)
    scene.dogs.check(START_NS)
    began_s = time.perf_counter()
    for second in range(20):
        scene.dogs.check(START_NS + second * NS)
    assert_within((time.perf_counter() - began_s) / 20, 0.02)
