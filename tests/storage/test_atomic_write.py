"""Atomic file replacement: content, permission bits and failures."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from storage.atomic_write import publish, replacing, temporary_path, write_atomic


@pytest.mark.parametrize("is_synced", [True, False])
@pytest.mark.parametrize("is_unique", [True, False])
@pytest.mark.parametrize("content", [b"new", "new"])
def test_new_content_replaces_old_and_leaves_no_temporary_file(
    tmp_path: Path, content: bytes | str, is_unique: bool, is_synced: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    write_atomic(path, content, is_synced=is_synced, is_unique=is_unique)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_file_is_hidden_beside_its_target() -> None:
    assert temporary_path(Path("/a/b.json")) == Path(f"/a/.b.json.{os.getpid()}.part")
    assert temporary_path(Path("/a/b.json"), is_unique=False) == Path("/a/.b.json.part")


def test_left_over_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    left = temporary_path(path, is_unique=False)
    left.write_bytes(b"a longer text that a kill cut off")
    left.chmod(0o644)
    write_atomic(path, b"new", is_unique=False, mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(IsADirectoryError), replacing(path, is_synced=True) as temporary:
        temporary.write_bytes(path.parent.read_bytes())
    with pytest.raises(FileNotFoundError), replacing(path, is_synced=True):
        pass
    with pytest.raises(TypeError):
        write_atomic(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_synced_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "os.fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
    )
    path, temporary = tmp_path / "a", tmp_path / "part"
    temporary.write_bytes(b"1")
    publish(temporary, path, is_synced=True)
    assert synced == [str(temporary), str(tmp_path)]
    write_atomic(path, b"2", is_synced=False)
    assert len(synced) == 2


def test_absent_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "a", b"x")
