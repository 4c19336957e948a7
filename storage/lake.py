"""Where do tables lie, and how does a batch get in whole or not at all?

The lake is a DuckLake: Parquet files under a catalog (SQLite inside the lake, or Postgres by setting). Every
commit is one snapshot over all its tables, carries an idempotent batch id and names what it was made from.

Traps this module is built around, all measured (docs/adr/0002):
- two SQLite libraries on one catalog in one process lose commits, so nothing here opens it with `sqlite3`;
- SQLite commits meet `database is locked`, so a file lock stands around each and a jittered retry behind it;
- inlined rows broke file rewriting, so inlining is off.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.clock import TimeSource, WallTime
from storage.code import code_version
from storage.connection import connect, first_line, locked, quoted, redacted, retry, rollback
from storage.contract import Contract
from storage.contracts import BATCHES, CONTRACTS, MIGRATIONS, QUARANTINE
from storage.errors import LakeError
from storage.known import known_views
from storage.logs import get_logger
from storage.migrations import Held, refuse_newer, rows_of, steps_to_take
from storage.settings import LakeSettings, Settings
from storage.validate import SMALL_BATCH_ROWS

logger = get_logger(__name__)

READERS_PATIENCE_S: Final = 5.0
"""How long maintenance keeps new readers waiting for one that reads for long, before it gives way."""

_NO_SNAPSHOT: Final = "No snapshot found"

Stamp = tuple[int, str]
"""What every row is stamped with: `ts_ingested_ns` and `batch`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit did.

    Args:
        snapshot: the snapshot that holds the batch.
        rows: rows written, by table; rows that were there already are not counted.
        refused: rows that went to quarantine.
        is_new: false when this batch id had been committed before.
    """

    snapshot: int
    rows: Mapping[str, int]
    refused: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What was written within one transaction.

    Args:
        rows: by table.
        refused: rows for `quarantine`.
    """

    rows: dict[str, int]
    refused: list[pa.Table]


Write = Callable[[duckdb.DuckDBPyConnection, Stamp], Written]


