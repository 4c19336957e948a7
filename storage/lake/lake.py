"""The lake: versioned tables with atomic, idempotent commits over several tables.

The lake is a DuckLake: Parquet files under a catalog (SQLite inside the lake, or Postgres by setting). A commit makes
one snapshot of all tables, has an idempotent batch id and records its inputs.

Measured problems that shaped this module (docs/adr/0002):
- Two SQLite libraries on one catalog in one process lose commits, so nothing here opens it with `sqlite3`.
- SQLite commits fail with `database is locked`, so each is guarded by a file lock and retried with jitter.
- Inlined rows broke file rewriting, so inlining is off.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import duckdb
import pyarrow as pa

from storage.clock import MS_NS, TimeSource, WallTime
from storage.code_version import code_version
from storage.contracts.contract import Contract, Stamp
from storage.contracts.lake_records import BATCHES
from storage.contracts.tables import CONTRACTS, QUARANTINE
from storage.contracts.validation import SMALL_BATCH_ROWS, validate
from storage.errors import LakeError
from storage.lake.commit_result import CommitResult, Write, WriteResult
from storage.lake.connection import (
    connect,
    first_line,
    in_one_thread,
    quoted,
    redacted,
    retry,
    rollback,
    thread_count,
)
from storage.lake.empty_tables import EmptyTables
from storage.lake.home_id import home_id
from storage.lake.locks import READERS_PATIENCE_S, LakeLocks
from storage.lake.migrations import HomeFacts
from storage.lake.point_in_time import Basis
from storage.lake.quarantine_rows import as_quarantine, distinct
from storage.lake.query_errors import failed_query, kinds_of_statements, missing_snapshot
from storage.lake.schema_version import bars_are_old, migrate
from storage.lake.shadowing_views import shadowing_views
from storage.lake.upsert import contradicted, insert, split_new_and_conflicting
from storage.lake.withheld import TimeRange
from storage.logs import get_logger
from storage.settings import Settings
from storage.settings.services import LakeSettings

logger = get_logger(__name__)

# Each commit leaves about 70 kB in DuckDB, its extensions and SQLite, which only a new connection frees (DETACH
# does not): a recorder that commits every two seconds grew by 1 MB a minute (measured 2026-11-26).
_COMMITS_PER_CONNECTION: Final = 200
_KNOWN_BATCHES: Final = "SELECT count(*) FROM batches WHERE batch_id = ?"
_SELECT: Final = duckdb.StatementType.SELECT


class Lake:
    """One connection to the tables. Not thread-safe."""

    def __init__(self, settings: Settings, clock: TimeSource, *, read_only: bool = False) -> None:
        """Prepare a connection; `open` makes it."""
        self._settings = settings
        self._clock = clock
        self._mode = "READ_ONLY" if read_only else ""
        self._catalog = settings.lake.catalog or f"sqlite:{settings.lake_dir / 'catalog.sqlite'}"
        self._is_sqlite = self._catalog.startswith("sqlite:")
        self._options = [
            f"DATA_PATH {quoted(settings.lake.data or str(settings.lake_dir / 'data'))}",
            "OVERRIDE_DATA_PATH true",  # the catalog stores the path of its creation, and a home may be moved
            "DATA_INLINING_ROW_LIMIT 0",
            *(("META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 10000") if self._is_sqlite else ()),
        ]
        self._locks = LakeLocks(settings.lake_dir, catalog=self._catalog)
        self._attached: set[int] = set()
        self._withheld: tuple[TimeRange, ...] = ()
        self._is_old = False
        self._old_snapshots: dict[int, bool] = {}
        self._commits = 0
        self._threads = 1
        self._empty = EmptyTables()
        self._connection: duckdb.DuckDBPyConnection
        self._readers: dict[int | None, duckdb.DuckDBPyConnection] = {}  # by snapshot

    @classmethod
    def open(cls, settings: Settings, *, read_only: bool = False, clock: TimeSource | None = None) -> Self:
        """Open the lake of a home, and create its tables if it is new.

        Args:
            settings: whose home and `lake` section locate the lake.
            read_only: refuse every write; the lake must exist.
            clock: stamps `ts_ingested_ns` (default: wall clock).

        Raises:
            LakeError: there is no lake to read, a newer release wrote it, or the catalog cannot be opened.
            SettingsError: the data is in S3, and there are no credentials.
        """
        lake = cls(settings, clock or WallTime(), read_only=read_only)
        if read_only and lake._is_sqlite and not Path(lake._catalog.removeprefix("sqlite:")).exists():
            raise LakeError(
                f"there is no lake in {settings.lake_dir}",
                hint="make one with: tickwalk replay FILE, tickwalk import candles FILE, or tickwalk record",
            )
        try:
            if read_only:  # makes no folder, and holds up no commit
                with lake._locks.opening():
                    retry(lake._connect_checked)
            else:
                settings.ensure_home()
                with lake.exclusive():  # of two that open a new lake, one makes it
                    retry(lake._connect_checked)
        except duckdb.Error as error:
            raise LakeError(f"the lake's catalog cannot be opened: {redacted(str(error))}") from None
        except OSError as error:
            if not read_only or not str(error.filename).endswith(".lock"):
                raise
            raise LakeError(
                f"a lock file of the lake cannot be opened: {error.filename}: {error.strerror}",
                hint="readers and maintenance take turns by these files, so their folder must be writable",
            ) from error
        return lake

    def _connect_checked(self) -> None:
        self._connection = self._connect()
        try:
            now_ns = self._clock.now_ns()
            facts = None if self._mode else HomeFacts(self._home_id, self.history_lag_ns, now_ns)
            self._is_old = migrate(self._connection, facts=facts)
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> duckdb.DuckDBPyConnection:
        connection = connect(self._settings.lake, self._catalog)
        try:
            self._threads = thread_count(connection)
            with in_one_thread(connection, self._threads):
                connection.execute(self._attach_as("lake", self._mode))
                connection.execute("USE lake")
        except BaseException:
            connection.close()
            raise
        return connection

    def _reconnect(self) -> None:
        """Replace the connection by a new one, which frees the memory of the old one."""
        try:
            fresh = self._connect()
        except duckdb.Error as error:  # keep the old one
            logger.warning("lake not connected anew", reason=first_line(error))
            return
        self._close_readers()
        old, self._connection, self._attached, self._commits = self._connection, fresh, set(), 0
        old.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; nothing is pending outside a commit."""
        self._close_readers()
        self._connection.close()
        self._locks.close()

    # Reading.

    def query(
        self,
        sql: str,
        params: Sequence[object] = (),
        *,
        at: int | None = None,
        known_at_ns: int | None = None,
        rows: Basis = "served",
        as_stored: bool = False,
    ) -> pa.Table:
        """Run a query and return all of its rows.

        Args:
            sql: DuckDB's SQL over the tables and views; values go through `?`.
            params: the values.
            at: read the lake as of this snapshot, that is what it contained then.
            known_at_ns: leave out rows that became knowable later, to get what a live system would have known.
            rows: whose clock says since when a row of `bars` was known.
            as_stored: read `bars` of an older layout with the columns that it has, not with those of this release.

        Raises:
            LakeError: the query fails, or the snapshot does not exist.
        """
        schema = "lake" if at is None else self._attach_at(at)
        kinds = kinds_of_statements(sql)
        if not kinds:
            raise LakeError("the query is empty", hint='write a statement, such as "SHOW TABLES"')
        # Whatever needs views of its own, or may change a session, gets a cursor of its own.
        is_whole = known_at_ns is None and not self._withheld
        is_old = self._is_old if at is None else self._old_snapshots.get(at, True)
        is_plain = is_whole and not is_old and kinds == {_SELECT}
        reader = self._readers.pop(at, None) if is_plain else None
        cursor = self._connection.cursor() if reader is None else reader
        try:
            with self._locks.reading():
                if reader is None:
                    cursor.execute(f"USE {schema}")  # reads the catalog: 1.5 of the 6 ms of a small query
                lag_ns = self.history_lag_ns if not as_stored and self._lacks_clock(cursor, at) else None
                for statement in shadowing_views(
                    schema, sql, known_at_ns=known_at_ns, rows=rows, lag_ns=lag_ns, withheld=self._withheld
                ):
                    # A lake of an older release may lack the table; the query itself fails if it reads it.
                    with suppress(duckdb.CatalogException, duckdb.BinderException):
                        cursor.execute(statement)
                found = retry(lambda: cursor.execute(sql, list(params)).to_arrow_table())
            if is_plain:
                self._readers[at] = cursor
            return found
        except duckdb.Error as error:
            raise failed_query(error, self._connection, sql=sql, schema=schema, at=at) from error
        finally:
            if self._readers.get(at) is not cursor:
                cursor.close()

    def withhold(self, ranges: Sequence[TimeRange]) -> None:
        """Hide market data of some ranges, and of no others, from every later query (storage.lake.withheld)."""
        self._withheld = tuple(ranges)

    @property
    def withheld(self) -> tuple[TimeRange, ...]:
        """Ranges whose market data are hidden."""
        return self._withheld

    def _close_readers(self) -> None:
        """Close the cursors that plain queries share."""
        while self._readers:
            self._readers.popitem()[1].close()

    def _lacks_clock(self, cursor: duckdb.DuckDBPyConnection, at: int | None) -> bool:
        """Return whether `bars` is of a layout without `ts_available_ns` and `home`."""
        if at is not None:
            if at not in self._old_snapshots:
                self._old_snapshots[at] = bars_are_old(cursor, f"lake_at_{at}")
            return self._old_snapshots[at]
        if self._is_old:  # opened read-only; meanwhile someone may have migrated it
            self._is_old = bars_are_old(cursor, "lake")
        return self._is_old

    def snapshot(self) -> int:
        """Return the number of the newest snapshot."""
        found = self.query("SELECT max(snapshot_id) AS id FROM lake.snapshots()")
        return int(found["id"][0].as_py())

    def _attach_as(self, name: str, *more: str) -> str:
        options = ", ".join(filter(None, [*self._options, *more]))
        return f"ATTACH {quoted(f'ducklake:{self._catalog}')} AS {name} ({options})"

    def _attach_at(self, at: int) -> str:
        name = f"lake_at_{at}"
        if at not in self._attached:
            try:
                self._connection.execute(self._attach_as(name, f"SNAPSHOT_VERSION {int(at)}", "READ_ONLY"))
            except duckdb.Error as error:
                raise missing_snapshot(at, error) from error
            self._attached.add(at)
        return name

    # Writing.

    def commit(
        self,
        tables: Mapping[str, pa.Table],
        *,
        batch_id: str,
        inputs: Mapping[str, object] | None = None,
        patience_s: float = math.inf,
        check: Callable[[duckdb.DuckDBPyConnection], None] | None = None,
    ) -> CommitResult:
        """Write a batch over several tables atomically, and once per batch id.

        Rows that break their contract go to `quarantine`. A row whose key exists is skipped if its values are equal.
        If they differ, a bar becomes the next revision and any other row goes to quarantine, so that no stored row is
        ever changed.

        Args:
            tables: rows by table name, with the columns of the table's contract.
            batch_id: committing an id again does nothing.
            inputs: lineage of the batch (journal segments, files, snapshots), stored as JSON.
            patience_s: wait at most this long for other writers.
            check: called in the transaction before it writes; an exception leaves the lake as it was.

        Raises:
            LakeError: the catalog stayed locked, or refused the batch.
        """
        valid: dict[str, pa.Table] = {}
        refused: list[pa.Table] = []
        for name, rows in tables.items():
            good, bad = validate(CONTRACTS[name], rows)
            valid[name] = good
            if bad.num_rows:
                refused.append(as_quarantine(name, bad, batch_id, self._clock.now_ns()))

        def write(run: duckdb.DuckDBPyConnection, stamp: Stamp) -> WriteResult:
            if check is not None:
                check(run)
            done = WriteResult({}, list(refused))
            for name, rows in valid.items():
                if rows.num_rows and self._empty.has(run, name):
                    done.rows[name] = insert(run, CONTRACTS[name], rows, stamp)
                elif rows.num_rows:
                    done.rows[name], conflict = self.add(CONTRACTS[name], rows, stamp)
                    # What is in quarantine stays there; a row of its key adds nothing.
                    if conflict.num_rows and name != QUARANTINE.name:
                        done.refused.append(as_quarantine(name, conflict, batch_id, stamp[0]))
            return done

        is_small = sum(rows.num_rows for rows in valid.values()) < SMALL_BATCH_ROWS
        return self.once(write, batch_id=batch_id, inputs=inputs, patience_s=patience_s, is_small=is_small)

    def once(
        self,
        write: Write,
        *,
        batch_id: str,
        inputs: Mapping[str, object] | None = None,
        patience_s: float = math.inf,
        is_small: bool = False,
    ) -> CommitResult:
        """Run `write` in one transaction that also adds quarantined rows and the row of `batches`, once per batch id.

        Args:
            write: called with the connection, in a transaction, and the stamp; called again on a retry.
            batch_id, inputs, patience_s: as for `commit`.
            is_small: use one thread, as more would cost more than they save.

        Raises:
            LakeError: the catalog stayed locked, or refused the batch.
        """
        try:
            with self.exclusive(patience_s):
                if self._commits >= _COMMITS_PER_CONNECTION:
                    self._reconnect()
                self._commits += 1
                with in_one_thread(self._connection, self._threads, when=is_small):
                    return retry(
                        lambda: self._once(write, batch_id, dict(inputs or {})),
                        tries=self._settings.lake.commit_tries,
                    )
        except duckdb.Error as error:
            raise LakeError(f"batch {batch_id} could not be committed: {first_line(error)}") from error

    def _once(
        self,
        write: Write,
        batch_id: str,
        inputs: Mapping[str, object],
    ) -> CommitResult:
        run = self._connection
        run.execute("BEGIN TRANSACTION")
        try:
            self._empty.begin()
            is_first = self._empty.has(run, "batches")
            known = None if is_first else run.execute(_KNOWN_BATCHES, [batch_id]).fetchone()
            if known and known[0]:
                run.execute("ROLLBACK")
                return CommitResult(self._newest(), {}, 0, False)
            stamp = self.stamp(batch_id)
            done = write(run, stamp)
            written = done.rows
            refused = sum(rows.num_rows for rows in done.refused)
            if refused:
                quarantine, _ = split_new_and_conflicting(
                    run, QUARANTINE, distinct(pa.concat_tables(done.refused)), stamp
                )
                written["quarantine"] = written.get("quarantine", 0) + insert(
                    run, QUARANTINE, quarantine, stamp
                )
                logger.warning("rows quarantined", batch=batch_id, rows=refused)
            record = {
                "batch_id": batch_id,
                "rows": json.dumps(written),
                "inputs": json.dumps(inputs),
                "code": code_version(),
            }
            insert(run, BATCHES, BATCHES.rows([record | {"ts_knowable_ns": stamp[0]}]), stamp)
            run.execute(
                "CALL lake.set_commit_message('tickwalk', ?, extra_info => ?)",
                [batch_id, json.dumps({"code": code_version(), "inputs": inputs})],
            )
            run.execute("COMMIT")
        except BaseException:
            rollback(run)
            raise
        return CommitResult(self._newest(), written, refused, True)

    def stamp(self, batch_id: str) -> Stamp:
        """Return the stamp for rows of a batch that is written now."""
        return Stamp(self._clock.now_ns(), batch_id, self._home_id)

    def add(self, contract: Contract, rows: pa.Table, stamp: Stamp) -> tuple[int, pa.Table]:
        """Write the new rows, within `once`; return how many, and the rows that conflict with stored ones.

        Args:
            contract: of the table.
            rows: valid by the contract.
            stamp: of the rows.
        """
        fresh, conflict = split_new_and_conflicting(self._connection, contract, rows, stamp)
        return insert(self._connection, contract, fresh, stamp), conflict

    @property
    def home(self) -> str:
        """Id of the home that writes; a home without one gets it now."""
        return self._home_id

    @cached_property
    def _home_id(self) -> str:
        return home_id(self._settings.home)

    def _newest(self) -> int:
        """Return the newest snapshot while holding the commit lock, where `snapshot` would wait for readers' locks."""
        found = self._connection.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchone()
        assert found is not None
        return int(found[0])

    def contradicts(self, contract: Contract, rows: pa.Table) -> list[bool]:
        """Return, for each row, whether the table has its key with other values, so that a commit would reject it.

        Args:
            contract: of the table.
            rows: with the contract's columns, and any others.
        """
        cursor = self._connection.cursor()
        try:
            cursor.execute("USE lake")
            with self._locks.reading():
                return contradicted(cursor, contract, rows)
        finally:
            cursor.close()

    # Locks and maintenance.

    def exclusive(self, patience_s: float = math.inf) -> AbstractContextManager[None]:
        """Hold the commit lock, in a Postgres catalog for all homes.

        SQLite catalogs reject overlapping commits (9 of 120 without the lock, 0 with it). In Postgres two homes would
        both find that a batch id is new.

        Raises:
            LakeError: another process held it for longer than `patience_s`, or Postgres cannot be reached.
        """
        return self._locks.exclusive(patience_s)

    def alone(self, patience_s: float = READERS_PATIENCE_S) -> AbstractContextManager[None]:
        """Hold the commit lock while nobody reads, for maintenance that removes entries from the catalog.

        A SQLite catalog gives no snapshot isolation: a transaction that began before a merge sees neither the merged
        files nor the new one, so a table read as empty (measured 2026-11-25).

        Raises:
            LakeError: another process read or wrote for longer than `patience_s`.
        """
        return self._locks.alone(patience_s)

    def call(self, sql: str, params: Sequence[object] = ()) -> pa.Table:
        """Run a maintenance statement, within `alone`; rows are written by `commit`.

        Raises:
            LakeError: it fails.
        """
        try:
            return retry(lambda: self._connection.execute(sql, list(params)).to_arrow_table())
        except duckdb.Error as error:
            raise LakeError(f"the lake's maintenance failed: {first_line(error)}", sql=sql) from error

    @property
    def settings(self) -> LakeSettings:
        """The `lake` section of the settings."""
        return self._settings.lake

    @property
    def history_lag_ns(self) -> int:
        """`bars.history_lag_ms` in nanoseconds."""
        return self._settings.bars.history_lag_ms * MS_NS

    @property
    def data(self) -> str:
        """Location of the Parquet files: a folder, or `s3://...`."""
        return self.settings.data or str(self._settings.lake_dir / "data")
