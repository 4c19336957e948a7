"""Rows of each table that wait for the next commit."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from storage.contracts.tables import CONTRACTS

_MOST_PARTS: Final = 32
# Tables whose rows may be made one by one and by column: their order is that of the frames.
_BY_FRAME: Final = frozenset({"trades", "quotes"})


class RowBuffer:
    """Rows by table until they are committed."""

    def __init__(self) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTRACTS}
        self._tables: dict[str, list[pa.Table]] = {}

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Add a row."""
        self._rows[table].append(row)

    def extend(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Add rows."""
        self._rows[table] += rows

    def add_table(self, table: str, rows: pa.Table) -> None:
        """Add rows by column, in the contract's schema."""
        parts = self._tables.setdefault(table, [])
        parts.append(rows)
        if len(parts) >= _MOST_PARTS:  # many small blocks of memory are never returned to the system
            parts[:] = [pa.concat_tables(parts).combine_chunks()]

    def drain(self) -> dict[str, pa.Table]:
        """Return the rows added since the last call, by table, and forget them."""
        tables = {}
        for name, rows in self._rows.items():
            parts = self._tables.pop(name, [])
            if rows:
                parts.append(CONTRACTS[name].rows(rows))
                rows.clear()
            if parts:
                table = pa.concat_tables(parts)
                tables[name] = table.sort_by("frame") if len(parts) > 1 and name in _BY_FRAME else table
        return tables
