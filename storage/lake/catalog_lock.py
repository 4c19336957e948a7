"""The commit lock of a Postgres catalog: an advisory lock by which homes on any machine take turns.

The lock belongs to a transaction on a connection of its own, since DuckLake's connections come from a pool. Postgres
releases it when that transaction ends, which includes the death of the process. It is no state of the session, so a
connection pooler that assigns connections by transaction keeps it too.

A process that is killed in a commit loses the lock at once, while the server may still be executing the commit. So the
lock gives writers their turns, but a batch is committed once because of a primary key in the catalog: of two commits
that follow the same snapshot one is refused, and looks for its batch id again (see `connection.connect`).

Postgres keeps advisory locks by database, and DuckLake always uses its schema `public`. So a database holds one lake,
and lakes in two databases of a server do not wait for each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from storage.errors import LakeError
from storage.lake.connection import first_line, redacted
from storage.logs import get_logger

if TYPE_CHECKING:
    import psycopg2.extensions

logger = get_logger(__name__)

_KEY: Final = int.from_bytes(b"tickwalk", "big")
# Python handles Ctrl-C between slices of waiting; at the end of a slice, a waiter goes to the end of the queue.
_SLICE_S: Final = 1.0
# Limits of the server or the role would end the transaction. A client that lost power or network is noticed after 25 s,
# and not after the two hours that are Linux's default.
_LIMITS: Final = """
    SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL tcp_keepalives_idle = 10; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3;
"""
_LIMITS_OF_17: Final = "SET LOCAL transaction_timeout = 0;"
# In libpq's terms; values in the catalog's address take precedence.
_DEFAULTS: Final = {
    "fallback_application_name": "tickwalk commit lock",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
_CONNECT_S: Final = (2.0, 30.0)


class CatalogLock:
    """The advisory lock of a catalog. Not thread-safe."""

    def __init__(self, catalog: str) -> None:
        """Prepare the lock; the first `hold` connects.

        Args:
            catalog: `postgres:` and a connection string or address of libpq.
        """
        self._address = catalog.partition(":")[2]
        self._connection: psycopg2.extensions.connection | None = None

    @contextmanager
    def hold(self, timeout_s: float = math.inf) -> Iterator[None]:
        """Hold the lock for a block.

        Args:
            timeout_s: wait at most this long.

        Raises:
            LakeError: another home held it for longer than `timeout_s`, or the catalog cannot be reached.
        """
        import psycopg2  # a lake on SQLite does without it

        try:
            self._acquire(timeout_s)
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, psycopg2.Error):
                text = redacted(str(error).strip())
                raise LakeError(f"the lake's catalog cannot be opened: {text}") from None
            raise
        self._release()

    def close(self) -> None:
        """Close the connection, which releases the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _acquire(self, timeout_s: float) -> None:
        import psycopg2
        from psycopg2.errors import LockNotAvailable

        until_s = time.monotonic() + timeout_s
        while True:
            left_s = max(until_s - time.monotonic(), 0.0)
            is_new = self._connection is None
            connection = self._connection or self._connect(left_s)
            limits = _LIMITS + (_LIMITS_OF_17 if connection.server_version >= 170_000 else "")
            slice_ms = max(1, round(min(left_s, _SLICE_S) * 1_000))
            try:
                with connection.cursor() as cursor:
                    cursor.execute(
                        f"{limits} SET LOCAL lock_timeout = %s; SELECT pg_advisory_xact_lock(%s)",
                        [slice_ms, _KEY],
                    )
            except LockNotAvailable:
                connection.rollback()
                if time.monotonic() >= until_s:
                    raise LakeError(
                        f"another home has held the lock of the lake's catalog for {round(timeout_s, 1):g} s",
                        hint="wait until its commit or its maintenance ends",
                    ) from None
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                self.close()
                if is_new:  # otherwise the server, or a firewall, closed the idle connection
                    raise
            else:
                return

    def _connect(self, timeout_s: float) -> psycopg2.extensions.connection:
        import psycopg2
        from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED, parse_dsn

        least_s, most_s = _CONNECT_S
        timeout = {"connect_timeout": str(math.ceil(max(least_s, min(timeout_s, most_s))))}
        made = psycopg2.connect(**(timeout | _DEFAULTS | parse_dsn(self._address)))
        # At this level an idle transaction has no snapshot, so it never keeps vacuum from removing rows.
        made.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, readonly=True)
        self._connection = made
        return made

    def _release(self) -> None:
        import psycopg2

        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except psycopg2.Error as error:
            logger.warning("catalog lock lost", reason=first_line(error))
            self.close()
