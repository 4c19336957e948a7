"""Backup of a home into a folder, and its restoration into an empty home.

A backup is a folder with the files of the home and a manifest of their SHA-256, which is written last: without it, the
backup is incomplete. The catalog of the lake is copied first, while no writer commits, so it names only files that are
there to be copied: Parquet files are never changed, and are deleted only `lake.grace_h` after the catalog let them go.
What the journal received meanwhile is replayed when the restored home is first written.

Left out is what can be made again: features, shared fits, logs, locks and the state of running programs.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from storage.atomic_write import write_atomic
from storage.clock import iso
from storage.errors import LakeError, SettingsError
from storage.lake.connection import redacted
from storage.lake.locks import LakeLocks
from storage.object_store import CHUNK_BYTES
from storage.settings import Settings

MANIFEST: Final = "tickwalk-backup.json"
_BEGUN: Final = "tickwalk-backup.begun"
CATALOG: Final = "lake/catalog.sqlite"
CATALOG_DUMP: Final = "lake/catalog.dump"
AIRFLOW_DATABASE: Final = "airflow/airflow.db"
LEFT_OUT: Final = (
    "features/*",
    "models/fits/*",
    "models/replays/*",
    "recorder/*",
    "demo/*",
    "airflow/daemons/*",
    "airflow/logs/*",
    f"{AIRFLOW_DATABASE}*",
    "airflow/postgres/*",
    "airflow/.postgres*",
    f"{CATALOG}*",
    "*.lock",
    "*.partial",
)
"""Patterns of paths that are not copied as they are."""

# In a process of its own: two SQLite libraries on one file in one process lose commits (docs/adr/0002).
_COPY_SQLITE: Final = """
import sqlite3, sys
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)
target.close()
"""


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup."""

    size_bytes: int
    sha256: str
    mtime_ns: int


class BackupManifest(msgspec.Struct, frozen=True):
    """Everything in a backup."""

    made_at: str
    """Time of the backup, UTC."""
    data: str
    """Where the Parquet files are; empty: in the backup. A bucket is not copied."""
    files: dict[str, BackupFile]
    """By path, relative to the home."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was done: files and bytes in all, those that were copied now, and a bucket that was not."""

    made_at: str
    files: int
    size_bytes: int
    copied: int
    copied_bytes: int
    bucket: str


def create_backup(
    settings: Settings, target: Path, *, now_ns: int, with_catalog: bool = True
) -> BackupReport:
    """Copy a home into a folder; files that an earlier backup there has are not copied again.

    The home may be in use. While this runs, the folder holds no complete backup.

    Args:
        settings: of the home.
        target: a folder outside of the home, on another disk or machine.
        now_ns: stored as the time of the backup.
        with_catalog: false leaves out the lake's catalog, for which somebody else runs `pg_dump` before.

    Raises:
        SettingsError: the folder is inside the home, is not a backup, or `pg_dump` is needed and missing.
        LakeError: the catalog cannot be copied.
    """
    home = settings.home.resolve()
    target = target.resolve()
    if target == home or home in target.parents:
        raise SettingsError(
            f"the backup {target} lies in the home {home}", hint="name a folder on another disk"
        )
    earlier = _read_manifest(target).files if (target / MANIFEST).exists() else {}
    is_ours = bool(earlier) or (target / _BEGUN).exists()
    if not is_ours and target.exists() and any(target.iterdir()):
        raise SettingsError(f"{target} holds other files", hint="name an empty folder, or that of a backup")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    (target / _BEGUN).touch()
    (target / MANIFEST).unlink(missing_ok=True)
    files: dict[str, BackupFile] = {}
    copied = copied_bytes = 0
    for name in (*_copy_databases(settings, target, with_catalog=with_catalog), *_names(settings)):
        source = target / name if name in _DATABASES else _source(settings, name)
        try:
            stat = source.stat()
            known = earlier.get(name)
            is_known = known is not None and (known.size_bytes, known.mtime_ns) == (
                stat.st_size,
                stat.st_mtime_ns,
            )
            if is_known and (target / name).exists():
                files[name] = earlier[name]
                continue
            files[name] = _copy(source, target / name)
        except FileNotFoundError:
            continue  # retention removed it meanwhile
        copied += 1
        copied_bytes += files[name].size_bytes
    bucket = settings.lake.data if "://" in settings.lake.data else ""
    manifest = BackupManifest(iso(now_ns), bucket, files)
    write_atomic(target / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)), mode=0o600)
    for path in list(_walk(target)):
        if path not in files and path != MANIFEST:
            (target / path).unlink()
    size_bytes = sum(file.size_bytes for file in files.values())
    return BackupReport(manifest.made_at, len(files), size_bytes, copied, copied_bytes, bucket)


