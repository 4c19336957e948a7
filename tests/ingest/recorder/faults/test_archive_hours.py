"""Archive hours that are missing, empty, late, truncated, or contain their neighbour's events."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from ingest.backfill.archive.fill_parser import HourReader
from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.object_keys import BLOCKS, HOUR_NS, hour_key, with_neighbours
from ingest.backfill.archive.object_store import ArchiveStore, open_store
from storage.clock import NS, floor_ns, parse_time_ns
from storage.errors import CaptureError, SettingsError, VenueError
from storage.settings.services import ArchiveSettings
from tests.ingest.recorder.faults.test_archive_fills import HOUR_MS, a_block, a_trade
from tests.storage.servers import s3

HOUR = parse_time_ns("2025-07-29T14:00:00Z")
FILLS = BLOCKS.folder
KEY = f"{FILLS}/20250729/14.lz4"
HURRIED = ArchiveSettings(tries=2, backoff_s=0.01)
LATER = HOUR + 30 * 86_400 * NS

Put = Callable[[str, bytes], None]


def open_at(where: str) -> ArchiveStore:
    return open_store(where, HURRIED)


def packed(*lines: bytes) -> bytes:
    return bytes(pa.compress(b"".join(line + b"\n" for line in lines), codec="lz4", asbytes=True))


@pytest.fixture(params=["http", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Put]:
    """An archive behind a real socket: its address, and how an object comes to lie there."""
    if request.param == "http":
        address: str = request.getfixturevalue("site")
        return address, functools.partial(_put_file, tmp_path / "site")
    bucket: str = request.getfixturevalue("bucket")
    return f"s3://{bucket}/{tmp_path.name}", functools.partial(_put_object, bucket, tmp_path.name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A silent file server that refuses secret files."""

    def do_GET(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
        elif "broken" in self.path:
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server on this machine."""
    with pytest.MonkeyPatch.context() as patch, s3(patch, "archive"):
        yield "archive"


def _put_file(folder: Path, key: str, body: bytes) -> None:
    (folder / key).parent.mkdir(parents=True, exist_ok=True)
    (folder / key).write_bytes(body)


def _put_object(bucket: str, prefix: str, key: str, body: bytes) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body)


def test_an_hour_that_is_late_is_absent_and_asked_for_again(place: tuple[str, Put], tmp_path: Path) -> None:
    address, put = place
    objects = ObjectCache(open_at(address), tmp_path / "held", retry_s=3_600.0)
    first = objects.fetch(KEY, LATER)
    assert (first.state, first.reason) == ("absent", "refused or not there")
    with pytest.raises(CaptureError, match="is not held"):
        list(objects.lines(KEY))
    put(KEY, packed(b"one", b"two"))
    assert objects.fetch(KEY, LATER + 1_800 * NS) == first, "it is not asked for at once"
    held = objects.fetch(KEY, LATER + 3_600 * NS)
    assert (held.state, list(objects.lines(KEY))) == ("held", [b"one", b"two"])
    put(KEY, packed(b"other"))
    assert objects.fetch(KEY, LATER + 9_999 * NS) == held, "what is held is not asked for again"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (packed(), "empty"),
        (packed(b"line " * 999)[:-20], "cut short"),
        (b"<html>", "cut short"),
    ],
    ids=["no bytes", "no lines", "half", "a page"],
)
def test_an_hour_without_its_content_is_absent_and_not_an_hour_without_trades(
    place: tuple[str, Put], tmp_path: Path, body: bytes, reason: str
) -> None:
    address, put = place
    put(KEY, body)
    entry = ObjectCache(open_at(address), tmp_path / "held").fetch(KEY, LATER)
    assert entry.state == "absent"
    assert entry.reason.startswith(reason)
    assert not (tmp_path / "held" / KEY).exists()


def test_a_refusal_is_an_absence_and_a_failure_is_not_noted(site: str, tmp_path: Path) -> None:
    objects = ObjectCache(open_at(site), tmp_path / "held")
    assert objects.fetch("secret/20250729/1.lz4", LATER).state == "absent"
    with pytest.raises(VenueError, match="answered 500"):
        objects.fetch("broken/20250729/1.lz4", LATER)
    assert objects.entry("broken/20250729/1.lz4") is None
    with pytest.raises(VenueError, match="cannot be reached"):
        ObjectCache(open_at("http://127.0.0.1:9"), tmp_path).fetch(KEY, LATER)


def test_bytes_that_changed_on_the_disk_are_found_and_fetched_anew(
    place: tuple[str, Put], tmp_path: Path
) -> None:
    address, put = place
    put(KEY, packed(b"one"))
    objects = ObjectCache(open_at(address), tmp_path / "held")
    held = objects.fetch(KEY, LATER)
    (tmp_path / "held" / KEY).write_bytes(packed(b"two"))
    with pytest.raises(CaptureError, match="other bytes than were fetched"):
        list(objects.lines(KEY))
    assert objects.fetch(KEY, LATER + NS).sha256 == held.sha256
    assert list(objects.lines(KEY)) == [b"one"]


def test_events_that_spilled_into_the_next_hour_are_found_there(
    place: tuple[str, Put], tmp_path: Path
) -> None:
    """One of the hour's two trades is in the next hour's object, and the hour before is absent."""
    address, put = place
    put(KEY, packed(a_block(*a_trade(1, at_s=10.0))))
    put(f"{FILLS}/20250729/15.lz4", packed(a_block(*a_trade(2, at_s=3_599.9), *a_trade(3, at_s=3_700.0))))
    objects = ObjectCache(open_at(address), tmp_path / "held")
    reader = HourReader(HOUR_MS, HOUR_MS + 3_600_000, spill_ms=120_000)
    keys = [BLOCKS.key(at_ns) for at_ns in with_neighbours(HOUR)]
    assert [objects.fetch(key, LATER).state for key in keys] == ["absent", "held", "held"]
    for number, key in enumerate(keys[1:]):
        reader.add(objects.pieces(key), BLOCKS.form, number)
    hour = reader.finish()
    assert (hour.prints["tid"].tolist(), hour.odd) == ([1, 2], [])


def test_hours_are_named_as_the_archive_names_them() -> None:
    night = parse_time_ns("2025-12-31T23:59:59Z")
    hours = with_neighbours(floor_ns(night, HOUR_NS))
    assert [hour_key("x", at_ns) for at_ns in hours] == [
        "x/20251231/22.lz4",
        "x/20251231/23.lz4",
        "x/20260101/0.lz4",
    ]
    with pytest.raises(SettingsError, match="is no archive"):
        open_at("ftp://host/x")
