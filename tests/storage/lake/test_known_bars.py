"""The choice among the rows of a bar, against a slow reference, and its laws."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.contracts.tables import BARS
from storage.lake.connection import connect_in_memory
from storage.lake.point_in_time import CLOCKS, Basis, is_known, known_bars
from tests.storage.lake.known_bars import MINUTE_NS, Row, histories, shown, winners
from tests.storage.rows import LAG_NS, bar

BASES: tuple[Basis, ...] = ("served", "available")
FIGURES = {"trades": None, "buy_volume": None, "notional": None, "vwap": None}


def table_of(rows: list[Row]) -> Any:
    homes = [row.get("home", "one") for row in rows]
    made = BARS.rows([{name: value for name, value in row.items() if name != "home"} for row in rows])
    for name, values in (("ts_ingested_ns", [0] * len(rows)), ("batch", ["b"] * len(rows)), ("home", homes)):
        made = made.append_column(BARS.stored_schema.field(name), [values])
    return made


def choose(
    run: duckdb.DuckDBPyConnection, sql: str, params: tuple[object, ...] = ()
) -> dict[tuple[str, int], Row]:
    """Return the rows that a query over `bars` chooses, by instrument and minute."""
    found = run.execute(sql, list(params)).to_arrow_table().to_pylist()
    chosen = {(row["instrument"], row["ts_open"].minute): shown(row) for row in found}
    assert len(chosen) == len(found)
    return chosen


def choose_among(rows: list[Row]) -> dict[int, Row]:
    """Return the rows that count among those of one instrument, by minute."""
    with connect_in_memory() as run:
        run.register("bars", table_of(rows))
        return {minute: row for (_, minute), row in choose(run, known_bars()).items()}


@hypothesis_settings(deadline=None, max_examples=30 if "DRILL" in os.environ else 6)
@given(
    st.lists(histories(), min_size=5, max_size=25),
    st.sampled_from(BASES),
    st.sampled_from((0, LAG_NS, 2 * LAG_NS, 5 * LAG_NS, 9 * LAG_NS)),
)
def test_the_query_chooses_and_completes_as_the_reference_does(
    drawn: list[list[Row]], basis: Basis, grace_ns: int
) -> None:
    clock = CLOCKS[basis]
    rows = [row | {"instrument": f"I{number}"} for number, history in enumerate(drawn) for row in history]

    def in_time(row: Row) -> bool:
        return bool(row[clock] <= row["ts_close"] * 1000 + grace_ns)

    def expected(clock: str, is_known: Callable[[Row], bool]) -> dict[tuple[str, int], Row]:
        return {key: shown(row) for key, row in winners(rows, clock=clock, is_known=is_known).items()}

    with connect_in_memory() as run:
        run.register("bars", table_of(rows))
        in_panel = known_bars(where=is_known(basis), basis=basis)
        assert choose(run, in_panel, (grace_ns,)) == expected(clock, in_time)
        latest = expected("ts_knowable_ns", lambda _: True)
        assert choose(run, known_bars(is_view=True)) == choose(run, known_bars()) == latest
        some = choose(
            run, known_bars(("bid", "instrument", "ts_open"), where=is_known(basis), basis=basis), (grace_ns,)
        )
        assert {key: row["bid"] for key, row in some.items()} == {
            key: row["bid"] for key, row in expected(clock, in_time).items()
        }


@hypothesis_settings(deadline=None, max_examples=5)
@given(histories(), st.randoms())
def test_what_is_known_does_not_depend_on_the_order_of_arrival(rows: list[Row], random: Any) -> None:
    """Revisions number arrivals; rows of one stamp and source are ordered by them, and no others."""
    last: dict[tuple[object, ...], Row] = {}
    for row in rows:
        last[row["ts_open"], row["origin"], row["home"], row["ts_knowable_ns"]] = row
    rows, numbers = list(last.values()), dict[int, int]()
    before = winners(rows, clock="ts_knowable_ns", is_known=lambda _: True)
    random.shuffle(rows)
    for row in rows:
        row["revision"] = numbers[row["ts_open"]] = numbers.get(row["ts_open"], -1) + 1
    after = choose_among(rows)
    for (_, minute), row in before.items():
        # Rows of different sources that are equally strong and equally new are the one exception.
        others = [item for item in rows if item["ts_open"] == row["ts_open"] and item is not row]
        if all(item["ts_knowable_ns"] != row["ts_knowable_ns"] for item in others):
            assert after[minute]["volume"] == row["volume"]
            assert after[minute]["status"] == row["status"]


LADDER = (
    {"status": "blind", "trades": 0, "volume": 0.0},
    {"status": "blind", "trades": 2},
    {"origin": "candle"},
    {"origin": "archive"},
    {},
)


@pytest.mark.parametrize("stronger", range(1, len(LADDER)))
def test_the_stronger_row_wins_whichever_came_later(stronger: int) -> None:
    for weaker in range(stronger):
        if not {weaker, stronger} & {2, 3}:  # two rows of one home's recordings are one source
            continue
        for late in (weaker, stronger):
            rows = [
                bar(0, **LADDER[n], revision=int(n == late), ts_knowable_ns=MINUTE_NS * (2 + (n == late)))
                for n in (weaker, stronger)
            ]
            (found,) = choose_among(rows).values()
            assert found["origin"] == rows[1]["origin"]
            assert found["status"] == rows[1]["status"]


@pytest.mark.parametrize("status", ["quiet", "halted", "unlisted", "printed"])
def test_a_complete_recording_beats_a_candle_although_it_watched_nothing(status: str) -> None:
    """A bar proven complete by overlap has `observed_ms` 0; a candle would lose its quotes and sides."""
    overlap = bar(0, status=status, observed_ms=0, repaired=True, bid=1.0, ask=2.0, quote_age_ms=5)
    later = bar(0, revision=1, origin="candle", observed_ms=0, buy_volume=None, ts_knowable_ns=10**15)
    (found,) = choose_among([overlap, later]).values()
    assert (found["origin"], found["bid"], found["buy_volume"]) == ("live", 1.0, 1.0)


def test_a_source_that_takes_back_its_row_no_longer_counts_with_the_old_one() -> None:
    rows = [bar(0), bar(0, revision=1, status="blind", ts_knowable_ns=10**15)]
    (found,) = choose_among(rows).values()
    assert found["status"] == "blind"
    candle = bar(0, revision=2, origin="candle", ts_knowable_ns=10**14)
    (found,) = choose_among([*rows, candle]).values()
    assert found["origin"] == "candle"


def test_sums_of_a_blind_bar_never_complete_another_row() -> None:
    blind = bar(0, status="blind", trades=2, buy_volume=1.0, volume=2.0, bid=3.0, quote_age_ms=1)
    candle = bar(0, revision=1, origin="candle", volume=2.0, **FIGURES)
    (found,) = choose_among([blind, candle]).values()
    assert {name: found[name] for name in FIGURES} == FIGURES
    assert found["bid"] == 3.0


def test_figures_come_from_a_complete_row_of_the_same_volume_only() -> None:
    archive = bar(0, origin="archive", volume=2.0, **FIGURES)
    for volume, trades in ((2.0 * (1 + 1e-12), 9), (2.1, None)):
        candle = bar(0, revision=1, origin="candle", volume=volume, **FIGURES | {"trades": 9})
        (found,) = choose_among([archive, candle]).values()
        assert (found["origin"], found["trades"]) == ("archive", trades)


def test_the_newest_stamp_decides_between_equals_then_the_revision() -> None:
    rows = [bar(0, revision=n, volume=float(n)) | {"home": home} for n, home in enumerate(("one", "two"))]
    assert [row["volume"] for row in choose_among(rows).values()] == [1.0]
    rows[0] = bar(0, volume=0.0, ts_knowable_ns=10**15) | {"home": "one"}
    assert [row["volume"] for row in choose_among(rows).values()] == [0.0]


def test_conditions_and_columns_of_a_query_on_the_view_reach_the_table() -> None:
    """A bar of a large lake is read from its part of the table, not from all rows, and only the columns asked for."""
    with connect_in_memory() as run:
        run.register(
            "rows", table_of([bar(minute, instrument=name) for minute in range(3) for name in "abc"])
        )
        run.execute("CREATE TABLE bars AS FROM rows")
        run.execute(f"CREATE VIEW bars_latest AS {known_bars(is_view=True)}")
        query = (
            "EXPLAIN SELECT status FROM bars_latest WHERE instrument = 'b' AND ts_open > make_timestamptz(1)"
        )
        plan = run.execute(query).fetchall()[0][1]
    assert plan.count("SEQ_SCAN") == plan.count("instrument='b'") > 1
    assert "funding_rate" not in plan
