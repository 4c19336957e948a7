"""How does history of any size come into the lake as fast as files are written, once, whole, and in little memory?

Rows come as a stream. They are checked by their contract piece by piece, written as tuned Parquet beside the lake's
other files, and registered in one transaction with the row of `batches`. Until then nothing names the files: a
`kill -9` leaves orphans, which `tickwalk lake verify --mend` removes.

Registering looks at no row, so it is only for rows whose keys the lake cannot hold. Files are cut so that no key is
in one twice; where a table holds any row in a file's span (of each instrument and width, say, from its first instant
to its last), the rows of that file go through `Lake.add` instead: equal ones are skipped, a bar that says something
else becomes a revision, and any other contradiction goes to quarantine.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.contract import Contract
from storage.contracts import CONTRACTS
from storage.errors import ContractError
from storage.history import CATALOG
from storage.lake import Commit, Lake, Stamp, Written
from storage.logs import get_logger
from storage.migrations import SQL_TYPES
from storage.parquet import ROW_GROUP_ROWS, Folder, TunedFile
from storage.refused import as_quarantine
from storage.upkeep import MERGE_BELOW_BYTES
from storage.validate import rise

logger = get_logger(__name__)

# From here on a load is faster than a commit: at 40,000 bars both took 160 ms of processor time, at 200,000 half of it
# (2026-11-26); and below, few files come from it.
BULK_ROWS: Final = 50_000
PIECE_ROWS: Final = 4 * ROW_GROUP_ROWS
# Compaction leaves such files as they are.
_FILE_BYTES: Final = 2 * MERGE_BELOW_BYTES
# They are held in memory until the commit; a stream that has more is not what it is taken for.
_MOST_REFUSED: Final = 100_000

_Span = tuple[Any, Any]
_Spans = dict[tuple[str, ...], _Span]
"""First and last instant of each instrument, width, or whatever texts the key has."""


@dataclass(slots=True)
class _Part:
    """A file of rows that share no key; `is_beside`: when it was begun, the table held rows in its span."""

    contract: Contract
    file: TunedFile
    is_beside: bool
    rows: int = 0
    spans: _Spans = field(default_factory=dict)
    last: tuple[Any, ...] = ()

    def is_before(self, piece: pa.Table, spans: _Spans) -> bool:
        """Say whether no key of a piece is in this part: all come after its last, or after their own span."""
        if _place(self.contract, piece, 0) > self.last:
            return True
        return all(name not in self.spans or self.spans[name][1] < span[0] for name, span in spans.items())

    def take(self, piece: pa.Table, spans: _Spans) -> None:
        """Write a piece that this part is before."""
        self.file.write(piece)
        self.rows += piece.num_rows
        self.last = max(self.last, _place(self.contract, piece, -1))
        for name, (first, last) in spans.items():
            known = self.spans.get(name, (first, last))
            self.spans[name] = (min(known[0], first), max(known[1], last))


def load(
    lake: Lake,
    streams: Mapping[str, Iterable[pa.Table]],
    *,
    batch_id: str,
    inputs: Mapping[str, object] | None = None,
) -> Commit:
    """Write streams of rows over several tables: all of it, once, or nothing.

    What is refused, and what becomes of rows that are held, is as in `Lake.commit`; `ts_ingested_ns` says when the
    load began. Rows that come in the order of their key, or of their time, are the fastest.

    Args:
        lake: writable.
        streams: rows by table name, with the columns of the table's contract; read one after the other.
        batch_id: loading the same id again does nothing.
        inputs: what the batch was made from, kept as JSON.

    Raises:
        ContractError: more rows were refused than can be kept.
        LakeError: the catalog stayed locked, or refused the batch.
    """
    if lake.query("SELECT 1 FROM batches WHERE batch_id = ?", [batch_id]).num_rows:
        return Commit(lake.snapshot(), {}, 0, False)
    staged = _Staged(lake, batch_id)
    try:
        for name, stream in streams.items():
            staged.take(CONTRACTS[name], stream)
    except BaseException:
        staged.abandon()
        raise
    # Whether a transaction that failed took effect may be unknown, so its files stay: at worst they are orphans.
    done = lake.once(staged.write, batch_id=batch_id, inputs=inputs)
    if done.is_new:
        staged.tidy()
        logger.info("rows loaded", batch=batch_id, rows=done.rows, files=len(staged.parts))
    return done


def write_batch(
    lake: Lake, tables: Mapping[str, pa.Table], *, batch_id: str, inputs: Mapping[str, object] | None = None
) -> Commit:
    """Write a batch that is in memory, by a commit or a load, whichever is faster for as many rows."""
    if sum(rows.num_rows for rows in tables.values()) < BULK_ROWS:
        return lake.commit(tables, batch_id=batch_id, inputs=inputs)
    return load(lake, {name: [rows] for name, rows in tables.items()}, batch_id=batch_id, inputs=inputs)


class _Staged:
    """What a load has written and nothing names yet."""

    def __init__(self, lake: Lake, batch_id: str) -> None:
        self._lake, self._stamp = lake, lake.stamp(batch_id)
        self.parts: list[_Part] = []
        self._spare: list[_Part] = []
        self._refused: list[pa.Table] = []
        self._count = 0

    def take(self, contract: Contract, stream: Iterable[pa.Table]) -> None:
        """Write a table's stream into files."""
        part: _Part | None = None
        held = _time_held(self._lake, contract)
        for piece in _pieces(contract, stream):
            good, bad = contract.validate(piece)
            self._refuse(contract, bad)
            if not good.num_rows:
                continue
            good = _in_order(contract, good)
            spans = _spans_of(contract, good)
            is_beside = _meets(held, spans) and self._lake.query(*_held_in(contract, spans)).num_rows > 0
            if part is not None and not (
                part.is_beside == is_beside
                and part.file.size_bytes < _FILE_BYTES
                and part.is_before(good, spans)
            ):
                part.file.close()
                part = None
            if part is None:
                part = self._begin(contract, is_beside, good)
            part.take(good, spans)
        if part is not None:
            part.file.close()

    def _begin(self, contract: Contract, is_beside: bool, rows: pa.Table) -> _Part:
        folder = Folder(self._lake.settings, f"{self._lake.data.rstrip('/')}/main/{contract.name}")
        file = TunedFile(folder, f"load-{uuid.uuid4()}.parquet", contract, self._stamp, rows)
        self.parts.append(_Part(contract, file, is_beside))
        return self.parts[-1]

    def _refuse(self, contract: Contract, bad: pa.Table) -> None:
        if not bad.num_rows:
            return
        now_ns, batch_id = self._stamp
        self._refused.append(as_quarantine(contract.name, bad, batch_id, now_ns, first=self._count))
        self._count += bad.num_rows
        if self._count > _MOST_REFUSED:
            raise ContractError(
                f"{contract.name} refuses more than {_MOST_REFUSED:,} rows of {batch_id}; one: {bad['reason'][0]}",
                hint="nothing was loaded; look at the source, it may be in other units",
            )

    def write(self, run: duckdb.DuckDBPyConnection, _: Stamp) -> Written:
        """Register the files, or write their rows where the table may hold them, within `Lake.once`."""
        self._spare, count = [], self._count
        done = Written({}, list(self._refused))
        for part in self.parts:
            name = part.contract.name
            done.rows.setdefault(name, 0)
            if not (part.is_beside or run.execute(*_held_in(part.contract, part.spans)).fetchone()):
                run.execute("CALL ducklake_add_data_files('lake', ?, ?)", [name, [part.file.path]])
                done.rows[name] += part.rows
                continue
            self._spare.append(part)
            for rows in part.file.read(PIECE_ROWS):
                written, conflict = self._lake.add(part.contract, rows, self._stamp)
                done.rows[name] += written
                if conflict.num_rows:
                    now_ns, batch_id = self._stamp
                    done.refused.append(as_quarantine(name, conflict, batch_id, now_ns, first=count))
                    count += conflict.num_rows
        return done

    def tidy(self) -> None:
        """Remove the files whose rows were written otherwise."""
        for part in self._spare:
            part.file.remove()

    def abandon(self) -> None:
        """Remove all files."""
        for part in self.parts:
            part.file.remove()


