"""Detection of dead connections, and waits of the backoff."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from ingest.feed.backoff import Backoff
from ingest.feed.keepalive import Keepalive
from storage.settings.recording import RecordSettings


def pulse(**changes: object) -> Keepalive:
    fields = {"ping_s": 20.0, "pong_timeout_s": 10.0, "silence_s": 30.0} | changes
    return Keepalive(0.0, **fields)  # type: ignore[arg-type]  # the fields are those above


def run(
    kept: Keepalive, seconds: range, *, frames: bool = True, pongs: bool = True, paused: range = range(0)
) -> dict[int, str]:
    """Check once a second, pinging when due; return the findings by second."""
    found, sent = {}, 0
    for second in seconds:
        cause = kept.check(
            second, frames=second if frames else 0, pongs=sent if pongs else 0, is_paused=second in paused
        )
        if cause:
            found[second] = cause
        if kept.is_ping_due(second):
            kept.record_ping(second)
            sent += 1
    return found


def test_a_connection_with_data_is_alive() -> None:
    assert run(pulse(), range(1, 1_000)) == {}


def test_a_missing_pong_ends_the_connection_and_no_second_ping_hides_it() -> None:
    assert min(run(pulse(), range(1, 100), pongs=False).items()) == (11, "pong missing for 10 s")


def test_pongs_do_not_count_as_data() -> None:
    assert min(run(pulse(), range(1, 100), frames=False).items()) == (31, "socket silent for 30 s")


def test_without_reliable_pongs_only_silence_ends_the_connection() -> None:
    assert run(pulse(needs_pongs=False), range(1, 1_000), pongs=False) == {}
    assert min(run(pulse(needs_pongs=False), range(1, 100), frames=False, pongs=False)) == 31


def test_a_venue_without_pings_is_sent_none() -> None:
    assert not pulse(ping_s=None).is_ping_due(1e9)


def test_time_without_reading_is_not_silence() -> None:
    assert run(pulse(), range(1, 60), frames=False, pongs=False, paused=range(2, 60)) == {}
    busy = pulse()
    busy.record_ping(0.0)
    assert busy.check(1.0, frames=0, pongs=0, is_paused=False) == ""
    assert busy.check(500.0, frames=0, pongs=0, is_paused=False) == "", "the process was elsewhere"
    assert busy.check(501.0, frames=1, pongs=1, is_paused=False) == ""


def refusal(status: int, **headers: str) -> InvalidStatus:
    return InvalidStatus(Response(status, "", Headers({k.replace("_", "-"): v for k, v in headers.items()})))


@given(st.integers(1, 60), st.integers(0, 10_000))
def test_waits_are_drawn_from_zero_to_a_limit_that_doubles(failures: int, seed: int) -> None:
    backoff = Backoff(RecordSettings(), random.Random(seed))
    waits = [backoff.failed(1.0) for _ in range(failures)]
    for at, wait_s in enumerate(waits):
        assert 0.0 <= wait_s <= min(30.0, 0.5 * 2**at)


def test_a_healthy_minute_ends_the_backoff() -> None:
    backoff = Backoff(RecordSettings(), random.Random(1))
    for _ in range(20):
        backoff.failed(59.0)
    assert all(backoff.failed(61.0) <= 0.5 for _ in range(100))


@pytest.mark.parametrize(
    ("error", "least_s"),
    [
        (refusal(429), 15.0),
        (refusal(429, Retry_After="40"), 40.0),
        (refusal(429, Retry_After="soon"), 15.0),
        (refusal(503), 0.0),
        (OSError("refused"), 0.0),
    ],
)
def test_a_handshake_refused_with_429_waits_longer(error: BaseException, least_s: float) -> None:
    waits = [Backoff(RecordSettings(), random.Random(seed)).failed(0.0, error) for seed in range(50)]
    assert least_s <= min(waits)
    assert max(waits) <= least_s + 0.5
