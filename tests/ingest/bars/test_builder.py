"""Bars: published by the receipt clock, and revised, never edited."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.bars.aggregate import fold_groups
from ingest.bars.trade_buffer import TradeBuffer
from storage.clock import NS
from storage.settings import load_settings
from tests.ingest.pipeline.scripts import START_NS, Script, latest, run
from tests.plugins.property_tests import examples

BTC = "hyperliquid|perp|BTC"

prints = st.lists(
    st.tuples(
        st.integers(0, 179_000),  # event, ms
        st.integers(0, 40_000),  # receipt after it, ms
        st.sampled_from(["99.5", "100.0", "101.25"]),
        st.sampled_from(["0.5", "1.0", "2.75"]),
        st.sampled_from(["A", "B"]),
    ),
    max_size=40,
)


def script_of(items: list[tuple[int, int, str, str, str]]) -> Script:
    script = Script().open(0).alive(0.1, 230, every_s=5.0)
    for event_ms, after_ms, px, sz, side in items:
        made = script.a_print(event_ms / 1000, px=px, sz=sz, side=side)
        script.prints((event_ms + after_ms) / 1000, [made])
    return script.clock(243)


def test_a_late_print_reopens_its_bar_as_a_revision() -> None:
    script = Script().open(0).alive(0.1, 200).print(30.5).print(100, event_s=45.0, px="105.0")
    _, rows = run(script)
    said = [row for row in rows["bars"] if row["ts_open"].minute == 0]
    assert [(row["revision"], row["trades"], row["high"]) for row in said] == [(0, 1, 100.0), (1, 2, 105.0)]
    assert said[0]["ts_knowable_ns"] == START_NS + 62 * NS
    assert said[1]["ts_knowable_ns"] == START_NS + 122 * NS, "known at the next publishing, not before"


def test_a_late_print_revises_a_bar_that_is_dropped_at_the_same_instant() -> None:
    """At 182 s the bar of the first minute is too old to be kept; the print of 130 s still came in time for it."""
    script = Script().open(0).alive(0.1, 250).print(30.5).print(130.5, event_s=45.0, px="105.0")
    said = [row for row in run(script)[1]["bars"] if row["ts_open"].minute == 0]
    assert [(row["revision"], row["trades"], row["status"]) for row in said] == [
        (0, 1, "printed"),
        (1, 2, "printed"),
    ]


def test_of_one_instant_the_last_received_is_the_close() -> None:
    script = Script().open(0).alive(0.1, 70)
    script.prints(
        30, [script.a_print(29.5, px="1.0"), script.a_print(29.5, px="2.0"), script.a_print(29.5, px="3.0")]
    )
    bar = latest(run(script)[1]["bars"])[0]
    assert (bar["open"], bar["close"]) == (1.0, 3.0)


def test_prints_arriving_out_of_order_are_folded_in_order_of_venue_time() -> None:
    script = Script().open(0).alive(0.1, 70)
    script.print(30, event_s=20.0, px="2.0").print(31, event_s=10.0, px="1.0").print(
        32, event_s=25.0, px="3.0"
    )
    bar = latest(run(script)[1]["bars"])[0]
    assert (bar["open"], bar["close"]) == (1.0, 3.0)


def test_the_quote_of_a_bar_is_the_one_at_its_close() -> None:
    script = Script().open(0).alive(0.1, 50).bbo(59.0, 98.0).bbo(60.2, 97.0).bbo(61.0, 50.0).alive(62, 130)
    bar = latest(run(script)[1]["bars"])[0]
    assert bar["bid"] == 97.0, "its event, 59.7 s, lies in the bar; the next one's does not"
    assert bar["quote_age_ms"] == 300


def test_several_widths_come_from_one_pass() -> None:
    wanted = load_settings(overrides={"bars.widths": "1m,1s"}, environ={})
    _, rows = run(Script().open(0).alive(0.1, 130, every_s=0.25).print(30.5), wanted)
    seconds = [row for row in rows["bars"] if row["width"] == "1s"]
    minutes = [row for row in rows["bars"] if row["width"] == "1m"]
    assert len({row["ts_open"] for row in seconds}) >= 120
    assert sum(row["volume"] for row in seconds if row["revision"] == 0 and row["ts_open"].minute == 0) == 1.0
    assert latest(minutes)[0]["volume"] == 1.0


@settings(deadline=None, max_examples=examples(60))
@given(prints)
def test_volume_is_conserved(items: list[tuple[int, int, str, str, str]]) -> None:
    _, rows = run(script_of(items))
    bars = latest(rows["bars"])
    trades = rows.get("trades", [])
    assert sum(bar["trades"] for bar in bars.values()) == len(trades) == len(items)
    assert sum(bar["volume"] for bar in bars.values()) == pytest.approx(sum(t["size"] for t in trades))
    bought = sum(t["size"] for t in trades if t["side"] == "buy")
    assert sum(bar["buy_volume"] for bar in bars.values()) == pytest.approx(bought)


@settings(deadline=None, max_examples=examples(60))
@given(prints, st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_change_the_last_revision(
    items: list[tuple[int, int, str, str, str]], chance: Any
) -> None:
    """Prints with distinct times, delivered in any order within the hour, end in equal bars."""
    distinct = list({event_ms: item for item in items if (event_ms := item[0]) is not None}.values())
    delays = [chance.randrange(0, 40_000) for _ in distinct]
    shuffled = [(item[0], delay, *item[2:]) for item, delay in zip(distinct, delays, strict=True)]
    without = ("revision", "ts_knowable_ns", "ts_available_ns")
    first, second = (
        {
            m: {k: v for k, v in bar.items() if k not in without}
            for m, bar in latest(run(script_of(x))[1]["bars"]).items()
        }
        for x in (distinct, shuffled)
    )
    assert first == second


@settings(deadline=None, max_examples=examples(40))
@given(prints, prints, st.integers(10, 230))
def test_the_future_cannot_change_the_past(
    items: list[tuple[int, int, str, str, str]], others: list[tuple[int, int, str, str, str]], cut_s: int
) -> None:
    """Bars published up to an instant depend only on what had been received by then."""
    cut_ns = START_NS + cut_s * NS
    base = script_of(items)
    changed = Script()
    changed.records = [r for r in base.records if r.recv_ns <= cut_ns]
    extra = script_of(others)
    changed.records += [r for r in extra.records if r.recv_ns > cut_ns and r.kind.name in ("FRAME", "CLOCK")]
    published = [
        [row for row in run(script)[1].get("bars", []) if row["ts_knowable_ns"] < cut_ns]
        for script in (base, changed)
    ]
    assert published[0] == published[1]


@settings(deadline=None, max_examples=examples(40))
@given(prints)
def test_the_watermark_never_falls_and_revisions_count_up(
    items: list[tuple[int, int, str, str, str]],
) -> None:
    from ingest.pipeline.processor import Pipeline

    pipeline = Pipeline("made", load_settings(environ={}), is_capture=False)
    marks = []
    for record in script_of(items).sorted():
        pipeline.process(record)
        marks.append(pipeline.state.watermark_ns)
    assert marks == sorted(marks)
    by_bar: dict[object, list[dict[str, Any]]] = defaultdict(list)
    for row in pipeline.drain()["bars"].to_pylist():
        by_bar[row["ts_open"]].append(row)
    for revisions in by_bar.values():
        assert [row["revision"] for row in revisions] == list(range(len(revisions)))
        known = [row["ts_knowable_ns"] for row in revisions]
        assert known == sorted(set(known))


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 50),
                st.integers(0, 1 << 40),
                st.floats(0.5, 1e5),
                st.floats(1e-6, 1e6),
                st.sampled_from([1, -1, 0]),
            ),
            max_size=12,
            unique_by=lambda row: row[1],
        ),
        max_size=8,
    )
)
def test_the_fold_agrees_with_a_slow_loop(groups: list[list[tuple[int, int, float, float, int]]]) -> None:
    folded = fold_groups([TradeBuffer(group) for group in groups])
    for i, group in enumerate(groups):
        rows = sorted(group)
        assert folded.trades[i] == len(rows)
        if not rows:
            assert np.isnan(folded.open[i])
            continue
        prices = [row[2] for row in rows]
        assert (folded.open[i], folded.close[i]) == (prices[0], prices[-1])
        assert (folded.high[i], folded.low[i]) == (max(prices), min(prices))
        volume = bought = notional = 0.0
        for _, _, price, size, side in rows:  # the same sums in the same order: equal to the bit
            volume += size
            notional += price * size
            bought += size if side > 0 else 0.0
        assert (folded.volume[i], folded.buy_volume[i]) == (volume, bought)
        assert folded.notional[i] == pytest.approx(notional, rel=1e-15)
        assert folded.is_side_known[i] == all(row[4] != 0 for row in rows)