def _pieces(contract: Contract, stream: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield a stream in pieces of `PIECE_ROWS` or little less, cut where the time changes."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in stream:
        waiting.append(contract.typed(table))
        rows += table.num_rows
        while rows >= PIECE_ROWS:
            whole = pa.concat_tables(waiting)
            piece = whole.slice(0, PIECE_ROWS)
            piece = piece.slice(0, _cut(contract, piece))
            yield piece
            waiting, rows = [whole.slice(piece.num_rows)], rows - piece.num_rows
    if rows:
        yield pa.concat_tables(waiting)


def _cut(contract: Contract, piece: pa.Table) -> int:
    """Return how many rows of a piece come before the instant of its last one; all, where that is every row's."""
    times = piece[_time(contract)]
    other: Any = pc.indices_nonzero(pc.not_equal(times, times[-1]))
    return other[-1].as_py() + 1 if len(other) else piece.num_rows


def _in_order(contract: Contract, rows: pa.Table) -> pa.Table:
    """Return rows by span and time; those of one instant stay as they came, for prints are ordered by nothing else."""
    names = _order(contract)
    if rows.num_rows < 2 or rise(rows, names)[1]:
        return rows
    return rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names]))


def _spans_of(contract: Contract, rows: pa.Table) -> _Spans:
    """Return the spans of rows that are in order."""
    begins = np.arange(rows.num_rows) == 0
    for name in contract.texts:
        begins[1:] |= pc.not_equal(rows[name][1:], rows[name][:-1]).to_numpy()
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], rows.num_rows) - 1
    names = zip(*(rows[name].take(firsts).to_pylist() for name in contract.texts), strict=True)
    ends = (rows[_time(contract)].take(at).to_pylist() for at in (firsts, lasts))
    return dict(zip(names, zip(*ends, strict=True), strict=True))


