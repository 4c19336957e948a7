"""Our own Postgres cluster for Airflow's records: Debian's server, reached only by a socket in a private folder.

`python -m serving.airflow.postgres` makes the cluster in the environment of `services.local_env`; the supervisor runs
it before the server. The server opens no port. Postgres refuses to run as root, so root runs it as the user `postgres`
of Debian's package; everybody else runs it as themselves.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil

from serving.airflow.databases import DATABASE, cluster_dir
from storage.errors import SettingsError
from storage.settings import Settings, load_settings

STOP_SIGNAL: Final = signal.SIGINT
"""Ends the server's connections and then the server; SIGTERM would wait for clients."""
STOP_GRACE_S: Final = 60.0
"""Seconds for the last checkpoint; a server that is killed before must recover at its next start."""

_DEBIAN: Final = Path("/usr/lib/postgresql")
_PORT: Final = "5432"
# The kernel's limit of a socket's path, less `/.s.PGSQL.5432` and its end.
_LONGEST_DIR: Final = 107 - len(f"/.s.PGSQL.{_PORT}")
_ROOTS_STAND_IN: Final = "postgres"


def find_programs(data_dir: Path, *, root: Path = _DEBIAN) -> Path:
    """Return the folder of Postgres's programs: the version of the cluster, or the newest for a new one.

    Args:
        data_dir: of the cluster, which may not exist yet.
        root: folder with a folder for each version.

    Raises:
        SettingsError: no server is installed, or not the version that made the cluster.
    """
    found = {path.parent.parent.name: path.parent for path in root.glob("*/bin/postgres")}
    if not found and (elsewhere := shutil.which("postgres")):
        return Path(elsewhere).resolve().parent
    try:
        version = (data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        version = max(found, key=float, default="")
    if version in found:
        return found[version]
    if found:
        raise SettingsError(
            f"the cluster {data_dir} was made by Postgres {version}, and only {', '.join(sorted(found))} is installed",
            hint=f"install postgresql-{version}, or convert the cluster with pg_upgradecluster",
        )
    raise SettingsError(
        f"airflow.database is postgres, and {root} has no server",
        hint="run: apt-get install postgresql, or set airflow.database to sqlite",
    )


def server_user() -> str:
    """Return the user that must run the server; empty for the present one.

    Raises:
        SettingsError: root has no such user.
    """
    if os.geteuid() != 0:
        return ""
    try:
        return pwd.getpwnam(_ROOTS_STAND_IN).pw_name
    except KeyError as error:
        raise SettingsError(
            f"Postgres does not run as root, and this machine has no user {_ROOTS_STAND_IN}",
            hint="run as another user, or install Debian's package postgresql, which makes that user",
        ) from error


def server_command(home: Path) -> tuple[str, ...]:
    """Return the server's command line.

    Args:
        home: Airflow's folder.
    """
    data_dir = cluster_dir(home)
    return (
        str(find_programs(data_dir) / "postgres"),
        *("-D", str(data_dir), "-p", _PORT),
        *("-c", "listen_addresses="),
        *("-c", f'unix_socket_directories="{data_dir}"', "-c", "unix_socket_permissions=0700"),
    )


def is_ready(home: Path, password: str) -> bool:
    """Return whether the server lets Airflow's user into its database."""
    import psycopg2

    try:
        psycopg2.connect(
            host=str(cluster_dir(home)),
            port=_PORT,
            user=DATABASE,
            password=password,
            dbname=DATABASE,
            connect_timeout=5,
        ).close()
    except psycopg2.OperationalError:
        return False
    return True


def remove_stale_lock(data_dir: Path) -> bool:
    """Remove the lock of a server that no longer runs; return whether there was one.

    After a crash of the machine its pid may belong to another process, and Postgres then refuses to start.
    """
    lock = data_dir / "postmaster.pid"
    try:
        pid = int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return False
    try:
        if psutil.Process(pid).name().startswith("postgres"):
            return False
    except psutil.NoSuchProcess:
        pass
    lock.unlink()
    (data_dir / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
    return True


def make_cluster(settings: Settings, password: str) -> bool:
    """Make the cluster and its database; return whether it was missing.

    Args:
        settings: of the home.
        password: of the database's user.

    Raises:
        SettingsError: the folder cannot hold a cluster, or `initdb` failed.
    """
    home = settings.home.resolve() / "airflow"
    data_dir, user = cluster_dir(home), server_user()
    if len(str(data_dir)) > _LONGEST_DIR:
        raise SettingsError(
            f"the path of the socket's folder {data_dir} has {len(str(data_dir))} characters, and the system allows "
            f"{_LONGEST_DIR}",
            hint="set TICKWALK_HOME to a shorter path, or airflow.database to the address of a server",
        )
    if user:
        _let_through(home, user)
    if (data_dir / "PG_VERSION").exists():
        remove_stale_lock(data_dir)
        return False
    unfinished = home / ".postgres.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if user:
        shutil.chown(unfinished, user, user)
    _initdb(unfinished, find_programs(data_dir), user, password)
    unfinished.rename(data_dir)
    return True


def _initdb(data_dir: Path, programs: Path, user: str, password: str) -> None:
    """Fill an empty folder with a cluster that asks for a password, and create the database in it."""
    pwfile = data_dir.with_name(".postgres.password")
    pwfile.unlink(missing_ok=True)
    descriptor = os.open(pwfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(password)
        if user:
            shutil.chown(pwfile, user, user)
        create = [str(programs / "initdb"), "-D", str(data_dir), "-U", DATABASE, f"--pwfile={pwfile}"]
        create += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]
        _run(create, user)
    finally:
        pwfile.unlink(missing_ok=True)
    # In single-user mode, since no server runs yet.
    alone = [str(programs / "postgres"), "--single", "-D", str(data_dir), "postgres"]
    _run(alone, user, stdin=f"CREATE DATABASE {DATABASE}\n")


def _run(command: list[str], user: str, *, stdin: str = "") -> None:
    done = subprocess.run(
        command,
        input=stdin,
        stdout=sys.stderr,
        text=True,
        check=False,
        cwd="/",
        user=user or None,
        group=user or None,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise SettingsError(
            f"{Path(command[0]).name} exited with code {done.returncode}", hint="see its output above"
        )


def _let_through(home: Path, user: str) -> None:
    """Let the server's user pass through Airflow's folder to the cluster, without listing it.

    Raises:
        SettingsError: a folder above keeps it out.
    """
    shutil.chown(home, group=user)
    home.chmod(0o710)
    found = subprocess.run(
        ["test", "-x", str(home)], check=False, user=user, group=user, extra_groups=[], cwd="/"
    )
    if found.returncode != 0:
        raise SettingsError(
            f"the user {user}, which runs Postgres in place of root, cannot reach {home}",
            hint="run as another user than root, or set TICKWALK_HOME to a folder below /srv or /var/lib",
        )


def main() -> int:
    """Make the cluster where it is missing, and return the exit code."""
    from serving.airflow.secrets import load_secrets

    settings = load_settings()
    try:
        secrets, _ = load_secrets(settings.home.resolve() / "airflow" / "secrets.json")
        is_new = make_cluster(settings, secrets.database_password)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write("a new cluster\n" if is_new else "the cluster exists\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
