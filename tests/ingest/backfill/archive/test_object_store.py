"""Object stores: retries after busy, failing and interrupted answers, and the meaning of refusals."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.backfill.archive.object_store import open_store
from storage.errors import VenueError
from storage.settings.services import ArchiveSettings
from tests.ingest.backfill.archive.archives import LIMITS, objects_at, packed

BODY = packed([b"line " * 50] * 99)
GOOD = (200, "")


class Busy(http.server.BaseHTTPRequestHandler):
    """Speaks as S3 does: the next of some (status, code) answers to each request; `-1` breaks the body off."""

    answers: list[tuple[int, str]]
    asked: list[dict[str, str]]

    def do_GET(self) -> None:
        self.asked.append(dict(self.headers))
        status, code = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        text = f"<Error><Code>{code}</Code><Message>x</Message></Error>".encode()
        body = BODY if status in (200, -1) else text
        self.send_response(200 if status == -1 else status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if status == -1 else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Busy], ArchiveSettings]]:
    class Mine(Busy):
        answers: list[tuple[int, str]] = []  # noqa: RUF012 - of this test alone
        asked: list[dict[str, str]] = []  # noqa: RUF012 - of this test alone

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-secret")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Mine, replace(LIMITS, endpoint=f"http://127.0.0.1:{server.server_port}", region="us-east-1")
        server.shutdown()


def test_busy_failing_and_interrupted_answers_are_retried(
    busy: tuple[type[Busy], ArchiveSettings], tmp_path: Path
) -> None:
    server, limits = busy
    server.answers[:] = [(503, "SlowDown"), (429, "TooManyRequests"), (-1, ""), GOOD]
    objects = objects_at("s3://archive", tmp_path, limits)
    entry = objects.fetch("a/b.lz4", 1)
    assert (entry.state, entry.size_bytes, len(server.asked)) == ("held", len(BODY), 4)
    assert len(list(objects.lines("a/b.lz4"))) == 99
    assert {asked["x-amz-request-payer"] for asked in server.asked} == {"requester"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((503, "SlowDown"), r"s3://archive did not give a/b.lz4: it answered 503 SlowDown \(asked 4 times\)"),
        ((500, "InternalError"), r"it answered 500 InternalError \(asked 4 times\)"),
        ((429, "TooMany"), r"it answered 429 TooMany \(asked 4 times\) \(run the same command again later"),
        ((-1, ""), r"it cannot be reached \(\w+\) \(asked 4 times\)"),
        (
            (403, "InvalidAccessKeyId"),
            r"does not take these credentials \(InvalidAccessKeyId\) \(the reader pays",
        ),
        ((400, "BadThing"), r"it answered 400 BadThing \(run"),
    ],
)
def test_a_refusal_is_an_error_and_not_recorded(
    busy: tuple[type[Busy], ArchiveSettings], tmp_path: Path, answer: tuple[int, str], text: str
) -> None:
    server, limits = busy
    server.answers[:] = [answer]
    objects = objects_at("s3://archive", tmp_path, limits)
    with pytest.raises(VenueError, match=text) as caught:
        objects.fetch("a/b.lz4", 1)
    assert "made-secret" not in str(caught.value)
    assert objects.entry("a/b.lz4") is None
    server.answers[:] = [GOOD]
    assert objects.fetch("a/b.lz4", 2).state == "held", "it is asked for again at once"


@pytest.mark.parametrize("answer", [(403, "AccessDenied"), (404, "NoSuchKey")])
def test_missing_and_forbidden_objects_are_absent(
    busy: tuple[type[Busy], ArchiveSettings], tmp_path: Path, answer: tuple[int, str]
) -> None:
    server, limits = busy
    server.answers[:] = [answer]
    assert objects_at("s3://archive", tmp_path, limits).fetch("a/b.lz4", 1).state == "absent"
    assert open_store("s3://archive", limits).sizes("a/") is None, (
        "a bucket that does not list tells no sizes"
    )
    assert len(server.asked) == 2


def test_missing_credentials_name_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    import boto3

    boto3.setup_default_session()
    try:
        objects: Any = objects_at("s3://archive", tmp_path, replace(LIMITS, endpoint="http://127.0.0.1:9"))
        with pytest.raises(VenueError, match=r"there are no credentials \(the reader pays.*set AWS_PROFILE"):
            objects.fetch("a/b.lz4", 1)
    finally:
        boto3.DEFAULT_SESSION = None
