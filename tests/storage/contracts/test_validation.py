"""Validation: rejected rows with the broken rule, equally on both engines."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.contracts import validation
from storage.contracts.tables import BARS, CANDLES, CONTRACTS, TRADES
from storage.contracts.validation import validate
from storage.errors import ContractError
from tests.storage.rows import bar, trade

BREACHES: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"price": 0.0}, "price is 0.0: greater_than"),
    ({"price": None}, "price is null"),
    ({"price": float("nan")}, "price is"),
    ({"size": -1.0}, "size is -1.0"),
    ({"side": "B"}, "side is B: isin"),
    ({"origin": None}, "origin is null"),
    ({"tid": -4}, "tid is -4"),
]


def test_every_contract_is_listed_under_its_name() -> None:
    assert all(name == contract.name for name, contract in CONTRACTS.items())
    assert all(set(contract.key) <= set(contract.schema.names) for contract in CONTRACTS.values())


@pytest.mark.parametrize(("changes", "reason"), [b for b in BREACHES if b[1]])
def test_a_broken_rule_is_named_with_the_value(changes: dict[str, Any], reason: str) -> None:
    good, bad = validate(TRADES, TRADES.rows([trade(1), trade(2, **changes)]))
    assert good["tid"].to_pylist() == [1]
    assert bad.num_rows == 1
    assert reason in bad["reason"][0].as_py()


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(range(len(BREACHES))), min_size=1, max_size=30))
def test_both_engines_refuse_the_same_rows(picks: list[int]) -> None:
    rows = TRADES.rows([trade(tid + 1, **BREACHES[pick][0]) for tid, pick in enumerate(picks)])
    every = validation._Unproven(tuple(TRADES.schema.names), TRADES.ordered, ())
    small = validation._failures_small(TRADES, rows, every)
    large = validation._failures(TRADES, rows, every)
    assert set(small) == set(large) == {row for row, pick in enumerate(picks) if pick}
    # What the columns' extremes prove is what pandera would have said of each value.
    assert validation.failures_of(TRADES, rows) == small


ROWS: list[dict[str, Any]] = [
    {},
    {"low": 200.0},
    {"low": None},
    {"buy_volume": 3.0},
    {"ts_open": None},
    {"volume": None},
]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(range(len(ROWS)))), min_size=1, max_size=20))
def test_rules_proven_for_the_whole_batch_agree_with_both_engines(picks: list[tuple[int, int]]) -> None:
    """Pairs in the wrong order, and nulls: what is not asked of each row would have been found sound."""
    rows = BARS.rows([bar(minute, **ROWS[pick]) for minute, pick in picks])
    every = validation._Unproven(tuple(BARS.schema.names), BARS.ordered, ())
    found = validation._broken_rules(BARS, rows)
    assert found == validation._failures_small(BARS, rows, every)
    assert set(found) == set(validation._failures(BARS, rows, every))


CANDLE: dict[str, Any] = {
    "instrument": "made|perp|BTC", "width": "1m", "open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0, "source": "made",
    "ts_knowable_ns": 0,
}  # fmt: skip
CANDLES_OF_ONE_KEY = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, -1.0, None]), st.sampled_from([None, 0, 7])),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=30)
@given(CANDLES_OF_ONE_KEY)
def test_the_first_valid_row_of_a_key_wins_and_equal_ones_are_skipped(
    picks: list[tuple[int, float | None, int | None]],
) -> None:
    """Against a loop: every row is kept, equal to an earlier one that is kept, or rejected with its reason."""
    rows = [
        CANDLE | {"ts_open": minute, "volume": volume, "trades": trades} for minute, volume, trades in picks
    ]
    kept: dict[int, dict[str, Any]] = {}
    expected: list[str] = []
    for row in rows:
        volume, trades = row["volume"], row["trades"]
        first = kept.get(row["ts_open"])
        if volume is None or volume < 0:
            expected.append("volume is")
        elif trades is not None and (volume == 0) != (trades == 0):
            expected.append("volume and trades are both 0 or neither is")
        elif first is None:
            kept[row["ts_open"]] = row
        elif first != row:
            expected.append("an earlier row has it, with other values")
    good, bad = validate(CANDLES, CANDLES.rows(rows))
    assert (
        good.select(["ts_open", "volume", "trades"]).to_pylist()
        == CANDLES.rows([*kept.values()]).select(["ts_open", "volume", "trades"]).to_pylist()
    )
    assert all(text in reason for text, reason in zip(expected, bad["reason"].to_pylist(), strict=True))


@pytest.mark.parametrize("engine", [validation._failures_small, validation._failures])
def test_a_volume_without_trades_and_trades_without_volume_contradict(engine: Any) -> None:
    pairs = [(0.0, 10), (5.0, 0), (0.0, 0), (5.0, 10), (5.0, None)]
    rows = [CANDLE | {"ts_open": at, "volume": volume, "trades": n} for at, (volume, n) in enumerate(pairs)]
    found = engine(CANDLES, CANDLES.rows(rows), validation._Unproven((), (), CANDLES.both_or_none))
    assert found == dict.fromkeys((0, 1), "volume and trades are both 0 or neither is")


def test_only_the_second_of_one_key_is_refused() -> None:
    good, bad = validate(TRADES, TRADES.rows([trade(1), trade(1, price=2.0), trade(1, frame=9), trade(2)]))
    assert good["price"].to_pylist() == [100.0, 100.0]
    assert "key is unique" in bad["reason"][0].as_py()
    assert bad.num_rows == 1, "an equal print on another socket is skipped"


def test_a_bar_whose_low_is_above_its_high_is_refused() -> None:
    _, bad = validate(BARS, BARS.rows([bar(0), bar(1, low=200.0)]))
    assert "low <= high" in bad["reason"][0].as_py()


def test_an_empty_bar_may_have_no_prices() -> None:
    empty = dict.fromkeys(("open", "high", "low", "close", "vwap"))
    good, bad = validate(
        BARS, BARS.rows([bar(0, status="quiet", volume=0.0, buy_volume=0.0, trades=0, **empty)])
    )
    assert (good.num_rows, bad.num_rows) == (1, 0)


def test_a_missing_column_is_an_error_of_the_caller() -> None:
    with pytest.raises(ContractError, match="trades batch lacks column 'price'"):
        validate(TRADES, TRADES.rows([trade(1)]).drop(["price"]))


def test_a_column_of_another_type_is_an_error_of_the_caller() -> None:
    rows = TRADES.rows([trade(1)]).drop(["price"]).append_column("price", pa.array(["dear"]))
    with pytest.raises(ContractError, match="does not fit its types"):
        validate(TRADES, rows)
