"""Addresses of the database with Airflow's records: SQLite, our own Postgres cluster, or a server of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from serving.airflow.secrets import Secrets

Kind = Literal["sqlite", "postgres", "server"]

DATABASE: Final = "airflow"
"""Name of the database and of its user in our own cluster."""


def database_kind(database: str) -> Kind:
    """Return which kind the setting `airflow.database` names: `server` is an address."""
    return "sqlite" if database == "sqlite" else "postgres" if database == "postgres" else "server"


def cluster_dir(home: Path) -> Path:
    """Return the folder of our own Postgres cluster; its socket is in it too.

    Args:
        home: Airflow's folder.
    """
    return home / "postgres"


def database_url(database: str, home: Path, secrets: Secrets) -> str:
    """Return the SQLAlchemy address that Airflow gets.

    Args:
        database: setting `airflow.database`.
        home: Airflow's folder.
        secrets: with the password of our own cluster.
    """
    kind = database_kind(database)
    if kind == "sqlite":
        return f"sqlite:///{home / 'airflow.db'}"
    if kind == "postgres":
        return (
            f"postgresql+psycopg2://{DATABASE}:{secrets.database_password}@/{DATABASE}"
            f"?host={quote(str(cluster_dir(home)))}"
        )
    return database
