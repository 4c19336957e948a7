"""Where do tables lie, and how does a batch get in whole or not at all?

The lake is a DuckLake: Parquet files under a catalog (SQLite inside the lake, or Postgres by setting). Every
commit is one snapshot over all its tables, carries an idempotent batch id and names what it was made from.

Traps this module is built around, all measured (docs/adr/0002):
- two SQLite libraries on one catalog in one process lose commits, so nothing here opens it with `sqlite3`;
- SQLite commits meet `database is locked`, so a file lock stands around each and a jittered retry behind it;
- inlined rows broke file rewriting, so inlining is off.
"""

from __future__ import annotations

import fcntl
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import tenacity

from storage.clock import TimeSource, WallTime
from storage.code import code_version
from storage.contract import TS, Contract
from storage.contracts import BATCHES, CONTRACTS, QUARANTINE
from storage.errors import LakeError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)
T = TypeVar("T")

_LOCK_LOOK_S: Final = 0.02

_SQL_TYPES: Final = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.binary(): "BLOB",
    TS: "TIMESTAMPTZ",
    pa.list_(pa.float64()): "DOUBLE[]",
}

_BARS_LATEST: Final = """
    CREATE VIEW bars_latest AS
    SELECT * FROM bars
    QUALIFY row_number() OVER (PARTITION BY instrument, width, ts_open ORDER BY revision DESC) = 1
"""

_INSTRUMENTS_VALID: Final = """
    CREATE VIEW instruments_valid AS
    SELECT *, ts_knowable_ns AS valid_from_ns,
           lead(ts_knowable_ns) OVER (PARTITION BY instrument ORDER BY ts_knowable_ns) AS valid_to_ns
    FROM instruments
"""

_VIEWS: Final = {"bars_latest": _BARS_LATEST, "instruments_valid": _INSTRUMENTS_VALID}


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
        self._attached: set[int] = set()

    @classmethod
    def open(cls, settings: Settings, *, read_only: bool = False, clock: TimeSource | None = None) -> Self:
        """Open the lake of a home, making its tables when it is new.

        Args:
            settings: whose home and `lake` section say where it lies.
            read_only: refuse every write; the lake must exist then.
            clock: stamps `ts_ingested_ns`; the wall by default.

        Raises:
            LakeError: there is no lake to read, or the catalog cannot be opened.
        """
        catalog = settings.lake.catalog or f"sqlite:{settings.lake_dir / 'catalog.sqlite'}"
        if read_only and catalog.startswith("sqlite:") and not Path(catalog.removeprefix("sqlite:")).exists():
            raise LakeError(
                f"there is no lake in {settings.lake_dir}",
                hint="make one with: tickwalk replay FILE, tickwalk import candles FILE, or tickwalk record",
            )
        settings.ensure_home()
        options = [
            f"DATA_PATH {_quoted(settings.lake.data or str(settings.lake_dir / 'data'))}",
            "OVERRIDE_DATA_PATH true",  # the catalog notes where it was made; a home may be moved or named otherwise
            "DATA_INLINING_ROW_LIMIT 0",
        ]
        if catalog.startswith("sqlite:"):
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 10000"]
        # Loading one takes a tenth of a second or two (its signature is checked), so only what is needed.
        extensions = ["postgres_scanner" if catalog.startswith("postgres") else "sqlite_scanner"]
        connection = _connect([*extensions, *(["httpfs"] if "://" in settings.lake.data else [])])
        lake = cls(
            connection,
            settings,
            clock or WallTime(),
            f"ATTACH {_quoted(f'ducklake:{catalog}')}",
            ", ".join(options),
        )
        try:
            with lake._locked():
                connection.execute(lake._attach_as("lake", "READ_ONLY" if read_only else ""))
                connection.execute("USE lake")
                if not read_only:
                    lake._make_tables()
        except duckdb.Error as error:
            raise LakeError(f"the lake's catalog cannot be opened: {_redacted(str(error))}") from None
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

    def query(self, sql: str, params: Sequence[object] = (), *, at: int | None = None) -> pa.Table:
        """Run a query and return all of its rows.

        Args:
            sql: DuckDB's SQL over the tables and views; values go through `?`.
            params: the values.
            at: read the lake as it was at this snapshot.

        Raises:
            LakeError: the query fails, or the snapshot does not exist.
        """
        schema = "lake" if at is None else self._attach_at(at)
        cursor = self._connection.cursor()
        try:
            cursor.execute(f"USE {schema}")
            if not sql.strip():
                raise LakeError("the query is empty", hint='ask something, as in "SHOW TABLES"')
            return _retry(lambda: cursor.execute(sql, list(params)).to_arrow_table())
        except duckdb.Error as error:
            raise LakeError(f"the query failed: {_first_line(error)}", sql=sql) from error
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
                raise LakeError(
                    f"snapshot {at} does not exist or has expired: {_first_line(error)}",
                    hint='list them with: tickwalk sql "FROM lake.snapshots()"',
                ) from error
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
                refused.append(_as_quarantine(name, bad, batch_id, self._clock.now_ns()))
        try:
            with self._locked(patience_s):
                return _retry(
                    lambda: self._commit_once(fitting, refused, batch_id, dict(inputs or {})),
                    tries=self._settings.lake.commit_tries,
                )
        except duckdb.Error as error:
            raise LakeError(f"batch {batch_id} could not be committed: {_first_line(error)}") from error

    def _commit_once(
        self,
        tables: Mapping[str, pa.Table],
        refused: Sequence[pa.Table],
        batch_id: str,
        inputs: Mapping[str, object],
    ) -> Commit:
        run = self._connection
        run.execute("BEGIN TRANSACTION")
        try:
            known = run.execute("SELECT count(*) FROM batches WHERE batch_id = ?", [batch_id]).fetchone()
            if known and known[0]:
                run.execute("ROLLBACK")
                return Commit(self.snapshot(), {}, 0, False)
            stamp = (self._clock.now_ns(), batch_id)
            written: dict[str, int] = {}
            conflicts: list[pa.Table] = []
            for name, rows in tables.items():
                if rows.num_rows:
                    fresh, conflict = self._against_held(CONTRACTS[name], rows)
                    written[name] = self._insert(CONTRACTS[name], fresh, stamp)
                    if conflict.num_rows:
                        conflicts.append(_as_quarantine(name, conflict, batch_id, stamp[0]))
            turned_away = [*refused, *conflicts]
            if turned_away:
                quarantine, _ = self._against_held(QUARANTINE, _distinct(pa.concat_tables(turned_away)))
                written["quarantine"] = written.get("quarantine", 0) + self._insert(
                    QUARANTINE, quarantine, stamp
                )
                logger.warning("rows quarantined", batch=batch_id, rows=sum(t.num_rows for t in turned_away))
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
            _rollback(run)
            raise
        return Commit(self.snapshot(), written, sum(t.num_rows for t in turned_away), True)

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

    def _insert(self, contract: Contract, rows: pa.Table, stamp: tuple[int, str]) -> int:
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

    def _make_tables(self) -> None:
        """Make what a lake lacks: tables, views, and columns that an older release did not know; those are null."""
        held: dict[str, set[str]] = {}
        for table, column in self._connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'"
        ).fetchall():
            held.setdefault(table, set()).add(column)
        steps = []
        for contract in CONTRACTS.values():
            columns = [(item.name, f"{item.name} {_SQL_TYPES[item.type]}") for item in contract.stored_schema]
            if contract.name not in held:
                steps.append(f"CREATE TABLE {contract.name} ({', '.join(text for _, text in columns)})")
            else:
                new = [text for name, text in columns if name not in held[contract.name]]
                steps += [f"ALTER TABLE {contract.name} ADD COLUMN {text}" for text in new]
        steps += [make for name, make in _VIEWS.items() if name not in held]
        if not steps:
            return
        self._connection.execute("BEGIN TRANSACTION")
        for step in steps:
            self._connection.execute(step)
        self._connection.execute("COMMIT")

    @contextmanager
    def _locked(self, patience_s: float = math.inf) -> Iterator[None]:
        """Hold the commit lock: SQLite catalogs refuse commits that overlap (9 of 120 without it, 0 with).

        Raises:
            LakeError: someone else held it for longer than `patience_s`.
        """
        with self._lock_path.open("w") as handle:
            _lock(handle, patience_s)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)