def restore_backup(source: Path, settings: Settings) -> BackupReport:
    """Copy a backup into an empty home, and check every byte.

    Args:
        source: the folder of a complete backup.
        settings: of the new home; with a catalog in Postgres, that database must be empty.

    Raises:
        SettingsError: the home is not empty, the backup is incomplete, or `pg_restore` is needed and missing.
        LakeError: a file of the backup is damaged, or the catalog cannot be restored.
    """
    manifest = _read_manifest(source)
    home = settings.home
    if home.exists() and any(path for path in home.rglob("*") if not path.is_dir()):
        raise SettingsError(f"the home {home} is not empty", hint="restore into another one: --home NEW")
    is_dump, has_catalog = CATALOG_DUMP in manifest.files, {CATALOG, CATALOG_DUMP} & set(manifest.files)
    if has_catalog and is_dump != settings.lake.catalog.startswith("postgres"):
        where = "in Postgres" if is_dump else "SQLite"
        raise SettingsError(
            f"the catalog of the backup is {where}, and lake.catalog is {redacted(settings.lake.catalog)!r}",
            hint="set lake.catalog to an empty Postgres database" if is_dump else "leave lake.catalog empty",
        )
    # The catalog comes last: a restoration that was interrupted leaves no lake that looks complete.
    for name in sorted(manifest.files, key=lambda name: (name in _DATABASES, name)):
        path = _source(settings, name)
        copy = _copy(source / name, path)
        if copy.sha256 != manifest.files[name].sha256:
            path.unlink()
            raise LakeError(
                f"{source / name} is damaged: its SHA-256 is {copy.sha256[:12]}..., not "
                f"{manifest.files[name].sha256[:12]}...",
                hint="restore another backup into an empty home",
            )
    if is_dump:
        dump = home / CATALOG_DUMP
        _postgres("pg_restore", settings, "--no-owner", "--exit-on-error", "--dbname={}", str(dump))
        dump.unlink()
    size_bytes = sum(file.size_bytes for file in manifest.files.values())
    files = len(manifest.files)
    return BackupReport(manifest.made_at, files, size_bytes, files, size_bytes, manifest.data)


_DATABASES: Final = (CATALOG, CATALOG_DUMP, AIRFLOW_DATABASE)


def _copy_databases(settings: Settings, target: Path, *, with_catalog: bool) -> Iterator[str]:
    """Copy the databases, which change in place, and yield their names."""
    (target / "lake").mkdir(exist_ok=True)
    catalog = settings.lake.catalog or f"sqlite:{settings.lake_dir / 'catalog.sqlite'}"
    if not with_catalog:
        pass
    elif catalog.startswith("postgres"):
        _postgres("pg_dump", settings, "--format=custom", f"--file={target / CATALOG_DUMP}", "--dbname={}")
        yield CATALOG_DUMP
    elif (path := Path(catalog.removeprefix("sqlite:"))).exists():
        with LakeLocks(settings.lake_dir, catalog=catalog).exclusive():
            _copy_sqlite(path, target / CATALOG)
        yield CATALOG
    airflow = settings.home / AIRFLOW_DATABASE
    if airflow.exists():
        (target / "airflow").mkdir(exist_ok=True, mode=0o700)
        _copy_sqlite(airflow, target / AIRFLOW_DATABASE)
        yield AIRFLOW_DATABASE


def _copy_sqlite(source: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _COPY_SQLITE, str(source), str(partial)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LakeError(f"{source} cannot be copied: {done.stderr.strip().splitlines()[-1]}")
    partial.chmod(0o600)
    partial.replace(target)


def _postgres(program: str, settings: Settings, *arguments: str) -> None:
    """Run a program of Postgres; `{}` in the arguments is the address of the catalog."""
    if shutil.which(program) is None:
        raise SettingsError(
            f"the lake's catalog is in Postgres, and {program} is not installed",
            hint="install the client of Postgres: apt-get install postgresql-client",
        )
    address = settings.lake.catalog.partition(":")[2]
    command = [program, *(word.replace("{}", address) for word in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LakeError(f"{program} failed: {redacted(done.stderr.strip())}")


def _names(settings: Settings) -> Iterator[str]:
    """Yield the paths of the files to copy, relative to the home, those of the lake first."""
    data = Path(settings.lake.data) if settings.lake.data and "://" not in settings.lake.data else None
    if data is not None:
        yield from (f"lake/data/{name}" for name in _walk(data))
    names = [
        name for name in _walk(settings.home) if not any(fnmatch.fnmatch(name, left) for left in LEFT_OUT)
    ]
    yield from sorted(names, key=lambda name: (not name.startswith("lake/"), name))


def _source(settings: Settings, name: str) -> Path:
    """Return where a file of the home is; `lake.data` may be elsewhere."""
    if settings.lake.data and "://" not in settings.lake.data and name.startswith("lake/data/"):
        return Path(settings.lake.data) / name.removeprefix("lake/data/")
    return settings.home / name


def _walk(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield (Path(root) / name).relative_to(folder).as_posix()


def _copy(source: Path, target: Path) -> BackupFile:
    """Copy a file with its time and mode, and return what was read; a copy onto itself only reads."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    stat = source.stat()
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader:
        if source == target:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        else:
            partial = target.with_name(f"{target.name}.partial")
            with partial.open("wb") as writer:
                while chunk := reader.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += writer.write(chunk)
                writer.flush()
                os.fsync(writer.fileno())
            shutil.copystat(source, partial)
            partial.replace(target)
    return BackupFile(size, digest.hexdigest(), stat.st_mtime_ns)


def _read_manifest(folder: Path) -> BackupManifest:
    path = folder / MANIFEST
    with suppress(FileNotFoundError):
        try:
            return msgspec.json.decode(path.read_bytes(), type=BackupManifest)
        except msgspec.MsgspecError as error:
            raise SettingsError(f"{path} is damaged: {error}") from error
    raise SettingsError(
        f"{folder} is no complete backup: it has no {MANIFEST}",
        hint="name the folder of tickwalk backup create, which writes that file last",
    )
