"""Grid steps and instants: right-open, epoch-aligned, in nanoseconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.clock import NS, ManualTime, floor_ns, iso, parse_time_ns, width_ns
from storage.errors import SettingsError


@given(st.integers(0, 1 << 62), st.sampled_from(["1s", "10s", "1m", "5m", "1h", "1d"]))
def test_every_instant_lies_in_the_step_of_its_floor(t_ns: int, width: str) -> None:
    step = width_ns(width)
    opened = floor_ns(t_ns, step)
    assert opened <= t_ns < opened + step
    assert opened % step == 0


@pytest.mark.parametrize("text", ["", "1", "m", "0m", "1w", "-1m", "1.5m", "7m", "25h"])
def test_invalid_width_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"bar width"):
        width_ns(text)


@given(st.integers(0, 4_102_444_800_000))
def test_iso_round_trips_to_the_millisecond(t_ms: int) -> None:
    assert parse_time_ns(iso(t_ms * 1_000_000)) == t_ms * 1_000_000


def test_a_date_without_a_zone_is_utc() -> None:
    assert parse_time_ns("2025-09-04") == parse_time_ns("2025-09-04T02:00:00+02:00") == 1_756_944_000 * NS


def test_a_clock_never_goes_back() -> None:
    clock = ManualTime(5)
    clock.advance_to(9)
    clock.advance_to(3)
    assert clock.now_ns() == 9
