"""Where does a test get a Postgres server and an S3 server of its own, on this machine?"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

BUCKET: Final = "tickwalk"
_KEY: Final = "a-key-of-the-tests"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run Debian's server in a folder, reached by a socket only; yield the lake's catalog. Skips where it is absent."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("not installed: postgresql (apt-get install postgresql)")
    tools = found[-1].parent
    # A socket's path may have 107 characters; and the server refuses to run as root.
    place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    as_server: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(place, "postgres", "postgres")
        as_server = ["runuser", "-u", "postgres", "--"]

    def run(*arguments: str) -> None:
        subprocess.run([*as_server, *arguments], check=True, capture_output=True, cwd=place, timeout=60)

    data = str(place / "data")
    run(str(tools / "initdb"), "-D", data, "-A", "trust", "-U", "lake", "--no-sync", "-E", "UTF8")
    options = f"-c listen_addresses='' -c unix_socket_directories={place} -c fsync=off"
    try:
        run(str(tools / "pg_ctl"), "-D", data, "-w", "-o", options, "-l", str(place / "log"), "start")
        run(str(tools / "createdb"), "-h", str(place), "-U", "lake", "tickwalk")
        yield f"postgres:dbname=tickwalk host={place} user=lake"
    finally:
        run(str(tools / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run moto's S3 on a port of its own, with a bucket, and credentials in the environment; yield its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _KEY)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    try:
        client: Any = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()
