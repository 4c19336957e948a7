"""DuckDB connections with the extensions that a lake needs, and retry of transient failures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import duckdb
import tenacity

from storage.errors import SettingsError
from storage.lake.extension_digests import has_known_digest
from storage.settings.services import LakeSettings

T = TypeVar("T")

# Extensions whose signature this process has checked, by modification time and size of the file.
_checked: dict[Path, tuple[int, int]] = {}


def connect(settings: LakeSettings, catalog: str) -> duckdb.DuckDBPyConnection:
    """Return a connection that can open a catalog, and can access the data if that is in S3.

    Args:
        settings: of the lake.
        catalog: `sqlite:...` or `postgres:...`.

    Raises:
        SettingsError: the data is in S3, and there are no credentials.
    """
    names = ["postgres_scanner" if catalog.startswith("postgres") else "sqlite_scanner"]
    names += ["httpfs"] if "://" in settings.data else []
    connection = _with_extensions([*names, "ducklake"])
    _configure(connection)
    # DuckDB 1.5.5 takes a registered Arrow table for one row and joins it by nested loops otherwise.
    connection.execute("SET asof_loop_join_threshold = 0")
    # By itself DuckLake would repeat a commit that another one came before, without asking whether that was the same
    # batch: two homes committed 40 batches as 73. `Lake.once` asks, and then tries again.
    connection.execute("SET ducklake_max_retry_count = 0")
    if settings.data.startswith("s3://"):
        connection.execute(_s3_secret(settings))
    return connection


def connect_in_memory() -> duckdb.DuckDBPyConnection:
    """Return a connection to an empty in-memory database, for computations outside a lake."""
    connection = duckdb.connect()
    _configure(connection)
    return connection


def machine_time_zone() -> str:
    """Return the time zone of this machine, such as `Asia/Kolkata`, in which no connection of ours works."""
    with duckdb.connect() as connection:
        found = connection.execute("SELECT current_setting('TimeZone')").fetchone()
    assert found is not None
    return str(found[0])


def _configure(connection: duckdb.DuckDBPyConnection) -> None:
    # Globally, because cursors and DuckLake's own connections do not inherit what is set for one connection. They would
    # read and print times in the machine's zone.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    # It would go to standard output, among rows. Notebooks without ipywidgets have none, and refuse the setting.
    if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() != [(False,)]:
        connection.execute("SET enable_progress_bar = false")


def _with_extensions(names: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """Return a connection with these extensions loaded.

    Checking the signatures of two takes 0.5 s of processor time (measured 2026-11-30), so files with a known digest are
    loaded without, and others are checked once per process and file. Afterwards no unsigned extension can be loaded.
    """
    found: dict[Path, tuple[int, int]] = {}
    for name in names:
        package = files(f"duckdb_extension_{name}")
        path = Path(str(package / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"))
        found[path] = (path.stat().st_mtime_ns, path.stat().st_size)
    is_known = all(_checked.get(path) == stat or has_known_digest(path) for path, stat in found.items())
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_unsigned_extensions": "true" if is_known else "false",
        }
    )
    for path in found:
        connection.execute(f"LOAD {quoted(str(path))}")
    connection.execute("SET allow_unsigned_extensions = false")  # once false, nobody can set it back
    _checked.update(found)
    return connection


def _s3_secret(settings: LakeSettings) -> str:
    """Return the statement that configures S3 in DuckDB; it contains the keys, so it is never logged."""
    keys = _aws_keys()
    if not (keys["KEY_ID"] and keys["SECRET"]):
        raise SettingsError(
            f"lake.data is {settings.data!r}, but there are no credentials for it",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or "
            "AWS_SHARED_CREDENTIALS_FILE to a file with them",
        )
    keys["REGION"] = settings.s3_region
    parts = [f"{name} {quoted(value)}" for name, value in keys.items() if value]
    if settings.s3_endpoint:
        scheme, _, host = settings.s3_endpoint.rpartition("://")
        # Other servers than Amazon's address buckets by path, not by host name.
        parts += [f"ENDPOINT {quoted(host.rstrip('/'))}", "URL_STYLE 'path'"]
        parts.append(f"USE_SSL {'false' if scheme == 'http' else 'true'}")
    return f"CREATE OR REPLACE SECRET lake_s3 (TYPE s3, {', '.join(parts)})"


def _aws_keys() -> dict[str, str]:
    """Return the keys in the environment, or else those that the AWS tools find: a file, a profile, an instance role.

    Temporary keys are those of now: a process that runs for longer than they are valid must be started again.
    """
    names = {
        "KEY_ID": "AWS_ACCESS_KEY_ID",
        "SECRET": "AWS_SECRET_ACCESS_KEY",
        "SESSION_TOKEN": "AWS_SESSION_TOKEN",
    }
    keys = {name: os.environ.get(variable, "") for name, variable in names.items()}
    if keys["KEY_ID"] and keys["SECRET"]:
        return keys
    import boto3  # 0.3 s, which keys in the environment do without
    from botocore.exceptions import BotoCoreError

    try:
        found = boto3.Session().get_credentials()
        frozen = found.get_frozen_credentials() if found else None
    except BotoCoreError as error:
        raise SettingsError(f"the credentials of the AWS tools cannot be read: {error}") from error
    if frozen is None:
        return keys
    return {"KEY_ID": frozen.access_key, "SECRET": frozen.secret_key, "SESSION_TOKEN": frozen.token or ""}


def thread_count(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the number of threads of a connection."""
    found = connection.execute("SELECT current_setting('threads')").fetchone()
    assert found is not None
    return int(found[0])


