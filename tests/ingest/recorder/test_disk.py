"""Recordings whose disk is full or turns read-only."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ingest.journal.recording import SEALED
from storage.settings import Settings
from tests.drills.command import tickwalk, until_said
from tests.drills.homes import (
    assert_bars_hold_trades,
    assert_equal,
    journalled_prints,
    read_tables,
    recordings,
    replay_all,
    stored_prints,
)
from tests.drills.kills import SETTINGS
from tests.drills.venue_process import venue_process

SMALL: Final = {**SETTINGS, "metrics.port": 0, "record.segment_bytes": 20_000, "record.coins": "BTC,ETH,SOL"}


def mount(*arguments: str) -> None:
    """Mount something, or skip where that is not allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount a file system over a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(*arguments, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_nothing_is_lost_by_what_follows(
    settings: Settings, values: dict[str, object], other: Path
) -> None:
    """Check the state after a failed recorder, let the next one recover it, and compare."""
    (failed,) = recordings(settings)
    assert not (failed / SEALED).exists()
    held = journalled_prints(failed)
    assert len(held) > 20, "what was synced is readable"
    assert set(stored_prints(settings)) <= held, "nothing in the tables that the journal does not hold"
    following = tickwalk(settings.home, values, "record")
    until_said(following, "recording recovered")
    until_said(following, "caught up")
    following.send_signal(signal.SIGINT)
    said = following.communicate()
    assert following.returncode == 0, said
    assert (failed / SEALED).exists()
    everywhere = set().union(*map(journalled_prints, recordings(settings)))
    assert sorted(stored_prints(settings)) == sorted(everywhere)
    assert_bars_hold_trades(settings)
    assert_equal(read_tables(settings), read_tables(replay_all(settings, other)))


@pytest.mark.drill
def test_a_full_disk_ends_the_recorder_with_a_word_and_the_next_one_recovers(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        mounted(settings.journal_dir, "-t", "tmpfs", "-o", "size=64k", "tickwalk-drill"),
        venue_process(tmp_path, activity=20.0) as venue,
    ):
        values = SMALL | venue.addresses
        recorder = tickwalk(settings.home, values, "record")
        said = recorder.communicate()
        assert recorder.returncode == 2, said
        assert "the journal cannot be written: No space left on device" in said
        assert "free space or mend" in said
        assert "Traceback" not in said
        mount("-o", "remount,size=64m", str(settings.journal_dir))
        assert_nothing_is_lost_by_what_follows(settings, values, tmp_path / "replayed")


@pytest.mark.drill
def test_a_disk_that_turns_read_only_ends_the_recorder_with_a_word(
    settings: Settings, tmp_path: Path
) -> None:
    journal = settings.journal_dir
    journal.mkdir(parents=True)
    with venue_process(tmp_path, activity=20.0) as venue:
        values = SMALL | venue.addresses
        recorder = tickwalk(settings.home, values, "record")
        until_said(recorder, "connected", "chain")
        with mounted(journal, "--bind", str(journal)):
            mount("-o", "remount,bind,ro", str(journal))
            said = recorder.communicate()
            assert recorder.returncode == 2, said
            assert "the journal cannot be written: Read-only file system" in said
            refused = tickwalk(settings.home, values, "record", "--for", "1")
            said = refused.communicate()
            assert refused.returncode == 2, said
            assert "cannot be" in said
            assert "Traceback" not in said
        assert_nothing_is_lost_by_what_follows(settings, values, tmp_path / "replayed")
