"""Errors of an archive end the command with a message, and the same command resumes afterwards."""

from __future__ import annotations

import http.client
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ingest.backfill.archive.object_keys import BLOCKS, HOUR_NS
from storage.clock import iso
from storage.contracts.lake_records import MIGRATIONS
from storage.lake.lake import Lake
from storage.lake.migrations import LAYOUT
from storage.settings import load_settings
from tests.ingest.backfill.archive.archives import HOUR, HOUR_MS, both, packed, pulse
from tests.ingest.backfill.archive.conftest import Put
from tests.ingest.backfill.archive.test_commands import run
from tests.ingest.recorder.faults.test_archive_fills import a_block
from tests.patience import HANG_S

HOURS = 2
LAST = BLOCKS.key(HOUR + HOURS * HOUR_NS)
"""The object that the second step is the first to need."""


class Front(http.server.BaseHTTPRequestHandler):
    """A proxy of a real S3 server that answers requests for one object with an error."""

    behind = ""
    refused = ""
    status = 500

    def do_GET(self) -> None:
        if self.refused and self.path.endswith(self.refused):
            return self._answer(self.status, b"<Error><Code>Made</Code></Error>", {})
        place = urlsplit(self.behind)
        server = http.client.HTTPConnection(place.hostname or "", place.port, timeout=HANG_S)
        server.request("GET", self.path, headers=dict(self.headers))
        answer = server.getresponse()
        return self._answer(answer.status, answer.read(), dict(answer.headers))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@pytest.fixture
def front(place: tuple[str, Put]) -> Iterator[tuple[str, type[Front]]]:
    """Yield an address that leads to the real server, and the class that can refuse."""

    class Mine(Front):
        behind = os.environ["AWS_ENDPOINT_URL"]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Mine
        server.shutdown()


def body(number: int) -> bytes:
    at_ms = HOUR_MS + number * 3_600_000
    return packed([a_block(*both(number + 5, at_ms)), *pulse(at_ms + 1_000, at_ms + 3_600_000, 50_000)])


def lay_down(put: Put) -> None:
    for number in range(-1, HOURS + 1):
        put(BLOCKS.key(HOUR + number * HOUR_NS), body(number))


def asked(where: str, *more: str) -> list[str]:
    values = (f"archive.node_data={where}", "archive.tries=2", "archive.backoff_s=0.01", *more)
    command = ["backfill", "trades", "--from", iso(HOUR), "--to", iso(HOUR + HOURS * HOUR_NS)]
    return [*(part for value in values for part in ("--set", value)), *command]


def trades(home: Path) -> int:
    with Lake.open(load_settings(overrides={"home": home}, environ={}), read_only=True) as lake:
        return lake.query("FROM trades").num_rows


@pytest.mark.parametrize("status", [429, 500])
def test_a_failing_archive_is_reported_and_the_same_command_resumes(
    place: tuple[str, Put],
    front: tuple[str, type[Front]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
) -> None:
    (where, put), (address, server) = place, front
    lay_down(put)
    server.refused, server.status = LAST, status
    command = asked(where, f"archive.endpoint={address}")
    assert run(tmp_path / "home", *command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"trades of 2025-07-29T15:00: {where} did not give {LAST}: it answered {status} Made (asked 2 times)"
        in said
    )
    assert "1 of 2 steps are in the lake, and the same command goes on from there" in said
    server.refused = ""
    assert run(tmp_path / "home", *command) == 0
    assert "steps     1 done, 1 were in the lake" in capsys.readouterr().out
    assert trades(tmp_path / "home") == 2 * 73


@pytest.mark.parametrize(
    ("flaw", "reason"), [("missing", "refused or not there"), ("truncated", "cut short or damaged: ")]
)
def test_a_missing_or_truncated_object_is_named_and_fetched_once_it_is_whole(
    place: tuple[str, Put], tmp_path: Path, capsys: pytest.CaptureFixture[str], flaw: str, reason: str
) -> None:
    where, put = place
    lay_down(put)
    key = BLOCKS.key(HOUR + HOUR_NS)
    if flaw == "missing":
        import boto3

        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        boto3.client("s3").delete_object(Bucket=bucket, Key=f"{prefix}/{key}")
    else:
        put(key, body(1)[:-20])
    assert run(tmp_path / "home", *asked(where)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "steps     1 done, 0 were in the lake"
    assert lines[2] == "absent    1 steps; the next run tries them again"
    assert lines[3].startswith(f"  trades of 2025-07-29T15:00: {key}: {reason}")
    assert lines[1] == "new rows  bars 120, coverage 2, trades 73", "nothing of half an object"
    put(key, body(1))
    assert run(tmp_path / "home", *asked(where, "archive.retry_h=0.0000001")) == 0
    assert "steps     1 done, 1 were in the lake" in capsys.readouterr().out
    assert trades(tmp_path / "home") == 2 * 73


@pytest.mark.real_lakes
def test_a_lake_of_a_newer_release_is_refused_before_anything_is_fetched(
    place: tuple[str, Put], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    with Lake.open(load_settings(overrides={"home": home}, environ={})) as lake:
        row = {"number": LAYOUT + 1, "name": "of tomorrow", "code": "1.0", "ts_knowable_ns": 1}
        lake.commit({"migrations": MIGRATIONS.rows([row])}, batch_id="m")
    assert run(home, *asked(place[0])) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"the lake has layout {LAYOUT + 1}, and this tickwalk knows layouts up to {LAYOUT}: a newer one wrote it"
        in said
    )
    assert "update tickwalk, or name another folder with --home" in said
    assert not (home / "archive").exists()
