"""As-of joins of other tables: only rows that were knowable at each close."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.inputs import InputView, leaves_of
from features.panel.asof_join import BOOK_COLUMNS, JOINED, asof_join
from features.panel.panel import Panel, load_panel
from features.sets import columns_of, get_set
from storage.clock import MS_NS, NS, US_NS, ManualTime
from storage.contracts.tables import BOOKS, FUNDING, LAGS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import MINUTE_NS, START_NS, bar_rows
from tests.plugins.property_tests import examples

A, GAIA = "hyperliquid|perp|BTC", "gaiaex|perp|BTC"
STEPS = 6
NAN = pytest.approx(np.nan, nan_ok=True)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS)) as opened:
        rows = [
            {"step": step, "instrument": name, "status": "quiet"}
            for step in range(STEPS)
            for name in (A, GAIA)
        ]
        opened.commit({"bars": bar_rows(rows)}, batch_id="bars")
        yield opened


def load(lake: Lake, *, first: int = 0, joined: tuple[str, ...] = JOINED) -> Panel:
    since_ns, until_ns = START_NS + first * MINUTE_NS, START_NS + STEPS * MINUTE_NS
    return load_panel(lake, width="1m", since_ns=since_ns, until_ns=until_ns, joined=joined, grace_ns=2 * NS)


def book(known_ns: int, **fields: Any) -> dict[str, Any]:
    """Return a row of `books` with six levels a side; a depth of five is 15 bid and 30 ask."""
    row = {
        "instrument": A,
        "ts_event": known_ns // US_NS - 300_000,
        "mode": "slow",
        "bid_px": [10.0 - i for i in range(6)],
        "bid_sz": [1.0, 2.0, 3.0, 4.0, 5.0, 100.0],
        "ask_px": [11.0 + i for i in range(6)],
        "ask_sz": [2.0, 4.0, 6.0, 8.0, 10.0, 100.0],
        "is_stale": False,
        "origin": "live",
        "ts_recv_ns": known_ns,
        "ts_knowable_ns": known_ns,
        "journal": "a-recording",
        "frame": known_ns - START_NS + 3_600 * NS,
    }
    return row | fields


def row_of(panel: Panel, name: str, instrument: str = A) -> list[float]:
    return panel.column(name)[panel.instruments.index(instrument)].tolist()


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_newest_row_that_was_knowable_counts(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = sorted(
        (str(draw.choice(["A", "B", "C"])), int(draw.integers(0, 40)), number)
        for number in range(draw.integers(0, 30))
    )
    table = pa.table(
        {
            "instrument": pa.array([name for name, _, _ in rows], pa.string()),
            "ts_knowable_ns": pa.array([known for _, known, _ in rows], pa.int64()),
            "x": pa.array([float(number) for _, _, number in rows], pa.float64()),
        }
    )
    at_ns, names = np.arange(0, 50, 3, dtype=np.int64), ("A", "B", "C", "D")
    found, age_ms = asof_join(table, ("x",), instruments=names, at_ns=at_ns, oldest_ns=20)
    for s, name in enumerate(names):
        for t, close_ns in enumerate(at_ns.tolist()):
            known = [
                (known, x) for own, known, x in rows if own == name and close_ns - 20 < known <= close_ns
            ]
            newest = known[-1] if known else (np.nan, np.nan)
            assert found["x"][s, t] == pytest.approx(newest[1], nan_ok=True)
            assert age_ms[s, t] == pytest.approx((close_ns - newest[0]) / MS_NS, nan_ok=True)


def test_a_book_counts_from_the_close_by_which_it_was_knowable(lake: Lake) -> None:
    closes_ns = [START_NS + (step + 1) * MINUTE_NS for step in range(STEPS)]
    rows = [
        book(closes_ns[0], bid_sz=[7.0], bid_px=[10.0]),
        book(closes_ns[1] + 1, bid_sz=[8.0], bid_px=[10.0]),
        book(closes_ns[4] - 20 * NS),
    ]
    lake.commit({"books": BOOKS.rows(rows)}, batch_id="books")
    panel = load(lake)
    # The first is a minute old at the second close, which is too old; the second was known 1 ns too late for it.
    assert row_of(panel, "bid_depth") == [7.0, NAN, 8.0, NAN, 15.0, NAN]
    assert row_of(panel, "ask_depth") == [30.0, NAN, 30.0, NAN, 30.0, NAN]
    ages_ms = row_of(panel, "book_age_ms")
    assert ages_ms == pytest.approx([0.0, np.nan, 60_000.0 - 1e-6, np.nan, 20_000.0, np.nan], nan_ok=True)
    # One book per minute has no valid cadence.
    view = InputView(leaves_of(panel))
    assert all(torch.isnan(view[f"{cadence}_bid_depth"]).all() for cadence in ("fast", "slow"))


def test_depths_are_missing_where_books_come_at_another_cadence(lake: Lake) -> None:
    """Slow books throughout, and fast ones in addition from the third bar on; the fifth is frozen."""
    rows = [book(START_NS + at * 5 * NS + 1) for at in range(STEPS * 12)]
    rows += [
        book(
            at_ns,
            mode="fast",
            bid_sz=[1.0, 1.0],
            bid_px=[10.0, 9.0],
            is_stale=at_ns >= START_NS + 4 * MINUTE_NS,
        )
        for at_ns in range(START_NS + 2 * MINUTE_NS + 1, START_NS + STEPS * MINUTE_NS, NS // 2)
    ]
    lake.commit({"books": BOOKS.rows(rows)}, batch_id="books")
    panel = load(lake)
    assert row_of(panel, "book_cadence_ms") == [5_000.0] * 2 + [500.0] * 4
    view = InputView(leaves_of(panel))
    place = panel.instruments.index(A)
    assert view["slow_bid_depth"][place].tolist() == [15.0, 15.0, NAN, NAN, NAN, NAN]
    assert view["fast_bid_depth"][place].tolist() == [NAN, NAN, 2.0, 2.0, NAN, NAN]
    assert torch.isnan(view["fast_bid_depth"][1 - place]).all(), "the books of another instrument"


def test_joined_values_do_not_depend_on_the_start_of_the_panel(lake: Lake) -> None:
    draw = np.random.default_rng(0)
    known_ns = (
        np.sort(draw.choice((STEPS + 2) * 60_000, 600, replace=False)) * MS_NS + START_NS - 2 * MINUTE_NS
    )
    rows = [
        book(
            int(at_ns), mode=str(draw.choice(["slow", "fast"])), bid_sz=[float(draw.random())], bid_px=[10.0]
        )
        for at_ns in known_ns
    ]
    lake.commit({"books": BOOKS.rows(rows), "funding": paid(), "lags": lags()}, batch_id="all")
    whole, compared = load(lake), 0
    for first in range(1, STEPS):
        piece = load(lake, first=first)
        for name in JOINED:
            old, new = whole.column(name)[:, first:], piece.column(name)
            assert torch.equal(torch.nan_to_num(old, -1.0), torch.nan_to_num(new, -1.0)), (first, name)
            compared += int((~torch.isnan(new)).sum())
    assert compared > 100


def paid() -> pa.Table:
    rows = [
        {
            "instrument": name,
            "ts_event": (START_NS + at_ns) // US_NS,
            "funding_rate": rate,
            "premium": None,
            "interval_h": hours,
            "source": "a file",
            "ts_knowable_ns": START_NS + at_ns + NS,
        }
        for name, at_ns, rate, hours in (
            (A, -8 * 3_600 * NS, 8e-5, 8),
            (A, 2 * MINUTE_NS - NS, 3e-5, 1),
            (A, 4 * MINUTE_NS, 4e-5, 1),
            (GAIA, -10 * 3_600 * NS, 9e-5, 1),
        )
    ]
    return FUNDING.rows(rows)


def test_a_payment_is_per_hour_and_counts_until_the_next(lake: Lake) -> None:
    lake.commit({"funding": paid()}, batch_id="paid")
    panel = load(lake)
    assert row_of(panel, "paid_rate") == pytest.approx([1e-5, 3e-5, 3e-5, 3e-5, 4e-5, 4e-5])
    assert row_of(panel, "paid_age_ms")[1:3] == [0.0, 60_000.0]
    assert row_of(panel, "paid_rate", GAIA) == [NAN] * 6, "longer than nine hours ago"


def lags() -> pa.Table:
    rows = [
        {
            "journal": journal,
            "channel": channel,
            "ts_from": (START_NS + step * MINUTE_NS) // US_NS,
            "frames": 5,
            **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "max_ms"), value),
            "negative": 5 if value is None else 0,
            "ts_knowable_ns": START_NS + (step + 1) * MINUTE_NS,
        }
        for journal, channel, step, value in (
            ("a", "gaiaex relay", 0, 120.0),
            ("a", "gaiaex relay", 2, None),
            ("a", "gaiaex relay", 3, 250.0),
            ("a", "trades", 4, 9_999.0),
        )
    ]
    return LAGS.rows(rows)


def test_a_relay_lag_is_joined_to_relayed_instruments_only(lake: Lake) -> None:
    lake.commit({"lags": lags()}, batch_id="lags")
    panel = load(lake)
    assert row_of(panel, "relay_lag_ms", GAIA) == [120.0, 120.0, 120.0, 250.0, 250.0, 250.0]
    assert row_of(panel, "relay_age_ms", GAIA) == [0.0, 60e3, 120e3, 0.0, 60e3, 120e3]
    assert row_of(panel, "relay_lag_ms") == [NAN] * 6


def test_a_snapshot_is_joined_as_it_was(lake: Lake) -> None:
    before = lake.snapshot()
    lake.commit({"lags": lags()}, batch_id="lags")
    panel = load_panel(lake, width="1m", joined=JOINED, at=before, grace_ns=2 * NS)
    assert torch.isnan(panel.column("relay_lag_ms")).all()


def test_only_what_a_set_reads_is_joined(lake: Lake) -> None:
    lake.commit({"books": BOOKS.rows([book(START_NS + NS)])}, batch_id="books")
    assert not set(load(lake, joined=()).values) & set(JOINED)
    assert set(load(lake, joined=("bid_depth", "close")).values) & set(JOINED) == set(BOOK_COLUMNS)
    assert not columns_of(get_set("live")) & set(JOINED)
    assert columns_of(get_set("wide")) >= set(JOINED)
    [depth] = [item for item in get_set("wide") if item.name == "depth_imbalance_fast"]
    assert columns_of([depth]) == set(BOOK_COLUMNS)
