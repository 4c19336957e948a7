"""Captures in order of receipt: however their pieces were joined, and without a receipt time that moved."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingest.journal.capture_order import JITTER_NS, MOST_PIECES, CaptureFrame, read_in_order
from ingest.journal.captures import BadCaptureLine
from storage.clock import DAY_NS, MS_NS, NS
from storage.errors import CaptureError

START_NS = 1_788_000_000_000_000_000


def line(at_ns: int, tid: int, *, is_bare: bool = False) -> bytes:
    message = json.dumps({"channel": "trades", "data": [{"coin": "BTC", "tid": tid}]})
    text = f"{at_ns} {message}" if is_bare else f'{{"recv_ns":{at_ns},"msg":{message}}}'
    return text.encode()


def write(path: Path, lines: Sequence[bytes], *, is_gzip: bool = False, members: int = 1) -> Path:
    """Write lines as a capture; gzipped, as one stream or as several."""
    cuts = [round(n * len(lines) / members) for n in range(members + 1)]
    parts = [b"".join(one + b"\n" for one in lines[a:b]) for a, b in pairwise(cuts)]
    path.write_bytes(b"".join(map(gzip.compress, parts) if is_gzip else parts))
    return path


def frames_of(path: Path) -> list[tuple[int, bytes]]:
    return [(item.recv_ns, item.body) for item in read_in_order(path) if isinstance(item, CaptureFrame)]


def expected(lines: Sequence[bytes]) -> list[tuple[int, bytes]]:
    found = []
    for one in lines:
        text = one.decode()
        stamp, body = text.split(" ", 1) if text[0] != "{" else (text[11:30], text[37:-1])
        found.append((int(stamp), body.encode()))
    return sorted(found, key=lambda frame: frame[0])


@examples(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 32), is_gzip=st.booleans(), is_bare=st.booleans())
def test_pieces_joined_in_any_order_are_read_in_order_of_receipt(
    tmp_path_factory: pytest.TempPathFactory, seed: int, is_gzip: bool, is_bare: bool
) -> None:
    """With holes between and overlaps, jitter within, and equal times in the order of the file."""
    chance = random.Random(seed)
    at_ns, lines = START_NS, []
    for tid in range(chance.randrange(2, 200)):
        at_ns += chance.choice((0, 1, 300 * MS_NS, NS, 8 * NS, 3_600 * NS if chance.random() < 0.05 else NS))
        lines.append(
            line(max(at_ns - chance.choice((0, 0, 0, NS, JITTER_NS)), START_NS), tid, is_bare=is_bare)
        )
    count = min(chance.randrange(1, 6), len(lines))
    cuts = [0, *sorted(chance.sample(range(1, len(lines)), count - 1)), len(lines)]
    pieces = [lines[a:b] for a, b in pairwise(cuts)]
    chance.shuffle(pieces)
    joined = [one for piece in pieces for one in piece]
    path = write(tmp_path_factory.mktemp("c") / "c", joined, is_gzip=is_gzip, members=chance.choice((1, 3)))
    assert frames_of(path) == expected(joined)


def test_more_pieces_than_can_be_read_side_by_side_are_refused_with_the_first_step(tmp_path: Path) -> None:
    lines = [line(START_NS + (n // 2) * NS - (n % 2) * 60 * NS, n) for n in range(4 * MOST_PIECES)]
    path = write(tmp_path / "c.ndjson", lines)
    with pytest.raises(
        CaptureError, match=rf"more than {MOST_PIECES - 1} times; line 2 steps back 60\.000 s"
    ) as caught:
        frames_of(path)
    assert "sort its lines" in str(caught.value.hint)


@pytest.mark.parametrize("off_ns", [400 * DAY_NS, -400 * DAY_NS])
def test_one_line_with_a_stray_receipt_time_is_a_bad_line(tmp_path: Path, off_ns: int) -> None:
    lines = [line(START_NS + n * NS, n) for n in range(9)]
    lines[4] = line(START_NS + 4 * NS + off_ns, 4)
    items = list(read_in_order(write(tmp_path / "c.ndjson", lines)))
    bad = items[4]
    assert isinstance(bad, BadCaptureLine)
    assert "lies 34560001.000 s after" in bad.reason or "lies 34559999.000 s before" in bad.reason
    assert (bad.number, bad.recv_ns, bad.until_ns) == (5, START_NS + 3 * NS, START_NS + 5 * NS)
    assert len(items) == 9


def test_bad_lines_stand_between_the_frames_around_them(tmp_path: Path) -> None:
    """A line that states its receipt time was received then; any other before the next frame."""
    good = [line(START_NS + n * NS, n) for n in range(4)]
    second, cut = [line(START_NS + (100 + n) * NS, n) for n in range(2)], line(START_NS + NS // 2, 9)[:60]
    lines = [
        b"# made by hand",
        *second,
        cut[:-1].replace(b"8", b"9", 1),
        b"",
        good[0],
        cut,
        good[1],
        b"garbage",
        *good[2:],
    ]
    items = list(read_in_order(write(tmp_path / "c.ndjson", lines)))
    told = [(item.number, (item.recv_ns - START_NS) / NS, (item.until_ns - START_NS) / NS)
            for item in items if isinstance(item, BadCaptureLine)]  # fmt: skip
    assert told == [(7, 0.0, 0.5), (9, 1.0, 2.0), (1, 100.0, 100.0), (4, 101.0, 106.0)]
    assert [item.recv_ns for item in items] == sorted(item.recv_ns for item in items)


def test_a_line_that_is_nested_too_deeply_is_a_bad_line(tmp_path: Path) -> None:
    deep = f'{{"recv_ns":{START_NS},"msg":{"[" * 9_000}{"]" * 9_000}}}'.encode()
    items = list(read_in_order(write(tmp_path / "c.ndjson", [line(START_NS, 1), deep, line(START_NS, 2)])))
    assert [isinstance(item, BadCaptureLine) for item in items] == [False, True, False]


def test_a_bad_line_at_the_beginning_of_a_piece_stays_with_it(tmp_path: Path) -> None:
    first, second = ([line(START_NS + (at + n) * NS, n) for n in range(3)] for at in (0, 100))
    cut = line(START_NS - NS // 2, 9)[:60]
    items = list(read_in_order(write(tmp_path / "c.ndjson", [*second, cut, *first])))
    assert isinstance(items[0], BadCaptureLine)
    assert (items[0].recv_ns, items[0].until_ns) == (START_NS, START_NS)


def test_a_truncated_gzip_file_of_two_pieces_keeps_what_is_whole(tmp_path: Path) -> None:
    chance = random.Random(1)
    lines = [line(START_NS + n * NS, chance.randrange(1 << 60)) for n in range(3_000)]
    path = write(tmp_path / "c.ndjson.gz", [*lines[1_500:], *lines[:1_500]], is_gzip=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    items = list(read_in_order(path))
    frames = [item for item in items if isinstance(item, CaptureFrame)]
    assert 2_000 < len(frames) < 3_000
    assert [item.recv_ns for item in frames] == sorted(item.recv_ns for item in frames)
    assert any(isinstance(item, BadCaptureLine) and "gzip stream" in item.reason for item in items)
