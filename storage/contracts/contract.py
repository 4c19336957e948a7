"""What is a contract: columns, units, key, order and checks of one table, and how a batch is held to them?

Every write goes through `validate` (validation.py), which runs the contract as a pandera schema and splits a
batch into the rows that fit and the rows that do not, with the reason. The columns `ts_ingested_ns` and `batch` are
stamped by the lake at commit and stand in every table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from storage.errors import ContractError

TS: Final = pa.timestamp("us", tz="UTC")
I64: Final = pa.int64()
I32: Final = pa.int32()
F64: Final = pa.float64()
TEXT: Final = pa.string()
FLAG: Final = pa.bool_()
BYTES: Final = pa.binary()
F64S: Final = pa.list_(pa.float64())

ORIGINS: Final = ("live", "venue_replay", "recent", "candle", "archive")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: its name; units are in it where the type does not carry them.
        type: its Arrow type.
        doc: what it says, for docs/tables.md.
        nullable: whether a missing value is allowed, and then means what `doc` says.
        low, high: bounds, inclusive; `low_open` makes the lower one exclusive.
        one_of: the closed set of its values.
    """

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    one_of: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Contract:
    """One table: what it holds, who writes it, and what makes a row unique.

    Args:
        name: the table's name.
        doc: what it holds and who writes it.
        columns: in order, without the stamps.
        key: the columns that make a row unique; rows are read in this order.
        ordered: pairs `(a, b)` where `a <= b` must hold in every row.
        said: the columns that two rows of one key must agree in; by default all but key and knowable time.
        revises: a row that says something new for a held key becomes its next revision.
    """

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    ordered: tuple[tuple[str, str], ...] = ()
    said: tuple[str, ...] = ()
    revises: bool = False

    @property
    def identity(self) -> tuple[str, ...]:
        """The key without the revision: what the row is about."""
        return tuple(name for name in self.key if name != "revision") if self.revises else self.key

    @property
    def content(self) -> tuple[str, ...]:
        """The columns in which two rows of one identity must agree to say the same."""
        if self.said:
            return self.said
        return tuple(name for name in self.schema.names if name not in (*self.key, "ts_knowable_ns"))

    @property
    def time(self) -> str | None:
        """The key's time column, by which a commit finds the rows that may be held already."""
        return next((name for name in self.key if name.startswith("ts_")), None)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The key's texts: of what a row is, such as an instrument and a width."""
        return tuple(c.name for c in self.columns if c.name in self.key and c.type == TEXT)

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of a batch, without the lake's stamps."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    @cached_property
    def stored_schema(self) -> pa.Schema:
        """The Arrow schema of the table as it lies in the lake."""
        return pa.schema([*self.schema, *STAMPS])

    def empty(self) -> pa.Table:
        """Return a batch without rows."""
        return self.schema.empty_table()

    def rows(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Return a batch from dictionaries; a key that is no column is an error, an absent one is null."""
        known = set(self.schema.names)
        for row in rows[:1]:
            if extra := set(row) - known:
                raise ContractError(
                    f"{self.name} has no column {sorted(extra)[0]!r}", hint="see docs/tables.md"
                )
        return pa.Table.from_pylist(rows, schema=self.schema)

    def typed(self, batch: pa.Table) -> pa.Table:
        """Return a batch with the columns of `schema` in their order and types; nulls are not looked at.

        Raises:
            ContractError: a column is missing or cannot be cast to its type.
        """
        missing = [name for name in self.schema.names if name not in batch.column_names]
        if missing:
            raise ContractError(f"{self.name} batch lacks column {missing[0]!r}", hint="see docs/tables.md")
        batch = batch.select(self.schema.names)
        # Types may be cast; whether a null is allowed is the schema's to say, row by row.
        target = pa.schema([pa.field(item.name, item.type) for item in self.schema])
        try:
            return batch.cast(target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ContractError(f"{self.name} batch does not fit its types: {error}") from error


STAMPS: Final = (
    pa.field("ts_ingested_ns", I64, False),
    pa.field("batch", TEXT, False),
)

# Columns that many tables share.
INSTRUMENT = Column("instrument", TEXT, "`venue|kind|raw_symbol`, byte-exact")
TS_EVENT = Column("ts_event", TS, "the venue's own time of it")
TS_RECV = Column("ts_recv_ns", I64, "when we received it", low=0)
KNOWABLE = Column("ts_knowable_ns", I64, "when a live system would have known this row", low=0)
ORIGIN = Column("origin", TEXT, "how the row reached us", one_of=ORIGINS)
WIDTH = Column("width", TEXT, "bar width, such as `1m`")
SOURCE = (
    Column("journal", TEXT, "the recording that holds the frame"),
    Column("frame", I64, "the frame's number in that recording", low=0),
)


def price(name: str, doc: str, *, nullable: bool = False) -> Column:
    """Return a column of prices, quote per base."""
    return Column(name, F64, doc, nullable, low=0.0, high=1e12, low_open=True)


def amount(name: str, doc: str, *, nullable: bool = False) -> Column:
    """Return a column of sizes or notionals."""
    return Column(name, F64, doc, nullable, low=0.0, high=1e18)
