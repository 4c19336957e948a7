"""Open times of candle files: every type and unit gives the same instants, or an error names the column."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ingest.backfill.candle_times import OpenTimes, TimeColumn
from storage.clock import NS
from storage.errors import CaptureError, SettingsError

MINUTE_NS = 60 * NS
NEW_YORK = "America/New_York"
FALL_NS = 1_762_059_600 * NS
"""2025-11-02T05:00Z, an hour before clocks are set back in New York."""
SPRING_NS = 1_741_500_000 * NS
"""2025-03-09T06:00Z, an hour before they are set forward."""


def read(values: Any, *, timezone: str | None = None, symbols: list[str] | None = None) -> OpenTimes:
    column = pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
    names = pa.chunked_array([pa.array(symbols or ["BTC"] * len(column))])
    return TimeColumn("made.parquet", "t", column, names).read(timezone)


def local(instants: list[int], zone: str) -> list[datetime]:
    return [datetime.fromtimestamp(t // NS, ZoneInfo(zone)).replace(tzinfo=None) for t in instants]


@hypothesis_settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1_262_304_000 // 60, 4_102_444_800 // 60), min_size=1, max_size=20))
def test_every_type_and_unit_gives_the_same_instants(minutes: list[int]) -> None:
    """Numbers in four units, as integers, floats, decimals and texts; timestamps and texts with a zone and without."""
    expected = np.array(minutes, np.int64) * MINUTE_NS
    moments = [datetime.fromtimestamp(minute * 60, UTC) for minute in minutes]
    zoned: list[Any] = [
        number
        for size_ns in (NS, 1_000_000, 1_000, 1)
        for ints in [(expected // size_ns).tolist()]
        for number in (
            ints,
            [float(value) for value in ints],
            [str(value) for value in ints],
            pa.array(ints).cast(pa.decimal128(30, 0)),
            pa.array([str(value) for value in ints]).dictionary_encode(),
        )
    ]
    zoned += [
        [moment.isoformat() for moment in moments],
        [f"{moment:%Y-%m-%d %H:%M:%S}Z" for moment in moments],
        [moment.astimezone(ZoneInfo("Asia/Kolkata")).isoformat() for moment in moments],
        pa.array(moments, pa.timestamp("ms", "Asia/Kolkata")),
    ]
    plain: list[Any] = [
        [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments],
        [f"{moment:%Y-%m-%dT%H:%M}:00" for moment in moments],
        *(
            pa.array([m.replace(tzinfo=None) for m in moments], pa.timestamp(unit))
            for unit in ("s", "ms", "us", "ns")
        ),
    ]
    for values in zoned:
        assert (read(values).t_ns == expected).all()
        assert not read(values).is_local
    for values in plain:
        assert (read(values).t_ns == expected).all()
        assert read(values).is_local
        assert not read(values, timezone="UTC").is_local


def test_a_date_is_midnight() -> None:
    assert read(pa.array([20_000], pa.date32())).t_ns.tolist() == [20_000 * 86_400 * NS]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            [1_735_689_540_000, 1_735_689_600_000_000],
            r"column t is in milliseconds first and in microseconds from row 2 on \(1735689600000000\)",
        ),
        (
            [1_735_689_540_000, 12],
            "column t has 1 candles outside of 2010 to 2100, the first in row 2: 12 is no time",
        ),
        ([1_735_689_540_000, None], "column t has 1 candles without a time"),
        ([1_735_689_540_000.0, float("nan")], "column t has 1 candles without a time"),
        (["2026-01-01T00:00:00Z", "2026-01-01T00:01:00"], "column t has times of several kinds"),
        (["2026-01-01T00:00:00Z", "1735689540000"], "column t has times of several kinds"),
        (["soon", "2026-01-01"], "column t has 1 texts that are no time, the first in row 1: 'soon'"),
        ([True, False], "column t holds bool, not times"),
        (
            pa.array([915_148_800, 1_767_225_600], pa.timestamp("s")),
            "1 candles outside of 2010 to 2100, the first in row 1: 1999",
        ),
    ],
)
def test_what_is_no_time_is_named_with_its_column(values: Any, text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        read(values)


@pytest.mark.parametrize("first_ns", [FALL_NS, SPRING_NS, 1_767_225_600 * NS])
@pytest.mark.parametrize("order", ["by coin", "by time"])
def test_local_times_are_read_by_the_order_of_each_coin(first_ns: int, order: str) -> None:
    instants = [first_ns + n * MINUTE_NS for n in range(240)]
    pairs = [(coin, t) for coin in ("BTC", "ETH") for t in instants]
    if order == "by time":
        pairs.sort(key=lambda pair: pair[1])
    symbols, expected = [coin for coin, _ in pairs], [t for _, t in pairs]
    times = read(local(expected, NEW_YORK), timezone=NEW_YORK, symbols=symbols)
    assert times.t_ns.tolist() == expected
    plain = read(local(expected, NEW_YORK), symbols=symbols)
    assert bool(plain.set_back) == (first_ns == FALL_NS)
    if plain.set_back:
        assert "goes back from 2025-11-02T01:59:00.000Z to 2025-11-02T01:00:00.000Z" in plain.set_back


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            local([FALL_NS + n * MINUTE_NS for n in range(60)], NEW_YORK),
            "or occur twice, .* 2025-11-02 01:00:00",
        ),
        (sorted(local([FALL_NS + n * MINUTE_NS for n in range(240)], NEW_YORK)), "or occur twice"),
        (
            [datetime.fromisoformat("2025-03-09T02:30:00")],
            "do not exist in America/New_York or occur twice, .* 2025-03-09 02:30:00",
        ),
    ],
)
def test_local_times_that_nothing_decides_are_refused(values: list[datetime], text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        read(values, timezone=NEW_YORK)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc", "/etc/localtime"])
def test_a_zone_that_does_not_exist_is_an_error_of_the_settings(name: str) -> None:
    with pytest.raises(SettingsError, match="which is no time zone"):
        read(["2026-01-01"], timezone=name)


def test_a_zone_for_times_that_have_one_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="--timezone is America/New_York, but column t of "):
        read([1_735_689_540_000], timezone=NEW_YORK)
