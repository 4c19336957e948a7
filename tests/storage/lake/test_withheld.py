"""Ranges of time whose market data are hidden from a reader."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pytest

from storage.contracts.tables import BARS, CONTRACTS
from storage.lake.connection import connect_in_memory
from storage.lake.lake import Lake
from storage.lake.withheld import SPANS, TimeRange, outside
from storage.settings import Settings
from tests.storage.rows import bar

HOUR_NS: Final = 3_600 * 10**9
START_NS, STOP_NS = 10 * HOUR_NS, 12 * HOUR_NS
MINUTE_NS: Final = 60 * 10**9
LENGTHS: Final = {"bars": MINUTE_NS, "candles": MINUTE_NS, "lags": MINUTE_NS}
"""Time that one row covers, of rows that do not speak of an instant."""
NO_MARKET_DATA: Final = {
    "clocks", "coverage", "coverage_days", "recordings", "instruments", "repairs", "quarantine", "retries", "versions",
    "lineages", "gate_days", "trials", "holdouts", "pins", "batches", "discrepancies", "fees", "migrations",
}  # fmt: skip
"""Reference data, ledgers, and what was observed or refused; a new table must be in one of both lists."""


def test_every_table_is_hidden_or_has_no_market_data() -> None:
    assert set(SPANS) | NO_MARKET_DATA == set(CONTRACTS)
    assert not set(SPANS) & NO_MARKET_DATA


def table_of(name: str, times_ns: list[int], *, width: str = "1m", length_ns: int | None = None) -> pa.Table:
    """Return one row of a table a time, without any value but its times."""
    length_ns = LENGTHS.get(name, 0) if length_ns is None else length_ns
    values = [
        {
            "ts_event": at_ns // 1000,
            "ts_open": at_ns // 1000,
            "ts_from": at_ns // 1000,
            "ts_close": (at_ns + length_ns) // 1000,
            "width": width,
            "ts_recv_ns": at_ns,
            "ts_knowable_ns": at_ns,
        }
        for at_ns in times_ns
    ]
    schema = pa.schema([field.with_nullable(True) for field in CONTRACTS[name].schema])
    return pa.Table.from_pylist(
        [{k: v for k, v in row.items() if k in schema.names} for row in values], schema
    )


def visible(name: str, rows: pa.Table, ranges: list[TimeRange]) -> list[bool]:
    """Return of each row whether it lies outside of the ranges."""
    with connect_in_memory() as run:
        run.register("rows", rows)
        found: list[bool] = (
            run.execute(f"SELECT {outside(name, ranges)} AS seen FROM rows").fetchnumpy()["seen"].tolist()
        )
    return found


@pytest.mark.parametrize("name", SPANS)
def test_rows_that_touch_a_range_are_hidden_and_no_others(name: str) -> None:
    length_ns = LENGTHS.get(name, 0)
    # A row that ends where the range begins lies outside; one of an instant is inside there.
    before = [0, START_NS - max(length_ns, 1000)]
    inside = [START_NS - length_ns // 2, START_NS, START_NS + HOUR_NS, STOP_NS - 1000]
    after = [STOP_NS, STOP_NS + HOUR_NS]
    rows = table_of(name, [*before, *inside, *after])
    ranges = [(50 * HOUR_NS, 51 * HOUR_NS), (START_NS, STOP_NS)]
    assert visible(name, rows, ranges) == [True] * 2 + [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("width", "length_ns"), [("1d", 24 * HOUR_NS), ("4h", 4 * HOUR_NS), ("30s", MINUTE_NS // 2)]
)
def test_candles_are_as_long_as_their_width(width: str, length_ns: int) -> None:
    candle = table_of("candles", [0], width=width)
    assert visible("candles", candle, [(length_ns, length_ns + 1)]) == [True]
    assert visible("candles", candle, [(length_ns - 1, length_ns)]) == [False]


def test_a_lake_hides_them_from_every_query(settings: Settings) -> None:
    minutes = [0, START_NS // MINUTE_NS, STOP_NS // MINUTE_NS]
    with Lake.open(settings) as lake:
        rows = BARS.rows([bar(minute, ts_knowable_ns=minute) for minute in minutes])
        lake.commit({"bars": rows}, batch_id="bars")
        at = lake.snapshot()

        def count(table: str, **more: int) -> int:
            return int(lake.query(f"SELECT count(*) AS n FROM {table}", **more)["n"][0].as_py())

        lake.withhold([(START_NS, STOP_NS)])
        assert (
            count("bars") == count("bars", at=at) == count("bars_latest") == count("bars_latest", at=at) == 2
        )
        assert count("bars", known_at_ns=minutes[1]) == count("bars_latest", known_at_ns=minutes[1]) == 1
        assert lake.query("SELECT count(*) AS n FROM pins_held")["n"].to_pylist() == [0]
        lake.withhold([])
        assert count("bars") == count("bars_latest", at=at) == 3
