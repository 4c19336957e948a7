"""Coverage of days: which hours count as listed, which are covered, and why the rest is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from ingest.coverage.day_coverage import (
    DayCoverage,
    DayCoverageReader,
    ServedFrom,
    day_name,
    format_causes,
    parse_causes,
)
from storage.clock import DAY_NS, HOUR_NS, NS, ManualTime
from storage.contracts.tables import BARS, INSTRUMENTS, RECORDINGS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.plugins.property_tests import examples
from tests.storage.rows import BTC, bar

ETH, GAIA = "hyperliquid|perp|ETH", "gaiaex|perp|BTC"
MINUTE_NS = 60 * NS
START_NS = 20_000 * DAY_NS
DAY_MINUTES = 24 * 60
FIRST = START_NS // MINUTE_NS


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake.open(settings, clock=ManualTime(START_NS + 2 * DAY_NS)) as opened:
        yield opened


def quarters(instrument: str, *hours: float, step: int = 15, **changes: Any) -> list[dict[str, Any]]:
    """Return rows of 15-minute bars from hour to hour of the day."""
    (start, stop), width = hours, f"{step}m"
    rows = []
    for minute in range(int(start * 60), int(stop * 60), step):
        row = bar(FIRST + minute, instrument=instrument, width=width, **changes)
        rows.append(row | {"ts_close": row["ts_open"] + step * 60_000_000})
    return rows


def recording(name: str, *instruments: str, start_h: float, stop_h: float | None) -> dict[str, Any]:
    last = None if stop_h is None else START_NS + int(stop_h * HOUR_NS)
    return {
        "recording": name,
        "home": "here",
        "venue": "hyperliquid",
        "instruments": json.dumps(list(instruments)),
        "ts_started_ns": START_NS + int(start_h * HOUR_NS),
        "ts_last_ns": last,
        "ts_knowable_ns": START_NS + int(start_h * HOUR_NS),
    }


def listing(instrument: str, hour: float, state: str = "listed") -> dict[str, Any]:
    venue, kind, symbol = instrument.split("|")
    return {
        "instrument": instrument, "venue": venue, "kind": kind, "symbol": symbol, "dex": "", "asset_index": 0,
        "size_decimals": 2, "quote": "USDC", "max_leverage": 5.0, "state": state, "is_delisted": state != "listed",
        "generation": 1, "session": "always", "ts_knowable_ns": START_NS + int(hour * HOUR_NS),
    }  # fmt: skip


def stored(lake: Lake, **tables: list[dict[str, Any]]) -> None:
    contracts = {"bars": BARS, "recordings": RECORDINGS, "instruments": INSTRUMENTS}
    done = lake.commit(
        {name: contracts[name].rows(rows) for name, rows in tables.items()}, batch_id=f"{lake.snapshot()}"
    )
    assert done.refused == 0


def covered(lake: Lake, day: int = 0, served_from: ServedFrom = lambda _: None) -> dict[str, DayCoverage]:
    reader = DayCoverageReader(lake, width="15m", served_from=served_from)
    return {item.instrument: item for item in reader.cover(START_NS + day * DAY_NS)}


def test_the_four_states_and_their_hours(lake: Lake) -> None:
    blind = {"status": "blind", "cause": "silent stream; chain alive", "trades": 0}
    names = ("COMPLETE", "RESENT", "CANDLES", "PARTIAL", "MISSING")
    ids = {name: f"hyperliquid|perp|{name}" for name in names}
    stored(
        lake,
        recordings=[recording("a", *ids.values(), start_h=-24, stop_h=None)],
        instruments=[listing(name, -24) for name in ids.values()],
        bars=[
            *quarters(ids["COMPLETE"], 0, 24),
            *quarters(ids["RESENT"], 0, 23),
            *quarters(ids["RESENT"], 23, 24, repaired=True),
            *quarters(ids["CANDLES"], 0, 12),
            *quarters(ids["CANDLES"], 12, 24, origin="candle"),
            *quarters(ids["PARTIAL"], 0, 18),
            *quarters(ids["PARTIAL"], 18, 20, **blind),
        ],
    )
    found = {name: covered(lake)[instrument] for name, instrument in ids.items()}
    assert [(item.state, item.covered_h, item.missing_h) for item in found.values()] == [
        ("complete", 24.0, 0.0),
        ("repaired", 24.0, 0.0),
        ("repaired", 24.0, 0.0),
        ("partial", 18.0, 6.0),
        ("missing", 0.0, 24.0),
    ]
    assert found["PARTIAL"].causes == {"recorder_down": 4.0, "silent_stream": 2.0}
    assert format_causes(found["PARTIAL"].causes) == "recorder_down=4,silent_stream=2"


def test_hours_count_from_the_first_evidence_until_the_delisting(lake: Lake) -> None:
    stored(
        lake,
        recordings=[recording("a", BTC, ETH, start_h=6, stop_h=None)],
        instruments=[listing(BTC, 6), listing(ETH, 6), listing(ETH, 18.1, "delisted")],
        bars=[*quarters(BTC, 6, 24), *quarters(ETH, 6, 18), *quarters(ETH, 18, 18.25, status="unlisted")],
    )
    found = covered(lake)
    assert (found[BTC].state, found[BTC].covered_h) == ("complete", 18.0)
    assert (found[ETH].state, found[ETH].covered_h, found[ETH].missing_h) == ("complete", 12.0, 0.0)
    assert ETH not in covered(lake, 1), "it does not trade any more"
    assert BTC not in covered(lake, -1), "nobody had seen it"


def test_an_instrument_that_the_newest_recording_leaves_out_is_not_missing(lake: Lake) -> None:
    stored(
        lake,
        recordings=[
            recording("a", BTC, ETH, start_h=-2, stop_h=1),
            recording("b-1", BTC, start_h=25, stop_h=None),
            recording("b-2", GAIA, start_h=26, stop_h=None),
        ],
        bars=[*quarters(BTC, 0, 1), *quarters(ETH, 0, 1)],
    )
    assert covered(lake)[ETH].causes == {"recorder_down": 23.0}, "on the day itself it was expected"
    assert set(covered(lake, 1)) == {BTC, GAIA}, "both shards that run, and not what nobody records any more"
    assert covered(lake, 1)[BTC].state == "missing"


def test_imported_history_has_no_hours_before_its_first_or_after_its_last_bar(lake: Lake) -> None:
    history = {"origin": "candle"}
    stored(
        lake,
        bars=[
            *quarters(BTC, 6, 24, **history),
            *quarters(BTC, 48, 50, **history),
            *quarters(ETH, 0, 3, **history),
            *quarters(ETH, 4, 5, status="unknown", cause="candle absent", **history),
        ],
    )
    assert (covered(lake)[BTC].state, covered(lake)[BTC].covered_h) == ("repaired", 18.0)
    between = covered(lake, 1)[BTC]
    assert (between.state, between.missing_h, between.causes) == ("missing", 24.0, {"not_recorded": 24.0})
    assert (covered(lake, 2)[BTC].covered_h, covered(lake, 2)[BTC].missing_h) == (2.0, 0.0)
    assert covered(lake)[ETH].causes == {"candle_absent": 1.0, "not_recorded": 1.0}
    assert covered(lake, 1).keys() == {BTC}


@pytest.mark.parametrize(
    ("answered_h", "repairable_h"), [(10.5, 5.0), (12.0, 4.0)], ids=["may still come", "is final"]
)
def test_only_what_is_served_and_not_yet_answered_can_be_repaired(
    settings: Settings, answered_h: float, repairable_h: float
) -> None:
    clock = ManualTime(START_NS + 10 * HOUR_NS)
    with Lake.open(settings, clock=clock) as lake:
        stored(
            lake,
            recordings=[recording("a", BTC, start_h=-24, stop_h=None)],
            bars=[*quarters(BTC, 0, 8), *quarters(BTC, 14, 24)],
        )
        clock.advance_to(START_NS + int(answered_h * HOUR_NS))
        absent = {"status": "unknown", "cause": "candle absent", "origin": "candle"}
        stored(lake, bars=quarters(BTC, 9.75, 10.75, **absent))
        found = covered(lake, served_from=lambda _: START_NS + 9 * HOUR_NS)[BTC]
        reader = DayCoverageReader(lake, width="15m", served_from=lambda _: START_NS + 9 * HOUR_NS)
        assert [(gap.from_ns, gap.to_ns) for gap in reader.find_missing(START_NS, START_NS + DAY_NS)] == [
            (START_NS + 8 * HOUR_NS, START_NS + 14 * HOUR_NS)
        ]
    assert (found.missing_h, found.repairable_h) == (6.0, repairable_h)
    assert covered_by_none(found)


def covered_by_none(found: DayCoverage) -> bool:
    return found.state == "partial" and set(found.causes) == {"recorder_down", "candle_absent"}


STATUSES = {
    "printed": {},
    "quiet": {"status": "quiet", "trades": 0},
    "halted": {"status": "halted", "trades": 0},
    "blind": {"status": "blind", "cause": "socket silent for 30 s", "trades": 0},
    "unknown": {"status": "unknown", "cause": "rhythm not known", "trades": 0},
    "unlisted": {"status": "unlisted", "cause": "delisted", "trades": 0},
    "resent": {"repaired": True},
    "candle": {"origin": "candle"},
    "none": None,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lake, Callable[[], int]]]:
    """A lake in which each example has an instrument of its own, and the number of the next."""
    numbers = iter(range(1_000_000))
    home = Settings(home=tmp_path_factory.mktemp("drawn"))
    with Lake.open(home, clock=ManualTime(START_NS + 2 * DAY_NS)) as opened:
        yield opened, lambda: next(numbers)


@limited(max_examples=examples(20), deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(sorted(STATUSES)), min_size=2, max_size=96), st.integers(0, 96)),
        max_size=9,
    )
)
def test_covered_and_missing_hours_are_the_listed_hours(
    drawn: tuple[Lake, Callable[[], int]], cases: list[tuple[list[str], int]]
) -> None:
    lake, number = drawn
    days = {f"hyperliquid|perp|C{number()}": case for case in cases}
    stored(
        lake,
        bars=[
            quarters(name, at / 4, at / 4 + 0.25, **changes)[0]
            for name, (kinds, _) in days.items()
            for at, kind in enumerate(kinds)
            if (changes := STATUSES[kind]) is not None
        ],
        recordings=[recording(f"r{number()}", *days, start_h=-1, stop_h=24)],
        instruments=[
            row
            for name, (kinds, _) in days.items()
            for row in (listing(name, -1), listing(name, len(kinds) / 4, "delisted"))
        ],
    )
    found = covered(lake, served_from=lambda name: START_NS + days.get(name, ([], 0))[1] * HOUR_NS // 4)
    for name, (kinds, served) in days.items():
        check_law(found.get(name), kinds, served)


def check_law(found: DayCoverage | None, kinds: list[str], served: int) -> None:
    """Compare a day with its quarters of an hour, counted one by one."""
    listed = [kind for kind in kinds if kind != "unlisted"]
    if not listed:
        assert found is None
        return
    assert found is not None
    lost = ("blind", "unknown", "none")
    assert found.covered_h + found.missing_h == len(listed) / 4
    assert found.covered_h == sum(kind not in lost for kind in listed) / 4
    assert sum(found.causes.values()) == found.missing_h
    assert sum(parse_causes(format_causes(found.causes)).values()) == pytest.approx(found.missing_h, rel=1e-5)
    assert found.repairable_h == sum(kind in lost for kind in kinds[served:]) / 4
    whole = "repaired" if {"resent", "candle"} & set(listed) else "complete"
    assert found.state == (whole if not found.missing_h else "partial" if found.covered_h else "missing")
    assert found.day == day_name(START_NS)
