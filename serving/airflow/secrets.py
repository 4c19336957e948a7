"""Passwords and keys of the local Airflow.

One file, readable by its owner only, created at the first start and never replaced: a new key would end every session
and make stored connections unreadable.
"""

from __future__ import annotations

import json
import os
import secrets as random
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from storage.atomic_write import write_atomic
from storage.errors import SettingsError
from storage.system_calls import sync_file


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets shared by Airflow's programs; hidden from `repr`."""

    admin_password: str = field(repr=False)
    """The password of the user `admin`."""
    fernet_key: str = field(repr=False)
    """Encrypts stored connections; 32 bytes, URL-safe base64."""
    jwt_secret: str = field(repr=False)
    """Signs the tokens of tasks and of people."""
    api_secret_key: str = field(repr=False)
    """Signs the sessions of the web UI."""
    database_password: str = field(default="", repr=False)
    """Password of Airflow's user in our own Postgres cluster."""


def load_secrets(path: Path) -> tuple[Secrets, bool]:
    """Return the secrets in `path`, and whether they were just created.

    Raises:
        SettingsError: the file is damaged or readable by others.
    """
    try:
        # Exclusive: only one of two first starts creates the file, and it is never readable by others.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path), False
    made = _generate()
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_to_text(made))
        file.flush()
        sync_file(file.fileno())
    return made, True


def _generate() -> Secrets:
    # Fernet needs the padding of 32 bytes, which `token_urlsafe` omits.
    return Secrets(
        admin_password=random.token_urlsafe(18),
        fernet_key=random.token_urlsafe(32) + "=",
        jwt_secret=random.token_urlsafe(48),
        api_secret_key=random.token_urlsafe(48),
        database_password=random.token_urlsafe(24),
    )


def _to_text(secrets: Secrets) -> str:
    return json.dumps(asdict(secrets), indent=2)


def _read(path: Path) -> Secrets:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise SettingsError(
            f"the secrets in {path} are readable by others (mode {mode:o})", hint=f"run: chmod 600 {path}"
        )
    try:
        found = Secrets(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"the secrets in {path} are damaged: {error}",
            hint="remove the file for new ones; connections stored in Airflow become unreadable",
        ) from error
    if not found.database_password:  # a file of an earlier release
        found = replace(found, database_password=random.token_urlsafe(24))
        write_atomic(path, _to_text(found), mode=0o600)
    return found
