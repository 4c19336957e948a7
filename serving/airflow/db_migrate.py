"""Migration of Airflow's database, creation of the pools and the administrator's password.

Run before the daemons as `python -m serving.airflow.db_migrate`: by `tickwalk airflow up`, and in Compose by the
service `migrations`. All configuration comes from the environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serving.airflow.migration_guard import is_current, live_schedulers, may_migrate
from storage.atomic_write import write_atomic

POOLS: Final = {
    "gpu": "One device: one training at a time.",
    "venue": "One backfill at a time: those of a home share one budget of requests.",
    "registry": "One judge at a time, whatever triggers the nights; leave it at one slot.",
}
"""Pools of the DAGs' tasks, one slot each, with their descriptions."""
PASSWORD_VARIABLE: Final = "AIRFLOW_ADMIN_PASSWORD"  # noqa: S105  (a name, not a password)
"""The password, or with `_FILE` appended the file that contains it, as for the images of Postgres and others."""


def main() -> int:
    """Migrate the database, create the pools, write the administrator's password, and return the exit code."""
    try:
        password = admin_password(os.environ)
    except OSError as error:
        sys.stderr.write(f"the file in {PASSWORD_VARIABLE}_FILE cannot be read: {error}\n")
        return 2
    if not password:
        sys.stderr.write(
            f"{PASSWORD_VARIABLE} is empty; set it to the password of Airflow's user admin, "
            f"or {PASSWORD_VARIABLE}_FILE to the file that contains it\n"
        )
        return 2

    from airflow.configuration import conf

    url = conf.get_mandatory_value("database", "sql_alchemy_conn")
    try:
        if may_migrate(lambda: live_schedulers(url, now_s=time.time()), is_current=is_current):
            _airflow("db", "migrate")
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    for pool, description in POOLS.items():
        try:
            _airflow("pools", "get", pool)
        except SystemExit:
            # Only if it is missing, so that a pool set to two slots for two devices is kept.
            _airflow("pools", "set", pool, "1", description)
    write_password(Path(conf.get("core", "simple_auth_manager_passwords_file")), password)
    return 0


def admin_password(environ: Mapping[str, str]) -> str:
    """Return the administrator's password; empty if there is none.

    Raises:
        OSError: it is in a file that cannot be read.
    """
    if path := environ.get(f"{PASSWORD_VARIABLE}_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return environ.get(PASSWORD_VARIABLE, "")


def _airflow(*words: str) -> None:
    """Run an Airflow command in this process, since each start of its program costs 3 s."""
    from airflow.cli import cli_parser

    arguments = cli_parser.get_parser().parse_args(words)
    arguments.func(arguments)


def write_password(path: Path, password: str) -> None:
    """Write Airflow's password file, readable by its owner only from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"admin": password}), is_synced=False, is_unique=False, mode=0o600)


if __name__ == "__main__":
    sys.exit(main())
