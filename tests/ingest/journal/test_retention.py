"""Retention of the journal: identical copies, safe removals, no half-done work after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.journal.backup_store import BackupStore, FolderBackupStore, S3BackupStore, open_store
from ingest.journal.format import hold_recording, segments
from ingest.journal.reader import read_journal
from ingest.journal.recording import SEALED
from ingest.journal.records import RecordKind
from ingest.journal.retention import (
    COPIED,
    REMOVED,
    RetentionResult,
    apply_retention,
    stored_recordings,
)
from ingest.journal.writer import JournalWriter
from storage.clock import DAY_NS, NS
from storage.errors import JournalError, SettingsError
from storage.lake.lake import Lake
from storage.object_store import content_of
from storage.settings import Settings, load_settings
from tests.paths import ROOT
from tests.storage.servers import KEY, s3

NOW_NS = 1_767_571_200 * NS


def recording(
    settings: Settings, name: str, *, frames: int = 160, sealed: bool = True, days_old: float = 10
) -> Path:
    """Write a recording of several small segments."""
    folder = settings.journal_dir / name
    with JournalWriter(folder, segment_bytes=2_000) as journal:
        for number in range(frames):
            journal.append(NOW_NS + number, RecordKind.FRAME, 0, os.urandom(50))
            if number % 20 == 19:
                journal.sync()
    if sealed:
        (folder / SEALED).touch()
    for path in segments(folder):
        os.utime(path, ns=(0, NOW_NS - int(days_old * DAY_NS)))
    return folder


def with_keep(settings: Settings, **changes: Any) -> Settings:
    return dataclasses.replace(settings, keep=dataclasses.replace(settings.keep, **changes))


def has_all(name: str) -> int | None:
    """A lake that has everything."""
    return 1 << 40


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    with pytest.MonkeyPatch.context() as patch, s3(patch, "ticks"):
        yield "ticks"


@pytest.fixture(params=["folder", "s3"])
def copy_to(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "elsewhere")
    return f"s3://{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_sealed_segments_are_copied_once_and_the_open_one_is_not(settings: Settings, copy_to: str) -> None:
    settings = with_keep(settings, copy_to=copy_to)
    running = recording(settings, "running", sealed=False)
    ended = recording(settings, "ended")
    done = apply_retention(settings, now_ns=NOW_NS)
    store = open_store(copy_to)
    paths = [*segments(running)[:-1], *segments(ended), ended / SEALED]
    assert len(paths) > 4
    assert done.failed == {}
    assert done.copied == len(paths) - 1, "the mark is no segment"
    for path in paths:
        assert store.holds(f"{path.parent.name}/{path.name}", content_of(path)), path
    newest = segments(running)[-1]
    assert not store.holds(f"running/{newest.name}", content_of(newest))
    assert not store.holds("running/sealed", content_of(ended / SEALED))
    assert apply_retention(settings, now_ns=NOW_NS) == RetentionResult(), "a second pass has nothing to do"


def test_a_copy_can_be_put_back_and_read(settings: Settings, tmp_path: Path) -> None:
    settings = with_keep(settings, copy_to=str(tmp_path / "elsewhere"))
    folder = recording(settings, "ended")
    apply_retention(settings, now_ns=NOW_NS)
    copied = [record.body for record in read_journal(tmp_path / "elsewhere" / "ended")]
    assert copied == [record.body for record in read_journal(folder)]
    assert len(copied) == 160


def test_a_damaged_copy_is_detected(settings: Settings, copy_to: str) -> None:
    store = open_store(copy_to)
    (path, *_) = segments(recording(settings, "ended"))
    content = content_of(path)
    assert not store.holds("a/b", content)
    store.put("a/b", path, content)
    assert store.holds("a/b", content)
    assert not store.holds("a/b", dataclasses.replace(content, sha256="00" * 32))
    assert not store.holds("a/b", dataclasses.replace(content, size_bytes=1))


def test_a_file_that_changes_while_it_is_copied_is_refused(settings: Settings, copy_to: str) -> None:
    """The hash of what arrived is not that of what was to be sent."""
    (path, *_) = segments(recording(settings, "ended"))
    before = content_of(path)
    path.write_bytes(b"x" * before.size_bytes)
    with pytest.raises(JournalError):
        open_store(copy_to).put("ended/changed", path, before)
    assert not open_store(copy_to).holds("ended/changed", before)


def test_a_recording_is_removed_only_if_all_conditions_hold(settings: Settings, copy_to: str) -> None:
    settings = with_keep(settings, copy_to=copy_to, journal_days=7)
    recording(settings, "ended")
    recording(settings, "running", sealed=False)
    recording(settings, "fresh", days_old=6)
    recording(settings, "capture-0123")
    done = apply_retention(settings, now_ns=NOW_NS, last_frame=has_all)
    assert done.removed == ["ended"]
    assert sorted(path.name for path in settings.journal_dir.iterdir() if path.is_dir()) == [
        "capture-0123",
        "fresh",
        "running",
    ]
    (line,) = (settings.journal_dir / REMOVED).read_text().splitlines()
    assert (json.loads(line)["recording"], json.loads(line)["copy"]) == ("ended", copy_to)


def test_without_journal_days_nothing_is_removed(settings: Settings) -> None:
    recording(settings, "ended", days_old=5_000)
    assert apply_retention(settings, now_ns=NOW_NS, last_frame=has_all).removed == []


@pytest.mark.parametrize("known", [None, 158])
def test_a_recording_missing_in_the_lake_is_kept(settings: Settings, known: int | None) -> None:
    settings = with_keep(settings, journal_days=7)
    folder = recording(settings, "ended")
    done = apply_retention(settings, now_ns=NOW_NS, last_frame=lambda name: known)
    assert done.removed == []
    assert f"frames up to {known}, and the recording goes to 159" in done.failed["ended"]
    assert len(list(read_journal(folder))) == 160
    assert apply_retention(settings, now_ns=NOW_NS, last_frame=lambda name: 159).removed == ["ended"]


def test_the_lake_of_the_home_is_queried(settings: Settings) -> None:
    settings = with_keep(settings, journal_days=7)
    recording(settings, "ended")
    assert "there is no lake" in apply_retention(settings, now_ns=NOW_NS).failed["ended"]
    with Lake.open(settings) as lake:
        for first, last in ((0, 99), (100, 159)):
            lake.commit({}, batch_id=f"live:{last}", inputs={"recording": "ended", "frames": [first, last]})
            lake.commit({}, batch_id=f"other:{last}", inputs={"recording": "other", "frames": [first, 999]})
            if last == 99:
                assert apply_retention(settings, now_ns=NOW_NS).removed == []
    assert apply_retention(settings, now_ns=NOW_NS).removed == ["ended"]


def test_a_copy_that_was_lost_keeps_the_recording_here(settings: Settings, tmp_path: Path) -> None:
    settings = with_keep(settings, copy_to=str(tmp_path / "elsewhere"), journal_days=20)
    recording(settings, "ended")
    apply_retention(settings, now_ns=NOW_NS, last_frame=has_all)
    later_ns = NOW_NS + 30 * DAY_NS
    copy = tmp_path / "elsewhere/ended/000001.twj"
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    done = apply_retention(settings, now_ns=later_ns, last_frame=has_all)
    assert "000001.twj is not copied" in done.failed["ended"]
    (settings.journal_dir / "ended" / COPIED).unlink()
    assert apply_retention(settings, now_ns=later_ns, last_frame=has_all).removed == ["ended"], (
        "it is copied anew"
    )


def test_a_recording_in_use_is_kept(settings: Settings) -> None:
    settings = with_keep(settings, journal_days=7)
    folder = recording(settings, "ended")
    with hold_recording(folder):
        done = apply_retention(settings, now_ns=NOW_NS, last_frame=has_all)
    assert "in use" in done.failed["ended"]


def test_a_store_that_refuses_is_reported_and_other_recordings_go_on(
    settings: Settings, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("a file where a folder must be")
    settings = with_keep(settings, copy_to=str(elsewhere))
    recording(settings, "a")
    folder = recording(settings, "b")
    done = apply_retention(settings, now_ns=NOW_NS)
    assert list(done.failed) == ["a"]
    assert done.copied == len(segments(folder))


def test_a_bucket_that_is_not_there_is_named(bucket: str, settings: Settings) -> None:
    settings = with_keep(settings, copy_to="s3://absent-bucket/x")
    recording(settings, "ended")
    assert "s3://absent-bucket" in apply_retention(settings, now_ns=NOW_NS).failed["ended"]


@pytest.mark.parametrize("where", ["gs://x", "http://x/y"])
def test_a_place_of_an_unknown_kind_is_refused(where: str) -> None:
    with pytest.raises(SettingsError, match=r"s3://bucket/prefix"):
        load_settings(overrides={"keep.copy_to": where}, environ={})


def test_a_second_pass_at_the_same_time_is_refused(settings: Settings) -> None:
    settings = with_keep(settings, copy_to="unused")

    class Nosy(FolderBackupStore):
        def put(self, name: str, path: Path, content: Any) -> None:
            with pytest.raises(JournalError, match="another process"):
                apply_retention(settings, now_ns=NOW_NS)
            raise JournalError("seen")

    recording(settings, "ended")
    store: BackupStore = Nosy(settings.home / "elsewhere")
    assert apply_retention(settings, now_ns=NOW_NS, store=store).failed == {"ended": "seen"}


def test_a_kill_in_the_middle_leaves_no_half_file_and_the_next_pass_ends_it(settings: Settings) -> None:
    """Whatever stands under a final name is whole."""
    folder = recording(settings, "ended", frames=1_200)
    elsewhere = settings.home / "elsewhere"
    overrides = {"home": str(settings.home), "keep.copy_to": str(elsewhere)}
    program = (
        "import os, signal\nfrom storage.settings import load_settings\n"
        "from ingest.journal.backup_store import FolderBackupStore\n"
        "from ingest.journal.retention import apply_retention\n"
        "put, names = FolderBackupStore.put, []\n"
        "def killed_in_the_fourth(store, name, path, content):\n"
        "    names.append(name)\n"
        "    if len(names) == 4:\n"
        "        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    put(store, name, path, content)\n"
        "FolderBackupStore.put = killed_in_the_fourth\n"
        f"settings = load_settings(environ={{}}, overrides={overrides!r})\n"
        "apply_retention(settings, now_ns=0)\n"
    )
    sealed = {path.name: content_of(path) for path in [*segments(folder), folder / SEALED]}
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    there = [path for path in elsewhere.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert 3 <= len(there) < len(sealed), "it was killed in the middle"
    assert all(content_of(path) == sealed[path.name] for path in there)
    apply_retention(with_keep(settings, copy_to=str(elsewhere)), now_ns=NOW_NS)
    assert {path.name: content_of(path) for path in (elsewhere / "ended").iterdir()} == sealed


def test_an_interrupted_removal_is_completed_by_the_next_pass(settings: Settings) -> None:
    settings = with_keep(settings, journal_days=7)
    folder = recording(settings, "ended")
    leaving = folder.rename(folder.with_name(".leaving-ended"))
    segments(leaving)[0].unlink()
    assert stored_recordings(settings) == []
    apply_retention(settings, now_ns=NOW_NS, last_frame=has_all)
    assert not leaving.exists()


def test_s3_takes_its_address_and_keys_from_the_usual_places(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/a/b/")
    assert isinstance(store, S3BackupStore)
    assert not {KEY} & set(map(str, vars(store).values()))
