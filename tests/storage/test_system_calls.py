"""System calls on a system that lacks some of them, as macOS does."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

import pytest

from storage import system_calls
from storage.system_calls import drop_from_cache, sync_data, sync_file, usable_cores
from tests.plugins.absent_calls import ABSENT, remove_calls

FULL_SYNC = 51
"""Number of `F_FULLFSYNC` on macOS."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the calls that sync, in order; the system has those of Linux."""
    calls: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: calls.append("fdatasync"), raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    return calls


def test_linux_syncs_data_without_attributes(asked: list[str]) -> None:
    sync_data(0)
    sync_file(0)
    assert asked == ["fdatasync", "fsync"]


def test_data_is_synced_by_fsync_where_fdatasync_is_absent(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync")
    sync_data(0)
    assert asked == ["fsync"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ["full", "full"]),
        (errno.ENOTSUP, ["full", "fdatasync", "full", "fsync"]),
        (errno.EINVAL, ["full", "fdatasync", "full", "fsync"]),
    ],
    ids=["supported", "network drive", "other drive"],
)
def test_macos_flushes_the_drive_where_it_can(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, error: int | None, expected: list[str]
) -> None:
    def control(_: int, command: int) -> int:
        assert command == FULL_SYNC
        asked.append("full")
        if error is not None:
            raise OSError(error, os.strerror(error))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL_SYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    sync_data(0)
    sync_file(0)
    assert asked == expected


def test_a_full_disk_is_an_error_of_the_full_sync(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def control(*_: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL_SYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    with pytest.raises(OSError, match="full"):
        sync_data(0)
    assert asked == []


def test_cores_and_the_cache_of_a_system_without_these_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = usable_cores()
    with (tmp_path / "a").open("wb") as file:
        assert drop_from_cache(file.fileno()) is hasattr(os, "posix_fadvise")
        remove_calls(monkeypatch)
        assert drop_from_cache(file.fileno()) is False
    assert usable_cores() == os.cpu_count()
    assert 1 <= cores <= usable_cores()


def test_no_other_module_uses_a_call_that_macos_lacks() -> None:
    """Only `storage.system_calls` names them, so no other code can fail where they are absent."""
    root = Path(system_calls.__file__).parent.parent
    packages = ("storage", "ingest", "features", "training", "serving", "tickwalk", "dags")
    files = [path for package in packages for path in (root / package).rglob("*.py")]
    names = "|".join(rf"{module.__name__}(?:\.|, \"){name}" for module, name in ABSENT)
    users = {
        f"{path.relative_to(root)}: {found}"
        for path in files
        for found in re.findall(rf"\b(?:{names})\b", path.read_text(encoding="utf-8"))
    }
    assert len(files) > 300
    allowed = {
        'ingest/recorder/steady_clock.py: time, "CLOCK_BOOTTIME',  # with another clock where it is absent
    }
    assert {user for user in users if not user.startswith("storage/system_calls.py")} == allowed