class Lake:
    """One connection to the tables. Not for use by two threads at once."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        settings: Settings,
        clock: TimeSource,
        attach: str,
        options: str,
    ):
        self._connection = connection
        self._settings = settings
        self._clock = clock
        self._attach = attach
        self._options = options
        self._lock_path = settings.lake_dir / "commit.lock"
        self._door, self._room = settings.lake_dir / "door.lock", settings.lake_dir / "read.lock"
        self._is_sqlite = not settings.lake.catalog or settings.lake.catalog.startswith("sqlite:")
        self._attached: set[int] = set()
        self._is_alone = False

    @classmethod
    def open(cls, settings: Settings, *, read_only: bool = False, clock: TimeSource | None = None) -> Self:
        """Open the lake of a home, making its tables when it is new.

        Args:
            settings: whose home and `lake` section say where it lies.
            read_only: refuse every write; the lake must exist then.
            clock: stamps `ts_ingested_ns`; the wall by default.

        Raises:
            LakeError: there is no lake to read, a newer release wrote it, or the catalog cannot be opened.
            SettingsError: the data lies in S3, and there are no credentials.
        """
        catalog = settings.lake.catalog or f"sqlite:{settings.lake_dir / 'catalog.sqlite'}"
        if read_only and catalog.startswith("sqlite:") and not Path(catalog.removeprefix("sqlite:")).exists():
            raise LakeError(
                f"there is no lake in {settings.lake_dir}",
                hint="make one with: tickwalk replay FILE, tickwalk import candles FILE, or tickwalk record",
            )
        settings.ensure_home()
        options = [
            f"DATA_PATH {quoted(settings.lake.data or str(settings.lake_dir / 'data'))}",
            "OVERRIDE_DATA_PATH true",  # the catalog notes where it was made; a home may be moved or named otherwise
            "DATA_INLINING_ROW_LIMIT 0",
        ]
        if catalog.startswith("sqlite:"):
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 10000"]
        lake = cls(
            connect(settings.lake, catalog),
            settings,
            clock or WallTime(),
            f"ATTACH {quoted(f'ducklake:{catalog}')}",
            ", ".join(options),
        )
        try:
            with lake.exclusive():
                lake._connection.execute(lake._attach_as("lake", "READ_ONLY" if read_only else ""))
                lake._connection.execute("USE lake")
                lake._bring_to_layout(read_only=read_only)
        except duckdb.Error as error:
            lake.close()
            raise LakeError(f"the lake's catalog cannot be opened: {redacted(str(error))}") from None
        except BaseException:
            lake.close()
            raise
        return lake

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; nothing is pending outside a commit."""
        self._connection.close()

    # Reading.

    def query(
        self,
        sql: str,
        params: Sequence[object] = (),
        *,
        at: int | None = None,
        known_at_ns: int | None = None,
    ) -> pa.Table:
        """Run a query and return all of its rows.

        Args:
            sql: DuckDB's SQL over the tables and views; values go through `?`.
            params: the values.
            at: read the lake as it was at this snapshot: what did it hold?
            known_at_ns: leave out what became knowable after this instant: what would a live system have known?

        Raises:
            LakeError: the query fails, or the snapshot does not exist.
        """
        schema = "lake" if at is None else self._attach_at(at)
        if not sql.strip():
            raise LakeError("the query is empty", hint='ask something, as in "SHOW TABLES"')
        cursor = self._connection.cursor()
        try:
            with self._reading():
                cursor.execute(f"USE {schema}")
                if known_at_ns is not None:
                    for statement in known_views(schema, known_at_ns, sql):
                        # A table that an older layout lacks: the query itself will say so, if it reads it.
                        with suppress(duckdb.CatalogException, duckdb.BinderException):
                            cursor.execute(statement)
                return retry(lambda: cursor.execute(sql, list(params)).to_arrow_table())
        except duckdb.Error as error:
            if at is not None and _NO_SNAPSHOT in str(error):
                raise _expired(at, error) from error
            raise LakeError(f"the query failed: {first_line(error)}", sql=sql) from error
        finally:
            cursor.close()

    def snapshot(self) -> int:
        """Return the newest snapshot's number."""
        found = self.query("SELECT max(snapshot_id) AS id FROM lake.snapshots()")
        return int(found["id"][0].as_py())

    def _attach_as(self, name: str, *more: str) -> str:
        return f"{self._attach} AS {name} ({', '.join(filter(None, [self._options, *more]))})"

    def _attach_at(self, at: int) -> str:
        name = f"lake_at_{at}"
        if at not in self._attached:
            try:
                self._connection.execute(self._attach_as(name, f"SNAPSHOT_VERSION {int(at)}", "READ_ONLY"))
            except duckdb.Error as error:
                raise _expired(at, error) from error
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
    ) -> Commit:
        """Write a batch over several tables: all of it, once, or nothing.

        Rows that break their contract go to `quarantine`. A row whose key is in the table already is skipped when
        it says the same; when it says something else, a bar becomes the next revision and any other row goes to
        quarantine, so that nothing is ever edited in silence.

        Args:
            tables: rows by table name, with the columns of the table's contract.
            batch_id: committing the same id again does nothing.
            inputs: what the batch was made from (journal segments, files, snapshots), kept as JSON.
            patience_s: wait at most this long for others that write.

        Raises:
            LakeError: the catalog stayed locked, or refused the batch.
        """
        fitting: dict[str, pa.Table] = {}
        refused: list[pa.Table] = []
        for name, rows in tables.items():
            good, bad = CONTRACTS[name].validate(rows)
            fitting[name] = good
            if bad.num_rows:
                refused.append(as_quarantine(name, bad, batch_id, self._clock.now_ns()))

        def write(_: duckdb.DuckDBPyConnection, stamp: Stamp) -> Written:
            done = Written({}, list(refused))
            for name, rows in fitting.items():
                if rows.num_rows:
                    done.rows[name], conflict = self.add(CONTRACTS[name], rows, stamp)
                    if conflict.num_rows:
                        done.refused.append(as_quarantine(name, conflict, batch_id, stamp[0]))
            return done

        is_small = sum(rows.num_rows for rows in fitting.values()) < SMALL_BATCH_ROWS
        return self.once(write, batch_id=batch_id, inputs=inputs, patience_s=patience_s, is_small=is_small)

    def once(
        self,
        write: Write,
        *,
        batch_id: str,
        inputs: Mapping[str, object] | None = None,
        patience_s: float = math.inf,
        is_small: bool = False,
    ) -> Commit:
        """Do in one transaction what `write` does, with what it turned away and the row of `batches`: whole, and once.

        Args:
            write: given the connection, in a transaction, and the stamp; called again where the catalog was locked.
            batch_id, inputs, patience_s: as for `commit`.
            is_small: a thread of its own would cost more than it saves.

        Raises:
            LakeError: the catalog stayed locked, or refused the batch.
        """
        try:
            with self.exclusive(patience_s), self._in_one_thread(is_small):
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
    ) -> Commit:
        run = self._connection
        run.execute("BEGIN TRANSACTION")
        try:
            known = run.execute("SELECT count(*) FROM batches WHERE batch_id = ?", [batch_id]).fetchone()
            if known and known[0]:
                run.execute("ROLLBACK")
                return Commit(self._newest(), {}, 0, False)
            stamp = self.stamp(batch_id)
            done = write(run, stamp)
            written = done.rows
            refused = sum(rows.num_rows for rows in done.refused)
            if refused:
                quarantine, _ = self._against_held(QUARANTINE, _distinct(pa.concat_tables(done.refused)))
                written["quarantine"] = written.get("quarantine", 0) + self._insert(
                    QUARANTINE, quarantine, stamp
                )
                logger.warning("rows quarantined", batch=batch_id, rows=refused)
            record = {
                "batch_id": batch_id,
                "rows": json.dumps(written),
                "inputs": json.dumps(inputs),
                "code": code_version(),
            }
            self._insert(BATCHES, BATCHES.rows([record | {"ts_knowable_ns": stamp[0]}]), stamp)
            run.execute(
                "CALL lake.set_commit_message('tickwalk', ?, extra_info => ?)",
                [batch_id, json.dumps({"code": code_version(), "inputs": inputs})],
            )
            run.execute("COMMIT")
        except BaseException:
            rollback(run)
            raise
        return Commit(self._newest(), written, refused, True)

    def stamp(self, batch_id: str) -> Stamp:
        """Return what the rows of a batch are stamped with now."""
        return self._clock.now_ns(), batch_id

    def add(self, contract: Contract, rows: pa.Table, stamp: Stamp) -> tuple[int, pa.Table]:
        """Write, within `once`, the rows that are not held; return how many, and those that contradict what is held.

        Args:
            contract: the table's; the rows fit it.
            rows: its columns.
            stamp: of the rows.
        """
        fresh, conflict = self._against_held(contract, rows)
        return self._insert(contract, fresh, stamp), conflict

    @contextmanager
    def _in_one_thread(self, is_small: bool) -> Iterator[None]:
        """Commit a small batch in one thread: two of them took 242 ms of processor time for 2,000 rows, one 170."""
        if not is_small:
            yield
            return
        self._connection.execute("SET threads = 1")
        try:
            yield
        finally:
            self._connection.execute("RESET threads")

    def _newest(self) -> int:
        """Return the newest snapshot, under the commit lock: asked as a query, it would wait for those who read."""
        found = self._connection.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchone()
        assert found is not None
        return int(found[0])

    def _against_held(self, contract: Contract, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the rows to insert and those that contradict a row already held, with the reason."""
        run, keys = self._connection, ", ".join(contract.identity)
        held = f"(SELECT * FROM {contract.name} {_near(contract)})"
        bounds = _bounds(contract, rows)
        # A join loses the order of its rows, and that of prints at one instant is known by nothing else.
        run.register("incoming", rows.append_column("row_at", pa.array(range(rows.num_rows), pa.int64())))
        fresh = run.execute(
            f"FROM incoming ANTI JOIN {held} USING ({keys}) ORDER BY row_at", bounds
        ).to_arrow_table()
        unlike = rows.slice(0, 0)
        if fresh.num_rows < rows.num_rows:
            same = _equal((*contract.identity, *contract.content))
            unlike = run.execute(
                f"SELECT n.* FROM incoming n SEMI JOIN {held} h USING ({keys}) "
                f"WHERE NOT EXISTS (SELECT 1 FROM {held} h WHERE {same})",
                bounds * 2,
            ).to_arrow_table()
        if contract.revises and unlike.num_rows:
            run.register("changed", unlike)
            revised = run.execute(
                "SELECT n.* REPLACE (CAST(n.revision + 1 + h.top"
                f" - min(n.revision) OVER (PARTITION BY {_of('n', contract.identity)}) AS INTEGER) AS revision)"
                f" FROM changed n JOIN (SELECT {keys}, max(revision) AS top, arg_max(observed_ms, revision) AS watched"
                f" FROM {held} GROUP BY {keys}) h USING ({keys})"
                # The next revision of the same computation, or another one that watched no less and knows something.
                " WHERE n.revision > h.top OR (n.observed_ms >= h.watched AND n.status <> 'unknown')",
                bounds,
            ).to_arrow_table()
            run.unregister("changed")
            names = rows.column_names
            fresh, unlike = pa.concat_tables([fresh.select(names), revised.select(names)]), rows.slice(0, 0)
        run.unregister("incoming")
        reason = pa.array(
            [f"{contract.name} holds the same key with other values"] * unlike.num_rows, pa.string()
        )
        return fresh.select(rows.column_names), unlike.select(rows.column_names).append_column(
            "reason", reason
        )

    def contradicts(self, contract: Contract, rows: pa.Table) -> list[bool]:
        """Say of each row whether the table holds its key with other values, so that a commit would refuse it.

        Args:
            contract: the table's.
            rows: its columns, and any others.
        """
        cursor = self._connection.cursor()
        try:
            cursor.execute("USE lake")
            place = pa.array(range(rows.num_rows), pa.int64())
            cursor.register("given", rows.select(contract.schema.names).append_column("place", place))
            same = f"coalesce(bool_or({_equal(contract.content)}), false)"
            with self._reading():
                found = cursor.execute(
                    f"SELECT count(h.batch) > 0 AND NOT {same} AS is_other"
                    f" FROM given n LEFT JOIN {contract.name} h ON {_equal(contract.identity)}"
                    " GROUP BY n.place ORDER BY n.place"
                ).fetchall()
            return [bool(row[0]) for row in found]
        finally:
            cursor.close()

    def _insert(self, contract: Contract, rows: pa.Table, stamp: Stamp) -> int:
        if rows.num_rows == 0:
            return 0
        self._connection.register("incoming", rows.select(contract.schema.names))
        self._connection.execute(
            # By name: a column that was added later stands last in the table.
            f"INSERT INTO {contract.name} BY NAME SELECT *, ? AS ts_ingested_ns, ? AS batch FROM incoming",
            list(stamp),
        )
        self._connection.unregister("incoming")
        return rows.num_rows

    # Keeping in order.

    def exclusive(self, patience_s: float = math.inf) -> AbstractContextManager[None]:
        """Hold the commit lock: SQLite catalogs refuse commits that overlap (9 of 120 without it, 0 with).

        Raises:
            LakeError: someone else held it for longer than `patience_s`.
        """
        return locked(self._lock_path, patience_s)

    @contextmanager
    def alone(self, patience_s: float = READERS_PATIENCE_S) -> Iterator[None]:
        """Hold the commit lock while nobody reads: for maintenance that takes entries out of the catalog.

        A SQLite catalog is not read as of one instant: to a transaction that began before a merge, files that were
        merged are gone and the new one is not yet there, so that a table read as empty (measured 2026-11-25).

        Raises:
            LakeError: someone read, or wrote, for longer than `patience_s`.
        """
        if not self._is_sqlite:
            with self.exclusive():
                yield
            return
        # New readers wait at the door; those who read may end. Only then is the commit lock taken, so that a long
        # query delays readers for `patience_s` at most, and writers not at all.
        with locked(self._door), locked(self._room, patience_s), self.exclusive():
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._is_alone or not self._is_sqlite:
            yield
            return
        with locked(self._door, shared=True):
            pass
        with locked(self._room, shared=True):
            yield

    def call(self, sql: str, params: Sequence[object] = ()) -> pa.Table:
        """Run a statement of maintenance, within `alone`; rows go through `commit`.

        Raises:
            LakeError: it fails.
        """
        try:
            return retry(lambda: self._connection.execute(sql, list(params)).to_arrow_table())
        except duckdb.Error as error:
            raise LakeError(f"the lake's maintenance failed: {first_line(error)}", sql=sql) from error

    @property
    def settings(self) -> LakeSettings:
        """The section of the settings that is about the lake."""
        return self._settings.lake

    @property
    def data(self) -> str:
        """Where the Parquet files lie: a folder, or `s3://...`."""
        return self.settings.data or str(self._settings.lake_dir / "data")

    def _held(self) -> Held:
        held: dict[str, set[str]] = {}
        for table, column in self._connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'"
        ).fetchall():
            held.setdefault(table, set()).add(column)
        return held

    def _bring_to_layout(self, *, read_only: bool) -> None:
        """Refuse a lake of a newer release, and take the steps that one of an older release lacks."""
        run, held, number = self._connection, self._held(), 0
        if "migrations" in held:
            found = run.execute("SELECT max(number) FROM migrations").fetchone()
            number = found[0] if found and found[0] else 0
        refuse_newer(held, number)
        if read_only:
            return
        steps, due = steps_to_take(held, number)
        if not (steps or due):
            return
        run.execute("BEGIN TRANSACTION")
        try:
            for step in steps:
                run.execute(step)
            now_ns = self._clock.now_ns()
            self._insert(MIGRATIONS, rows_of(due, code=code_version(), now_ns=now_ns), (now_ns, "migration"))
            run.execute("COMMIT")
        except BaseException:
            rollback(run)
            raise
        if held:
            logger.info("lake migrated", steps=[step.name for step in due], statements=len(steps))


def _expired(at: int, error: duckdb.Error) -> LakeError:
    return LakeError(
        f"snapshot {at} does not exist or has expired: {first_line(error)}",
        hint="list them with: tickwalk lake snapshots",
    )


def _near(contract: Contract) -> str:
    return f"WHERE {contract.time} BETWEEN ? AND ?" if contract.time else ""


def _bounds(contract: Contract, rows: pa.Table) -> list[object]:
    if contract.time is None:
        return []
    span: Any = pc.min_max(rows[contract.time]).as_py()
    return [span["min"], span["max"]]


def _equal(names: Sequence[str]) -> str:
    return " AND ".join(f"n.{name} IS NOT DISTINCT FROM h.{name}" for name in names)


def _of(alias: str, names: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


def _distinct(rows: pa.Table) -> pa.Table:
    first = rows.select(list(QUARANTINE.key)).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    kept = first.group_by(list(QUARANTINE.key)).aggregate([("row", "min")])["row_min"]
    return rows.take(kept)


def as_quarantine(table: str, rows: pa.Table, batch_id: str, now_ns: int, *, first: int = 0) -> pa.Table:
    """Return rows of `quarantine` for rows that have a column `reason`; `first` is the number of the first of them."""
    plain = rows.drop(["reason"]).to_pylist()
    return QUARANTINE.rows(
        [
            {
                "table_name": table,
                "reason": reason,
                "raw": json.dumps(row, default=str).encode(),
                "source": f"{row.get('journal') or row.get('source') or batch_id}:{row.get('frame', number)}",
                "ts_knowable_ns": row.get("ts_knowable_ns") or now_ns,
            }
            for number, (row, reason) in enumerate(zip(plain, rows["reason"].to_pylist(), strict=True), first)
        ]
    )
