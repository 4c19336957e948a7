"""Bulk load: atomic, idempotent load of row streams as Parquet files, in bounded memory.

Rows are validated piece by piece, written as Parquet files beside the lake's other files, and registered in one
transaction with the row of `batches`. Until then the catalog does not name the files: a `kill -9` leaves orphans,
which `tickwalk lake verify --mend` removes.

Registering a file reads no rows, so it is valid only for keys that the lake does not have. Files are split so that no
key occurs twice in one. If a table has any row within a file's spans (see key_ranges.py), the rows of that file go
through `Lake.add` instead: equal rows are skipped, a changed bar becomes a revision, and any other conflict goes to
quarantine.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa

from storage.contracts.contract import Contract, Stamp
from storage.contracts.tables import CONTRACTS, QUARANTINE
from storage.contracts.validation import validate
from storage.errors import ContractError
from storage.lake.commit_result import CommitResult, WriteResult
from storage.lake.key_ranges import (
    Spans,
    in_order,
    overlap_query,
    overlaps,
    rows_before_last_instant,
    sort_key,
    spans_of,
    stored_time_range,
)
from storage.lake.lake import Lake
from storage.lake.maintenance import MERGE_BELOW_BYTES
from storage.lake.parquet_writer import ROW_GROUP_ROWS, TableFolder, TunedFile
from storage.lake.quarantine_rows import as_quarantine
from storage.logs import get_logger

logger = get_logger(__name__)

# From here on a load is faster than a commit: at 40,000 bars both took 160 ms of processor time, at 200,000 the load
# took half as long (2026-11-26). Smaller loads would make many small files.
BULK_ROWS: Final = 50_000
PIECE_ROWS: Final = 4 * ROW_GROUP_ROWS
# Compaction does not merge files of this size.
_FILE_BYTES: Final = 2 * MERGE_BELOW_BYTES
# Rejected rows are in memory until the commit; a stream with more than this is the wrong data or in wrong units.
_MAX_REJECTED: Final = 100_000


@dataclass(slots=True)
class _Part:
    """A file of rows with distinct keys; `is_beside`: the table had rows within its spans when the file was begun."""

    contract: Contract
    file: TunedFile
    is_beside: bool
    rows: int = 0
    spans: Spans = field(default_factory=dict)
    last: tuple[Any, ...] = ()

    def is_before(self, piece: pa.Table, spans: Spans) -> bool:
        """Return whether all rows of a piece come after this part, overall or for each key, so that no key repeats."""
        if sort_key(self.contract, piece, 0) > self.last:
            return True
        return all(name not in self.spans or self.spans[name][1] < span[0] for name, span in spans.items())

    def append(self, piece: pa.Table, spans: Spans) -> None:
        """Append a piece for which `is_before` is true."""
        self.file.write(piece)
        self.rows += piece.num_rows
        self.last = max(self.last, sort_key(self.contract, piece, -1))
        for name, (first, last) in spans.items():
            known = self.spans.get(name, (first, last))
            self.spans[name] = (min(known[0], first), max(known[1], last))


def load(
    lake: Lake,
    streams: Mapping[str, Iterable[pa.Table]],
    *,
    batch_id: str,
    inputs: Mapping[str, object] | None = None,
) -> CommitResult:
    """Write streams of rows over several tables atomically, and once per batch id.

    Rejected and existing rows are treated as in `Lake.commit`; `ts_ingested_ns` is the time at which the load began.
    Rows sorted by key or time load fastest.

    Args:
        lake: writable.
        streams: rows by table name, with the contract's columns; read one stream after the other.
        batch_id: loading an id again does nothing.
        inputs: lineage of the batch, stored as JSON.

    Raises:
        ContractError: too many rows were rejected.
        LakeError: the catalog stayed locked, or refused the batch.
    """
    if lake.query("SELECT 1 FROM batches WHERE batch_id = ?", [batch_id]).num_rows:
        return CommitResult(lake.snapshot(), {}, 0, False)
    staged = _Staged(lake, batch_id)
    try:
        for name, stream in streams.items():
            if name == QUARANTINE.name:
                staged.reject(stream)
            else:
                staged.append(CONTRACTS[name], stream)
    except BaseException:
        staged.abandon()
        raise
    # A failed transaction may have taken effect, so its files stay; at worst they are orphans.
    done = lake.once(staged.write, batch_id=batch_id, inputs=inputs)
    if done.is_new:
        staged.remove_upserted()
        logger.info("rows loaded", batch=batch_id, rows=done.rows, files=len(staged.parts))
    return done


def write_batch(
    lake: Lake, tables: Mapping[str, pa.Table], *, batch_id: str, inputs: Mapping[str, object] | None = None
) -> CommitResult:
    """Write an in-memory batch by a commit or a load, whichever is faster for its number of rows."""
    if sum(rows.num_rows for rows in tables.values()) < BULK_ROWS:
        return lake.commit(tables, batch_id=batch_id, inputs=inputs)
    return load(lake, {name: [rows] for name, rows in tables.items()}, batch_id=batch_id, inputs=inputs)


class _Staged:
    """Files of a load that are written and not yet registered."""

    def __init__(self, lake: Lake, batch_id: str) -> None:
        self._lake, self._stamp = lake, lake.stamp(batch_id)
        self.parts: list[_Part] = []
        self._upserted: list[_Part] = []
        self._rejected: list[pa.Table] = []
        self._count = 0

    def append(self, contract: Contract, stream: Iterable[pa.Table]) -> None:
        """Write the stream of a table into files."""
        part: _Part | None = None
        stored = stored_time_range(self._lake, contract)
        for piece in _pieces(contract, stream):
            good, bad = validate(contract, piece)
            self._reject(contract, bad)
            if not good.num_rows:
                continue
            good = in_order(contract, good)
            spans = spans_of(contract, good)
            is_beside = (
                overlaps(stored, spans) and self._lake.query(*overlap_query(contract, spans)).num_rows > 0
            )
            if part is not None and not (
                part.is_beside == is_beside
                and part.file.size_bytes < _FILE_BYTES
                and part.is_before(good, spans)
            ):
                part.file.close()
                part = None
            if part is None:
                part = self._begin(contract, is_beside, good)
            part.append(good, spans)
        if part is not None:
            part.file.close()

    def _begin(self, contract: Contract, is_beside: bool, rows: pa.Table) -> _Part:
        folder = TableFolder(self._lake.settings, f"{self._lake.data.rstrip('/')}/main/{contract.name}")
        file = TunedFile(folder, f"load-{uuid.uuid4()}.parquet", contract, self._stamp, rows)
        self.parts.append(_Part(contract, file, is_beside))
        return self.parts[-1]

    def _reject(self, contract: Contract, bad: pa.Table) -> None:
        if not bad.num_rows:
            return
        now_ns, batch_id = self._stamp[:2]
        self._rejected.append(as_quarantine(contract.name, bad, batch_id, now_ns, first=self._count))
        self._count += bad.num_rows
        if self._count > _MAX_REJECTED:
            raise ContractError(
                f"{contract.name} refuses more than {_MAX_REJECTED:,} rows of {batch_id}; one: {bad['reason'][0]}",
                hint="nothing was loaded; look at the source, it may be in other units",
            )

    def reject(self, stream: Iterable[pa.Table]) -> None:
        """Add rows of `quarantine` that the caller has made: they have no time in their key, and are few."""
        self._rejected += [rows for rows in stream if rows.num_rows]

    def write(self, run: duckdb.DuckDBPyConnection, _: Stamp) -> WriteResult:
        """Within `Lake.once`, register the files, or upsert the rows of files that overlap the table."""
        self._upserted, count = [], self._count
        done = WriteResult({}, list(self._rejected))
        for part in self.parts:
            name = part.contract.name
            done.rows.setdefault(name, 0)
            if not (part.is_beside or run.execute(*overlap_query(part.contract, part.spans)).fetchone()):
                run.execute("CALL ducklake_add_data_files('lake', ?, ?)", [name, [part.file.path]])
                done.rows[name] += part.rows
                continue
            self._upserted.append(part)
            for rows in part.file.read(PIECE_ROWS):
                written, conflict = self._lake.add(part.contract, rows, self._stamp)
                done.rows[name] += written
                if conflict.num_rows:
                    now_ns, batch_id = self._stamp[:2]
                    done.refused.append(as_quarantine(name, conflict, batch_id, now_ns, first=count))
                    count += conflict.num_rows
        return done

    def remove_upserted(self) -> None:
        """Remove the files whose rows were upserted instead."""
        for part in self._upserted:
            part.file.remove()

    def abandon(self) -> None:
        """Remove all files."""
        for part in self.parts:
            part.file.remove()


def _pieces(contract: Contract, stream: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield a stream in pieces of at most `PIECE_ROWS` rows, split where the time changes."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in stream:
        waiting.append(contract.typed(table))
        rows += table.num_rows
        while rows >= PIECE_ROWS:
            whole = pa.concat_tables(waiting)
            piece = whole.slice(0, PIECE_ROWS)
            piece = piece.slice(0, rows_before_last_instant(contract, piece))
            yield piece
            waiting, rows = [whole.slice(piece.num_rows)], rows - piece.num_rows
    if rows:
        yield pa.concat_tables(waiting)
