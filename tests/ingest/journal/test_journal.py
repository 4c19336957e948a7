"""The journal: synced records are read back whole, whatever happened to the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.journal.format import Damage, segments
from ingest.journal.reader import read_journal
from ingest.journal.records import Record, RecordKind
from ingest.journal.writer import JournalWriter
from storage.errors import JournalError
from tests.paths import ROOT
from tests.plugins.property_tests import examples

records = st.lists(
    st.tuples(
        st.integers(0, 1 << 60),
        st.sampled_from(list(RecordKind)),
        st.integers(-1, 9),
        st.binary(max_size=200),
    ),
    max_size=60,
)


def write(folder: Path, items: list[tuple[int, RecordKind, int, bytes]], *, every: int = 7) -> list[Record]:
    """Write records in blocks of `every`; return them as numbered."""
    with JournalWriter(folder) as journal:
        made = []
        for number, item in enumerate(items):
            made.append(journal.append(*item))
            if number % every == every - 1:
                journal.sync()
    return made


@settings(deadline=None, max_examples=examples(50))
@given(records)
def test_records_are_read_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[int, RecordKind, int, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("journal") / "r"
    made = write(folder, items)
    assert list(read_journal(folder)) == made
    assert [record.recv_ns for record in made] == sorted(record.recv_ns for record in made)


def test_segments_are_cut_at_their_size_and_read_as_one(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "r", segment_bytes=2_000) as journal:
        made = []
        for number in range(200):
            made.append(journal.append(number, RecordKind.FRAME, 0, os.urandom(100)))
            if number % 10 == 9:
                journal.sync()
    assert len(segments(tmp_path / "r")) > 5
    assert list(read_journal(tmp_path / "r")) == made


@settings(deadline=None, max_examples=examples(60))
@given(st.data())
def test_a_torn_tail_loses_only_its_last_block(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal") / "r"
    made = write(folder, [(n, RecordKind.FRAME, 0, b"frame %d" % n) for n in range(40)], every=4)
    segment = segments(folder)[0]
    whole = segment.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    segment.write_bytes(whole[:cut])
    damages: list[Damage] = []
    read = list(read_journal(folder, on_damage=damages.append))
    assert read == made[: len(read)]
    assert len(read) % 4 == 0
    if cut < len(whole) and len(read) < len(made) and damages:
        assert damages[0].offset + damages[0].size_bytes == cut


def test_a_flipped_bit_costs_one_block_and_is_reported(tmp_path: Path) -> None:
    made = write(tmp_path / "r", [(n, RecordKind.FRAME, 0, b"frame %d" % n) for n in range(40)], every=4)
    segment = segments(tmp_path / "r")[0]
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)
    damages: list[Damage] = []
    read = list(read_journal(tmp_path / "r", on_damage=damages.append))
    assert len(damages) == 1
    lost = [record.frame for record in made if record not in read]
    assert len(lost) in (4, 40 - len(read)), "the frames after it keep their numbers"
    assert all(record in made for record in read)


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path / "r", [])
    with pytest.raises(JournalError, match="exists already"):
        JournalWriter(tmp_path / "r")


def test_a_folder_without_segments_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no journal segment"):
        list(read_journal(tmp_path))


def test_a_foreign_file_is_no_segment(tmp_path: Path) -> None:
    (tmp_path / "000000.twj").write_bytes(b"PK\x03\x04 something else entirely")
    with pytest.raises(JournalError, match="is not a journal segment"):
        list(read_journal(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "r")
    assert journal._handle is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._handle)
    journal.append(1, RecordKind.FRAME, 0, b"x")
    with pytest.raises(JournalError, match=r"the journal cannot be written: No space left.*free space"):
        journal.sync()


WRITER = """
import sys
from pathlib import Path
from ingest.journal.writer import JournalWriter
from ingest.journal.records import RecordKind
journal = JournalWriter(Path(sys.argv[1]))
for number in range(1_000_000):
    journal.append(number, RecordKind.FRAME, 0, b"frame %d" % number)
    if number % 50 == 49:
        journal.sync()
        print(number, flush=True)
"""


def test_kill_minus_nine_loses_nothing_that_was_synced(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert writer.stdout is not None
    for _ in range(30):
        synced = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    synced = max([synced, *(int(line) for line in writer.stdout.read().split())])
    read = list(read_journal(tmp_path / "r"))
    assert len(read) > synced
    assert [record.body for record in read] == [b"frame %d" % n for n in range(len(read))]


@settings(max_examples=examples(60), deadline=None)
@given(at=st.floats(0.0, 1.0), value=st.integers(0, 255))
def test_one_damaged_byte_costs_one_block_at_most(
    tmp_path_factory: pytest.TempPathFactory, at: float, value: int
) -> None:
    folder = tmp_path_factory.mktemp("j") / "r"
    with JournalWriter(folder) as journal:
        for number in range(40):
            journal.append(number, RecordKind.FRAME, 0, b"frame %d" % number)
            if number % 4 == 3:
                journal.sync()
    path = segments(folder)[0]
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[4:8], "little")
    offset = header + int(at * (len(data) - header - 1))
    is_changed = data[offset] != value
    data[offset] = value
    path.write_bytes(data)
    damages: list[Damage] = []
    read = [record.frame for record in read_journal(folder, on_damage=damages.append)]
    assert read == sorted(read)
    assert len(read) == (36 if is_changed else 40)
    assert len(damages) == is_changed
