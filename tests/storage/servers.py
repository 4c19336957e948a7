"""Local Postgres and S3 servers for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.patience import HANG_S

BUCKET: Final = "tickwalk"
KEY: Final = "a-key-of-the-tests"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run Debian's Postgres on a Unix socket, and yield the lake's catalog setting. Skip if it is not installed."""
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
        subprocess.run([*as_server, *arguments], check=True, capture_output=True, cwd=place, timeout=HANG_S)

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
def s3(monkeypatch: pytest.MonkeyPatch, bucket: str = BUCKET) -> Iterator[str]:
    """Run moto's S3 on a free port, with a bucket, and yield its address. Skip if it is not installed.

    The environment gets the variables of the AWS tools: address, region and keys.
    """
    moto = pytest.importorskip("moto.server")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
    }.items():
        monkeypatch.setenv(name, value)
    try:
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield address
    finally:
        server.stop()
