"""Trade deduplication, whatever comes between a print and its duplicate."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.pipeline import dedupe
from ingest.pipeline.dedupe import CONFLICT, KEPT, NEW, SEEN, TradeDeduplicator
from storage.clock import NS
from tests.plugins.property_tests import examples

PRINTS = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(1, 6), st.integers(0, 6), st.sampled_from([1.0, 2.0])),
    max_size=120,
)


@settings(max_examples=examples(100), deadline=None)
@given(PRINTS)
def test_the_first_of_a_key_is_new_and_every_later_one_is_judged_by_its_content(
    prints: list[tuple[str, int, int, float]],
) -> None:
    seen = TradeDeduplicator()
    held: dict[tuple[str, int, int], float] = {}
    for instrument, ts_ms, tid, price in prints:
        key = (instrument, ts_ms, tid)
        expected = NEW if key not in held else SEEN if held[key] == price else CONFLICT
        assert seen.judge(*key, (price, 1.0, 1), ts_ms * NS) == expected
        held.setdefault(key, price)
    again = [seen.judge(*key, (price, 1.0, 1), 9 * NS) for key, price in held.items()]
    assert again == [SEEN] * len(held)


def test_the_same_tid_at_another_time_or_of_another_instrument_is_another_print() -> None:
    seen = TradeDeduplicator()
    assert [seen.judge(i, t, 7, (1.0, 1.0, 1), 0) for i, t in (("A", 1), ("A", 2), ("B", 1))] == [NEW] * 3


def test_a_quiet_coin_is_remembered_through_millions_of_a_busy_one() -> None:
    seen = TradeDeduplicator(horizon_ns=NS)
    for n in range(KEPT):
        seen.judge("quiet", n, n, (1.0, 1.0, 1), 0)
    count = 300_000
    code = np.full(count, seen.code("busy"), np.int32)
    number = np.arange(count, dtype=np.int64)
    one = np.ones(count)
    busy: Any = (code, number, number, one, one, np.ones(count, np.int8), number * NS // 10_000)
    assert not seen.judge_many(*busy).any()
    assert [seen.judge("quiet", n, n, (1.0, 1.0, 1), 40 * NS) for n in range(KEPT)] == [SEEN] * KEPT
    # Ten thousand a second: those of the last second are held, and the memory is no larger than that needs.
    newest = tuple(column[-10_000:] for column in busy)
    assert (seen.judge_many(*newest) == SEEN).all()
    assert seen._code.size == dedupe._FIRST_PRINTS


def test_memory_grows_where_the_load_needs_it() -> None:
    seen = TradeDeduplicator(horizon_ns=600 * NS)
    count = 5 * dedupe._FIRST_PRINTS
    number = np.arange(count, dtype=np.int64)
    one = np.ones(count)
    prints = (
        np.full(count, seen.code("A"), np.int32),
        number,
        number,
        one,
        one,
        np.ones(count, np.int8),
        number,
    )
    assert not seen.judge_many(*prints).any()
    assert (seen.judge_many(*prints) == SEEN).all()