def _lock(handle: IO[str], patience_s: float) -> None:
    """Wait for a file's lock; it is let go when the file is closed."""
    if patience_s == math.inf:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return
    until_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise LakeError(
                    f"another process has held the lake's lock for {patience_s:g} s",
                    hint="wait until its commit or its maintenance ends",
                ) from None
            time.sleep(_LOCK_LOOK_S)
        else:
            return


def _connect(extensions: Sequence[str]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    for name in (*extensions, "ducklake"):
        package = files(f"duckdb_extension_{name}")
        path = package / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        connection.execute(f"LOAD {_quoted(str(path))}")
    connection.execute("SET TimeZone = 'UTC'")
    # DuckDB 1.5.5 takes a registered Arrow table for one row and joins it by nested loops otherwise.
    connection.execute("SET asof_loop_join_threshold = 0")
    return connection


def _retry(action: Callable[[], T], *, tries: int = 8) -> T:
    attempt: Callable[[Callable[[], T]], T] = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_retryable),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
        stop=tenacity.stop_after_attempt(tries),
        reraise=True,
    )
    return attempt(action)


def is_retryable(error: BaseException) -> bool:
    """Say whether a failed statement may succeed when tried again: a locked or contended catalog."""
    text = str(error).lower()
    return isinstance(error, duckdb.Error) and any(
        sign in text for sign in ("database is locked", "failed to commit", "conflict", "could not serialize")
    )


def _rollback(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:
        return  # the failed COMMIT ended it


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


def _as_quarantine(table: str, rows: pa.Table, batch_id: str, now_ns: int) -> pa.Table:
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
            for number, (row, reason) in enumerate(zip(plain, rows["reason"].to_pylist(), strict=True))
        ]
    )


def _redacted(text: str) -> str:
    """Return a message without passwords: a Postgres catalog's address may hold one."""
    return re.sub(r"(password=)('[^']*'|\S+)|(://[^:/\s]+:)[^@\s]+(?=@)", r"\1\3***", text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: BaseException) -> str:
    return _redacted(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
