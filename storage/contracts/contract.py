"""Table contract: columns, units, key, order and rules of one table.

Every write goes through `validate` (validation.py), which runs the contract as a pandera schema and splits a batch
into valid rows and rejected rows with their reasons. The lake adds the columns `ts_ingested_ns` and `batch` to every
table at commit, and `home` to `bars`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

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
HISTORY_ORIGINS: Final = ("candle", "archive")
"""Origins of rows that no recording has."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: its name, with the unit unless the type implies it.
        type: its Arrow type.
        doc: its meaning, for docs/tables.md.
        nullable: whether nulls are allowed; `doc` gives their meaning.
        low, high: bounds, inclusive; `low_open` makes the lower one exclusive.
        one_of: the allowed values.
        nan: whether NaN is allowed where nulls are.
    """

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    one_of: tuple[str, ...] | None = None
    nan: bool = True


@dataclass(frozen=True)
class Contract:
    """The contract of one table.

    Args:
        name: of the table.
        doc: its content and its writers.
        columns: in order, without the stamps.
        key: the columns that make a row unique; rows are sorted by them.
        ordered: pairs `(a, b)` such that `a <= b` in every row.
        both_or_none: pairs of columns of which both are 0 or neither is, in every row.
        compared: the columns in which two rows of one key must agree (default: all but key and knowable time).
        revises: a row with a stored key and other values becomes the next revision.
        has_home: the lake also stamps each row with the home that wrote it.
    """

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    ordered: tuple[tuple[str, str], ...] = ()
    compared: tuple[str, ...] = ()
    revises: bool = False
    has_home: bool = False
    both_or_none: tuple[tuple[str, str], ...] = ()

    @property
    def identity(self) -> tuple[str, ...]:
        """The key without the revision."""
        return tuple(name for name in self.key if name != "revision") if self.revises else self.key

    @property
    def content(self) -> tuple[str, ...]:
        """The columns in which two rows of one identity must agree to be equal."""
        if self.compared:
            return self.compared
        return tuple(name for name in self.schema.names if name not in (*self.key, *_CLOCKS))

    @property
    def time(self) -> str | None:
        """The key's time column, by which a commit limits its search for stored rows."""
        return next((name for name in self.key if name.startswith("ts_")), None)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text columns of the key, such as instrument and width."""
        return tuple(c.name for c in self.columns if c.name in self.key and c.type == TEXT)

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of a batch, without the lake's stamps."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    @cached_property
    def stored_schema(self) -> pa.Schema:
        """The Arrow schema of the stored table."""
        return pa.schema([*self.schema, *self.stamps])

    @property
    def stamps(self) -> tuple[pa.Field[Any], ...]:
        """The columns that the lake adds at commit."""
        return (*STAMPS, HOME) if self.has_home else STAMPS

    def empty(self) -> pa.Table:
        """Return a batch without rows."""
        return self.schema.empty_table()

    def rows(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Return a batch from dictionaries; an unknown key is an error, a missing one is null."""
        known = set(self.schema.names)
        for row in rows[:1]:
            if extra := set(row) - known:
                raise ContractError(
                    f"{self.name} has no column {sorted(extra)[0]!r}", hint="see docs/tables.md"
                )
        return pa.Table.from_pylist(rows, schema=self.schema)

    def typed(self, batch: pa.Table) -> pa.Table:
        """Return a batch with the columns of `schema` in their order and types, without checking nulls.

        Raises:
            ContractError: a column is missing or cannot be cast to its type.
        """
        missing = [name for name in self.schema.names if name not in batch.column_names]
        if missing:
            raise ContractError(f"{self.name} batch lacks column {missing[0]!r}", hint="see docs/tables.md")
        batch = batch.select(self.schema.names)
        # Nullable here, because validation rejects nulls row by row.
        target = pa.schema([pa.field(item.name, item.type) for item in self.schema])
        try:
            return batch.cast(target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ContractError(f"{self.name} batch does not fit its types: {error}") from error


STAMPS: Final = (
    pa.field("ts_ingested_ns", I64, False),
    pa.field("batch", TEXT, False),
)
HOME: Final = pa.field("home", TEXT, False)
_CLOCKS: Final = ("ts_knowable_ns", "ts_available_ns")


class Stamp(NamedTuple):
    """Values of the columns that the lake adds to a row: time and batch of its commit, and the home that made it."""

    ingested_ns: int
    batch: str
    home: str

    def of(self, contract: Contract) -> tuple[int | str, ...]:
        """Return the values of a contract's stamps, in their order."""
        return self if contract.has_home else self[:2]


# Columns that many tables share.
INSTRUMENT = Column("instrument", TEXT, "`venue|kind|raw_symbol`, byte-exact")
TS_EVENT = Column("ts_event", TS, "the venue's time of the event")
TS_RECV = Column("ts_recv_ns", I64, "time of receipt", low=0)
KNOWABLE = Column("ts_knowable_ns", I64, "time from which a live system would have known the row", low=0)
AVAILABLE = Column(
    "ts_available_ns",
    I64,
    "time from which the venue had published the row: the close plus `bars.history_lag_ms` for history, a repaired row "
    "and any origin but `live`; otherwise `ts_knowable_ns`",
    low=0,
)
ORIGIN = Column("origin", TEXT, "source of the row", one_of=ORIGINS)
WIDTH = Column("width", TEXT, "bar width, such as `1m`")
SOURCE = (
    Column("journal", TEXT, "the recording that has the frame"),
    Column("frame", I64, "the frame's number in that recording", low=0),
)


def price(name: str, doc: str, *, nullable: bool = False) -> Column:
    """Return a column of prices, quote per base."""
    return Column(name, F64, doc, nullable, low=0.0, high=1e12, low_open=True)


def amount(name: str, doc: str, *, nullable: bool = False) -> Column:
    """Return a column of sizes or notionals."""
    return Column(name, F64, doc, nullable, low=0.0, high=1e18)
