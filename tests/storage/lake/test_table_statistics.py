"""Statistics of tables without rows: written when a lake is made, and in the end the same as DuckLake's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from storage.contracts.lake_records import PINS
from storage.contracts.tables import CONTRACTS
from storage.lake import schema_version
from storage.lake.lake import Lake
from storage.lake.schema_version import CATALOG
from storage.settings import Settings

pytestmark = pytest.mark.real_lakes
OF_THE_LAKE = ["ts_ingested_ns", "home"]
"""Columns with other values in each lake."""


def statistics(lake: Lake, table: str) -> list[tuple[Any, ...]]:
    """Return number of rows, next row and the statistics of each column of a table."""
    run = lake._connection
    found = run.execute(
        f"SELECT table_id FROM {CATALOG}.ducklake_table WHERE table_name = ? AND end_snapshot IS NULL",
        [table],
    ).fetchone()
    assert found is not None
    rows = run.execute(
        f"SELECT record_count, next_row_id FROM {CATALOG}.ducklake_table_stats WHERE table_id = ?", found
    ).fetchall()
    columns = run.execute(
        f"""
        SELECT column_name, s.* FROM {CATALOG}.ducklake_table_column_stats s JOIN {CATALOG}.ducklake_column c
        USING (table_id, column_id) WHERE table_id = ? AND NOT list_contains({OF_THE_LAKE}, column_name)
        ORDER BY column_id
        """,
        found,
    ).fetchall()
    return [*rows, *columns]


def fill(lake: Lake) -> None:
    facts = {"content": "c", "event": "pinned", "ts_knowable_ns": 5}
    for number, pin in enumerate("ba"):
        lake.commit({"pins": PINS.rows([facts | {"pin": pin, "snapshot": number}])}, batch_id=pin)


def test_every_table_of_a_new_lake_has_them(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        for name, contract in CONTRACTS.items():
            if name != "migrations":
                found = statistics(lake, name)
                assert found[0] == (0, 0)
                assert len(found) == 1 + len(set(contract.stored_schema.names) - set(OF_THE_LAKE))
                assert lake.query(f"SELECT count(*) AS n FROM {name}")["n"].to_pylist() == [0]


def test_first_rows_give_what_ducklake_writes_by_itself(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.open(settings) as lake:
        fill(lake)
        ours = statistics(lake, "pins")
    older = dataclasses.replace(settings, home=tmp_path / "older")
    with monkeypatch.context() as patched:
        patched.setattr(schema_version, "_count_empty_tables", lambda *_: None)
        with Lake.open(older) as lake:
            assert statistics(lake, "pins") == []
            fill(lake)
            assert statistics(lake, "pins") == ours
    with Lake.open(older, read_only=True) as lake:
        assert statistics(lake, "fees") == []
    with Lake.open(older) as lake:
        assert statistics(lake, "fees")[0] == (0, 0)
        assert statistics(lake, "pins") == ours