def _time_held(lake: Lake, contract: Contract) -> _Span | None:
    """Return the first and the last instant that a table has ever held, as its catalog notes; None where it is empty.

    Asking which rows are held takes a tenth of the time of writing as many, and most history is of another time.
    """
    time = _time(contract)
    kind = SQL_TYPES[contract.schema.field(time).type]
    found = lake.query(
        f"""
        SELECT CAST(s.min_value AS {kind}) AS first, CAST(s.max_value AS {kind}) AS last
        FROM {CATALOG}.ducklake_table t JOIN {CATALOG}.ducklake_column c USING (table_id)
        JOIN {CATALOG}.ducklake_table_column_stats s USING (table_id, column_id)
        WHERE t.table_name = ? AND c.column_name = ? AND s.min_value IS NOT NULL
        """,
        [contract.name, time],
    ).to_pylist()
    return (found[0]["first"], found[0]["last"]) if found else None


def _meets(held: _Span | None, spans: _Spans) -> bool:
    return held is not None and any(first <= held[1] and held[0] <= last for first, last in spans.values())


def _held_in(contract: Contract, spans: _Spans) -> tuple[str, list[Any]]:
    """Return the query that has a row where the table holds any in the spans, with its values."""
    names, time = contract.texts, _time(contract)
    texts = [list(values) for values in zip(*spans, strict=True)]
    firsts, lasts = [first for first, _ in spans.values()], [last for _, last in spans.values()]
    given = ", ".join(f"unnest(?) AS {name}" for name in (*names, "first", "last"))
    same = " AND ".join([*(f"h.{name} = s.{name}" for name in names), f"h.{time} BETWEEN s.first AND s.last"])
    # The bounds of all are for the catalog, which then names the files that may hold one.
    near = " AND ".join(f"h.{name} BETWEEN ? AND ?" for name in (*names, time))
    bounds = [bound for values in (*texts, [*firsts, *lasts]) for bound in (min(values), max(values))]
    return (
        f"WITH span AS (SELECT {given}) SELECT 1 FROM {contract.name} h JOIN span s ON {same} WHERE {near} LIMIT 1",
        [*texts, firsts, lasts, *bounds],
    )


def _place(contract: Contract, rows: pa.Table, at: int) -> tuple[Any, ...]:
    """Return what the order of rows goes by, of one of them."""
    return tuple(rows[name][at].as_py() for name in _order(contract))


def _order(contract: Contract) -> tuple[str, ...]:
    return (*contract.texts, _time(contract))


def _time(contract: Contract) -> str:
    if contract.time is None:
        raise ContractError(f"{contract.name} has no time in its key, so it cannot be loaded in bulk")
    return contract.time
