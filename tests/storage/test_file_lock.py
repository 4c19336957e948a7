"""File locks: exclusive, shared, with a timeout, and across processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import LakeError
from storage.file_lock import file_lock, lock_file

BUSY = LakeError("busy", hint="wait")


def test_exclusive_lock_refuses_another_and_raises_the_given_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path, error=BUSY):
        for timeout_s in (0.0, 0.05):
            with pytest.raises(LakeError, match="busy"), file_lock(path, error=BUSY, timeout_s=timeout_s):
                pass
        with pytest.raises(LakeError, match="busy"):
            lock_file(path, error=BUSY, is_shared=True)
    with file_lock(path, error=BUSY, timeout_s=math.inf):
        pass


def test_shared_locks_share_and_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        file_lock(path, error=BUSY, is_shared=True),
        file_lock(path, error=BUSY, is_shared=True),
        pytest.raises(LakeError, match="busy"),
    ):
        lock_file(path, error=BUSY)
    lock_file(path, error=BUSY).close()


def test_closing_the_handle_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    handle = lock_file(path, error=BUSY)
    handle.close()
    lock_file(path, error=BUSY).close()


def test_append_mode_keeps_the_content_and_write_mode_empties_it(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("owner\n")
    with file_lock(path, error=BUSY, mode="a+") as handle:
        handle.seek(0)
        assert handle.read() == "owner\n"
    with file_lock(path, error=BUSY):
        assert path.read_text() == ""


def test_block_releases_the_lock_although_a_forked_child_still_has_the_handle(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path, error=BUSY) as handle:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[handle.fileno()]
        )
    try:
        lock_file(path, error=BUSY).close()
    finally:
        child.communicate(b"\n")


def test_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import fcntl, sys\nh = open(sys.argv[1], 'w')\nfcntl.flock(h, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ninput()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(LakeError, match="busy"):
        lock_file(path, error=BUSY)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    lock_file(path, error=BUSY).close()
