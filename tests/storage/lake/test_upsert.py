"""Upsert of bars: what a source has said is stored once, and nothing else is left out."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.contracts.contract import Stamp
from storage.contracts.tables import BARS
from storage.lake.connection import connect_in_memory
from storage.lake.point_in_time import known_bars
from storage.lake.upsert import insert, split_new_and_conflicting
from tests.storage.lake.known_bars import Row, histories, shown, winners
from tests.storage.rows import bar


def table(run: duckdb.DuckDBPyConnection) -> None:
    run.register("layout", BARS.stored_schema.empty_table())
    run.execute("CREATE TABLE bars AS FROM layout")


def upsert(run: duckdb.DuckDBPyConnection, rows: list[Row], home: str = "one") -> list[Row]:
    """Write rows of one home, and return those that were written, with the revisions they got."""
    plain = [{name: value for name, value in row.items() if name != "home"} for row in rows]
    fresh, conflicts = split_new_and_conflicting(run, BARS, BARS.rows(plain), Stamp(0, "batch", home))
    assert conflicts.num_rows == 0
    insert(run, BARS, fresh, Stamp(0, "batch", home))
    return [row | {"home": home} for row in fresh.to_pylist()]


@pytest.fixture
def run() -> Any:
    with connect_in_memory() as connection:
        table(connection)
        yield connection


@hypothesis_settings(deadline=None, max_examples=6)
@given(histories(), st.lists(st.integers(0, 5), max_size=4))
def test_rows_written_in_any_batches_count_as_all_of_them_do(rows: list[Row], again: list[int]) -> None:
    """Whatever is written again, the stored rows choose as all rows would, in the order in which they came."""
    with connect_in_memory() as run:
        table(run)
        for row in rows:
            upsert(run, [row | {"revision": 0}], row["home"])
        before = run.execute("SELECT count(*) FROM bars").fetchall()
        for number in again:
            row = rows[number % len(rows)]
            assert upsert(run, [row | {"revision": 0}], row["home"]) == []
        assert run.execute("SELECT count(*) FROM bars").fetchall() == before
        found = run.execute(known_bars()).to_arrow_table().to_pylist()
    # What a source says again is not written: then its first saying counts.
    said: list[Row] = []
    for row in rows:
        if not any(_is_same(row, other) for other in said):
            said.append(row | {"revision": sum(other["ts_open"] == row["ts_open"] for other in said)})
    expected = winners(said, clock="ts_knowable_ns", is_known=lambda _: True)
    assert {row["ts_open"].minute: shown(row) for row in found} == {
        minute: shown(row) for (_, minute), row in expected.items()
    }


def _is_same(row: Row, other: Row) -> bool:
    is_history = row["origin"] in ("candle", "archive")
    names = [*BARS.identity, *BARS.content, *(() if is_history else ("ts_knowable_ns", "home"))]
    return all(row.get(name) == other.get(name) for name in names)


def test_a_weaker_row_of_the_same_source_is_stored_and_counts(run: duckdb.DuckDBPyConnection) -> None:
    upsert(run, [bar(0), bar(1, origin="candle", observed_ms=0)])
    worse = [
        bar(0, status="blind", cause="prints refused", observed_ms=100, trades=1),
        bar(1, origin="candle", observed_ms=0, status="unknown", volume=None, trades=None),
    ]
    assert [row["revision"] for row in upsert(run, worse)] == [1, 1]
    counting = run.execute(f"SELECT status FROM ({known_bars()}) ORDER BY ts_open").fetchall()
    assert counting == [("blind",), ("unknown",)]


def test_a_candle_does_not_replace_a_bar_proven_by_overlap(run: duckdb.DuckDBPyConnection) -> None:
    """Such a bar watched nothing, and a candle neither; the candle has no quotes and no sides."""
    upsert(run, [bar(0, observed_ms=0, repaired=True, bid=1.0, ask=2.0, quote_age_ms=1)])
    upsert(run, [bar(0, origin="candle", observed_ms=0, buy_volume=None)])
    assert run.execute("SELECT count(*) FROM bars").fetchall() == [(2,)]
    counting = run.execute(f"SELECT origin, bid, buy_volume FROM ({known_bars()})").fetchall()
    assert counting == [("live", 1.0, 1.0)]


def test_a_replay_and_a_repeated_import_add_nothing(run: duckdb.DuckDBPyConnection) -> None:
    recorded = [bar(0), bar(0, revision=1, volume=3.0, ts_knowable_ns=10**15)]
    assert len(upsert(run, recorded)) == 2
    candle = bar(0, origin="candle")
    assert len(upsert(run, [candle])) == 1
    assert upsert(run, recorded) == []
    assert upsert(run, [candle | {"ts_knowable_ns": 10**16}]) == [], "stamps of history do not matter"
    assert upsert(run, [candle], "two") == [], "candles are one source, whoever imports them"
    assert len(upsert(run, recorded, "two")) == 2, "another home's recording is a source of its own"


def test_the_same_values_at_another_time_are_a_revision_of_a_recording(
    run: duckdb.DuckDBPyConnection,
) -> None:
    """A bar that was blind for a while: its last row says what its first one did, and must count again."""
    rows = [
        bar(0),
        bar(0, revision=1, status="blind", ts_knowable_ns=10**15),
        bar(0, revision=2, ts_knowable_ns=10**16),
    ]
    for row in rows:
        assert len(upsert(run, [row])) == 1
    assert run.execute(f"SELECT status, revision FROM ({known_bars()})").fetchall() == [("printed", 2)]
