"""`ts_available_ns`: one rule, in three forms."""

from __future__ import annotations

import duckdb
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.contracts.availability import available_ns, available_sql, with_available
from storage.contracts.contract import ORIGINS
from storage.contracts.tables import BARS
from tests.storage.rows import bar

bars = st.lists(
    st.builds(
        lambda minute, origin, repaired, lag: bar(
            minute, origin=origin, repaired=repaired, ts_knowable_ns=(minute + 1) * 60_000_000_000 + lag
        ),
        st.integers(0, 10**7),
        st.sampled_from(ORIGINS),
        st.booleans(),
        st.integers(0, 10**15),
    ),
    max_size=5,
)


@hypothesis_settings(deadline=None, max_examples=30)
@given(bars, st.integers(0, 10**10))
def test_the_rule_is_the_same_by_row_by_table_and_in_sql(rows: list[dict[str, object]], lag_ns: int) -> None:
    by_row = []
    for row in rows:
        is_from_the_socket = row["origin"] == "live" and not row["repaired"]
        close_ns = int(str(row["ts_close"])) * 1_000
        by_row.append(row["ts_knowable_ns"] if is_from_the_socket else close_ns + lag_ns)
        assert by_row[-1] == available_ns(
            origin=str(row["origin"]),
            repaired=bool(row["repaired"]),
            close_ns=close_ns,
            knowable_ns=int(str(row["ts_knowable_ns"])),
            lag_ns=lag_ns,
        )
    table = BARS.rows(rows)
    assert with_available(table, lag_ns)["ts_available_ns"].to_pylist() == by_row
    assert with_available(table.drop_columns(["ts_available_ns"]), lag_ns).schema.names == BARS.schema.names
    with duckdb.connect() as run:
        run.execute("SET TimeZone = 'UTC'")
        run.register("bars", table)
        found = run.execute(f"SELECT {available_sql(lag_ns)} FROM bars").fetchall()
    assert [value for (value,) in found] == by_row