@contextmanager
def in_one_thread(
    connection: duckdb.DuckDBPyConnection, threads: int, *, when: bool = True
) -> Iterator[None]:
    """Run small statements in one thread, where starting a second one costs more than it saves.

    Processor time with two threads and with one: 242 and 170 ms for a commit of 2,000 rows, 70 and 28 ms for the
    attachment of a lake (measured 2026-12-01).

    Args:
        connection: of DuckDB.
        threads: that it has at other times; asking for it would begin a transaction of the lake, 2 ms.
        when: do so.
    """
    if not when or threads == 1:
        yield
        return
    connection.execute("SET threads = 1")
    try:
        yield
    finally:
        connection.execute(f"SET threads = {threads}")


def retry(action: Callable[[], T], *, tries: int = 8) -> T:
    """Run an action, retry it while `is_retryable` says so, and return its result."""
    attempt: Callable[[Callable[[], T]], T] = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_retryable),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
        stop=tenacity.stop_after_attempt(tries),
        reraise=True,
    )
    return attempt(action)


def is_retryable(error: BaseException) -> bool:
    """Return whether a failed statement may succeed on retry, as with a locked or contended catalog."""
    text = str(error).lower()
    # The last: another process was creating the lake, or the server still works for one that was killed while doing so.
    return isinstance(error, duckdb.Error) and (
        any(
            sign in text
            for sign in ("database is locked", "failed to commit", "conflict", "could not serialize")
        )
        or ("failed to initialize ducklake" in text and "already exists" in text)
    )


def rollback(connection: duckdb.DuckDBPyConnection) -> None:
    """Roll back a failed transaction, which a failed COMMIT may have done already."""
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:
        return


def redacted(text: str) -> str:
    """Return a message without passwords, which a Postgres catalog's address or an S3 secret may contain."""
    text = re.sub(r"(password=)('[^']*'|\S+)|(://[^:/\s]+:)[^@\s]+(?=@)", r"\1\3***", text)
    return re.sub(r"((?:KEY_ID|SECRET|SESSION_TOKEN) )'(?:[^']|'')*'", r"\1'***'", text)


def quoted(text: str) -> str:
    """Return a text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without secrets."""
    return redacted(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
