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
import pyarrow as pa

from storage.contracts.contract import Contract
from storage.contracts.tables import CONTRACTS
from storage.contracts.validation import validate
from storage.errors import ContractError
from storage.lake.key_ranges import Spans, cut, held_in, in_order, meets, place, spans_of, time_held
from storage.lake.lake import CommitResult, Lake, Stamp, WriteResult
from storage.lake.maintenance import MERGE_BELOW_BYTES
from storage.lake.parquet_writer import ROW_GROUP_ROWS, TableFolder, TunedFile
from storage.lake.quarantine_rows import as_quarantine
from storage.logs import get_logger

logger = get_logger(__name__)

# From here on a load is faster than a commit: at 40,000 bars both took 160 ms of processor time, at 200,000 half of it
# (2026-11-26); and below, few files come from it.
BULK_ROWS: Final = 50_000
PIECE_ROWS: Final = 4 * ROW_GROUP_ROWS
# Compaction leaves such files as they are.
_FILE_BYTES: Final = 2 * MERGE_BELOW_BYTES
# They are held in memory until the commit; a stream that has more is not what it is taken for.
_MOST_REFUSED: Final = 100_000


@dataclass(slots=True)
class _Part:
    """A file of rows that share no key; `is_beside`: when it was begun, the table held rows in its span."""

    contract: Contract
    file: TunedFile
    is_beside: bool
    rows: int = 0
    spans: Spans = field(default_factory=dict)
    last: tuple[Any, ...] = ()

    def is_before(self, piece: pa.Table, spans: Spans) -> bool:
        """Say whether no key of a piece is in this part: all come after its last, or after their own span."""
        if place(self.contract, piece, 0) > self.last:
            return True
        return all(name not in self.spans or self.spans[name][1] < span[0] for name, span in spans.items())

    def take(self, piece: pa.Table, spans: Spans) -> None:
        """Write a piece that this part is before."""
        self.file.write(piece)
        self.rows += piece.num_rows
        self.last = max(self.last, place(self.contract, piece, -1))
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
        return CommitResult(lake.snapshot(), {}, 0, False)
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
) -> CommitResult:
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
        held = time_held(self._lake, contract)
        for piece in _pieces(contract, stream):
            good, bad = validate(contract, piece)
            self._refuse(contract, bad)
            if not good.num_rows:
                continue
            good = in_order(contract, good)
            spans = spans_of(contract, good)
            is_beside = meets(held, spans) and self._lake.query(*held_in(contract, spans)).num_rows > 0
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
        folder = TableFolder(self._lake.settings, f"{self._lake.data.rstrip('/')}/main/{contract.name}")
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

    def write(self, run: duckdb.DuckDBPyConnection, _: Stamp) -> WriteResult:
        """Register the files, or write their rows where the table may hold them, within `Lake.once`."""
        self._spare, count = [], self._count
        done = WriteResult({}, list(self._refused))
        for part in self.parts:
            name = part.contract.name
            done.rows.setdefault(name, 0)
            if not (part.is_beside or run.execute(*held_in(part.contract, part.spans)).fetchone()):
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
            piece = piece.slice(0, cut(contract, piece))
            yield piece
            waiting, rows = [whole.slice(piece.num_rows)], rows - piece.num_rows
    if rows:
        yield pa.concat_tables(waiting)
