"""Object store against a local S3 server: checksums, streams in parts, listing and failures."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

import storage.object_store as module
from storage.object_store import (
    _PART_BYTES,
    ObjectStore,
    ObjectStoreError,
    ObjectWriter,
    content_of,
    split_address,
)
from tests.storage.servers import KEY, s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3(patch, "objects"):
        yield "objects"


@pytest.fixture
def objects(bucket: str, tmp_path: Path) -> ObjectStore:
    return ObjectStore(bucket, tmp_path.name)


def test_stored_object_is_compared_by_size_and_checksum(objects: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    content = content_of(path)
    assert not objects.has("a", content)
    sent: list[str] = []
    objects._client.meta.events.register(
        "before-send.s3.PutObject",
        lambda request, **_: sent.append(request.headers["x-amz-checksum-sha256"].decode()),
    )
    objects.put("a", path, content)
    assert base64.b64decode(sent[0]).hex() == content.sha256, "the server can refuse other bytes"
    assert objects.has("a", content)
    assert not objects.has("a", dataclasses.replace(content, sha256="00" * 32))
    assert not objects.has("a", dataclasses.replace(content, size_bytes=2))


@pytest.mark.parametrize("size", [0, 5, 16, 17, 50])
def test_stream_in_parts_equals_what_was_written(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    # Real servers demand parts of 5 MiB; moto does too, unless it is told otherwise.
    monkeypatch.setattr(module, "_PART_BYTES", 16)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    body = bytes(range(size))
    stream = pa.PythonFile(objects.writer("x/y"), mode="w")
    for start in range(0, size, 7):
        stream.write(body[start : start + 7])
    assert stream.tell() == size
    assert objects.sizes("x/") == {}, "it is not visible before it is closed"
    stream.close()
    assert objects.sizes("x/") == {"x/y": size}
    objects.download("x/y", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == body
    with pa.PythonFile(objects.reader("x/y"), mode="r") as source:
        assert source.size() == size
        assert source.read() == body
        source.seek(size // 2)
        assert source.read(3) == body[size // 2 :][:3]
    objects.remove("x/y")
    assert objects.sizes("x/") == {}


def test_absent_object_is_classified(objects: ObjectStore, tmp_path: Path) -> None:
    for request in (
        lambda: objects.download("none", tmp_path / "x"),
        lambda: objects.reader("none"),
        lambda: ObjectStore("no-such-bucket").sizes(""),
    ):
        with pytest.raises(ObjectStoreError) as caught:
            request()
        assert caught.value.failure == "absent"
        assert KEY not in str(caught.value)


def test_unreachable_server_is_retryable(tmp_path: Path, bucket: str) -> None:
    there = ObjectStore(bucket, endpoint="http://127.0.0.1:9", tries=1)
    with pytest.raises(ObjectStoreError) as caught:
        there.download("a", tmp_path / "x")
    assert (caught.value.failure, caught.value.reason) == (
        "retryable",
        "it cannot be reached (EndpointConnectionError)",
    )


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/a/b/", ("bucket", "a/b")),
        ("s3://", None),
        ("/folder", None),
        ("gs://bucket", None),
    ],
)
def test_address_splits_into_bucket_and_prefix(address: str, parts: tuple[str, str] | None) -> None:
    assert split_address(address) == parts


class ScriptedClient:
    """An S3 client that fails at one operation and records all of them."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.calls: list[str] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**_: object) -> dict[str, str]:
            self.calls.append(operation)
            if operation == self.fails_at:
                response = {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}
                raise ClientError(response, operation)  # type: ignore[arg-type]
            return {"UploadId": "1", "ETag": "e"}

        return call


def test_large_object_is_uploaded_in_parts_and_completed() -> None:
    client = ScriptedClient()
    writer = ObjectWriter(client, {})
    assert writer.write(bytes(_PART_BYTES + 1)) == writer.tell() == _PART_BYTES + 1
    writer.flush()
    writer.close()
    writer.close()
    assert client.calls == [
        "create_multipart_upload",
        "upload_part",
        "upload_part",
        "complete_multipart_upload",
    ]


def test_failed_write_never_completes_the_object() -> None:
    client = ScriptedClient("upload_part")
    writer = ObjectWriter(client, {})
    with pytest.raises(ObjectStoreError):
        writer.write(bytes(_PART_BYTES))
    writer.close()
    assert client.calls == ["create_multipart_upload", "upload_part", "abort_multipart_upload"]


def test_failed_completion_aborts_the_upload() -> None:
    client = ScriptedClient("complete_multipart_upload")
    writer = ObjectWriter(client, {})
    writer.write(bytes(_PART_BYTES))
    with pytest.raises(ObjectStoreError):
        writer.close()
    assert client.calls[-1] == "abort_multipart_upload"
