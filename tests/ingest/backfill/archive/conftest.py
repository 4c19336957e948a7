"""A bucket of a real S3 server on this machine, for all tests of the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storage.servers import s3

Put = Callable[[str, bytes], None]


@pytest.fixture(scope="package")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3(patch, "archive"):
        yield "archive"


@pytest.fixture
def place(server: str, tmp_path: Path) -> tuple[str, Put]:
    """Return the address of an archive, and a function that uploads an object."""
    import boto3

    client = boto3.client("s3")

    def put(key: str, body: bytes) -> None:
        client.put_object(Bucket=server, Key=f"{tmp_path.name}/{key}", Body=body)

    return f"s3://{server}/{tmp_path.name}", put
