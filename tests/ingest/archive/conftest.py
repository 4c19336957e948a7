"""A bucket of a real S3 server on this machine, for all tests of the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

Put = Callable[[str, bytes], None]


@pytest.fixture(scope="package")
def server() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    import boto3

    with ExitStack() as undo:
        made = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        made.start()
        undo.callback(made.stop)
        patch = undo.enter_context(pytest.MonkeyPatch.context())
        host, port = made.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "made")
        boto3.client("s3").create_bucket(Bucket="archive")
        yield "archive"


@pytest.fixture
def place(server: str, tmp_path: Path) -> tuple[str, Put]:
    """Return an archive's address, and what puts an object there."""
    import boto3

    client = boto3.client("s3")

    def put(key: str, body: bytes) -> None:
        client.put_object(Bucket=server, Key=f"{tmp_path.name}/{key}", Body=body)

    return f"s3://{server}/{tmp_path.name}", put
