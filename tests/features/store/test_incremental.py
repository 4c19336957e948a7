"""Incremental builds from day files, equal to a full build to the bit."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import features.store.day_files
from features.build import build_features
from features.feature import FeatureBlock
from features.panel.panel import UNKNOWN, Panel
from features.store.atomic_files import FileWriter
from features.store.day_files import DayFiles
from features.store.eviction import trim_days
from features.store.incremental import built_block
from features.store.manifest import Manifest, StoreKey, write_manifest
from storage.clock import DAY_NS
from tests.features.store.test_store import MIDNIGHT_NS, QUARTER_NS, STEPS, assert_same, quarters

DAYS = 5
SET = "candles"


def rare(panel: Panel) -> Panel:
    """Return a panel in which the second instrument appears on day three, and the third disappears on day two."""
    status, values = panel.status.clone(), {name: value.clone() for name, value in panel.values.items()}
    for row, cut in ((1, slice(0, 2 * STEPS + 11)), (2, slice(STEPS + 40, None))):
        status[row, cut] = UNKNOWN
        for value in values.values():
            value[row, cut] = torch.nan
    return replace(panel, status=status, values=values)


WHOLE = rare(quarters(DAYS * STEPS))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of steps of each build, including the lookback."""
    seen: list[int] = []

    def count(panel: Panel, feature_set: str) -> FeatureBlock:
        if panel.instruments != ("",):
            seen.append(panel.n_steps)
        return build_features(panel, feature_set)

    monkeypatch.setattr(features.store.day_files, "build_features", count)
    return seen


@pytest.fixture(autouse=True)
def filled_memory() -> Iterator[None]:
    """Fill memory that nothing was written to: a freed tensor's old contents may be the right ones by chance."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan(), "see torch.utils.deterministic.fill_uninitialized_memory"
    yield
    torch.use_deterministic_algorithms(False)


def days_of(root: Path) -> list[Path]:
    return sorted(root.glob("*/????-??-??-*.safetensors"))


RANGES = st.tuples(st.integers(0, DAYS * STEPS - 2), st.integers(0, DAYS * STEPS - 2)).map(
    lambda ends: (min(ends), max(ends) + 1)
)
ASKED = st.lists(
    st.tuples(RANGES, st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(sorted)),
    min_size=2,
    max_size=5,
)


@examples(max_examples=5, deadline=None)
@given(requests=ASKED)
def test_the_block_equals_a_fresh_build_whatever_was_cached(
    requests: list[tuple[tuple[int, int], list[int]]],
) -> None:
    """Nights with any ranges and instruments share day files without affecting each other."""
    with TemporaryDirectory() as folder:
        for (start, stop), rows in requests:
            panel = WHOLE.steps(start, stop).select(rows)
            assert_same(built_block(Path(folder), panel, SET), build_features(panel, SET))


def test_the_next_night_builds_the_new_day_and_the_head(tmp_path: Path, built: list[int]) -> None:
    built_block(tmp_path, WHOLE.steps(0, 4 * STEPS), SET)
    assert built == [4 * STEPS]
    # A growing range: the new day and its lookback.
    growing = built_block(tmp_path, WHOLE, SET)
    assert built[1:] == [STEPS + 151]
    assert_same(growing, build_features(WHOLE, SET))
    # A moving range: some steps of the first two days are not known any more.
    moved = WHOLE.steps(STEPS, None)
    assert_same(built_block(tmp_path, moved, SET), build_features(moved, SET))
    assert built[2:] == [2 * STEPS]
    built_block(tmp_path, moved, SET)
    built_block(tmp_path, WHOLE, SET)
    assert len(built) == 3
    # One changed bar affects its day and those whose lookback reaches it.
    other = replace(WHOLE, values=WHOLE.values | {"volume": WHOLE.column("volume").clone()})
    other.values["volume"][0, 2 * STEPS + 90] += 1.0
    assert_same(built_block(tmp_path, other, SET), build_features(other, SET))
    assert built[3:] == [3 * STEPS + 151]


def test_steps_known_from_a_longer_history_are_masked_with_a_shorter_one(tmp_path: Path) -> None:
    built_block(tmp_path, WHOLE, SET)
    late = WHOLE.steps(2 * STEPS, None)
    block = built_block(tmp_path, late, SET)
    assert_same(block, build_features(late, SET))
    with_past = built_block(tmp_path, WHOLE, SET)
    assert int(with_past.mask[:, 2 * STEPS : 2 * STEPS + 151].sum()) > int(block.mask[:, :151].sum())


def test_an_empty_panel_is_an_empty_block(tmp_path: Path) -> None:
    for panel in (WHOLE.steps(0, 0), WHOLE.select([])):
        for _ in range(2):
            block = built_block(tmp_path, panel, SET)
            assert block.values.shape[:2] == block.mask.shape[:2] == panel.status.shape


@pytest.mark.parametrize(
    "harm", ["a bit", "the end", "all of it", "its clock", "another block", "another day"]
)
def test_a_damaged_day_is_built_again(tmp_path: Path, built: list[int], harm: str) -> None:
    built_block(tmp_path, WHOLE, SET)
    whole = {path: path.read_bytes() for path in days_of(tmp_path)}
    path = sorted(whole)[1]
    body = bytearray(whole[path])
    body[len(body) // 2] ^= 1
    harmed = {"a bit": bytes(body), "the end": bytes(body[:-100]), "all of it": b""}
    harmed["its clock"] = re.sub(rb"(start_ns[^0-9]*[0-9]{6})[0-9]", rb"\g<1>9", whole[path], count=1)
    path.write_bytes(harmed.get(harm, b""))
    if harm == "another block":  # undamaged, but under another day's name
        days, alone = DayFiles.of(tmp_path, SET, QUARTER_NS), WHOLE.select([3])
        day = replace(days.identify(alone, MIDNIGHT_NS + DAY_NS), file=path.name)
        days.write(*next(days.build(alone, [day])))
    assert_same(built_block(tmp_path, WHOLE, SET), build_features(WHOLE, SET))
    assert built[-1] == STEPS + 96, "the day and as much of the first as there is"
    assert path.read_bytes() == whole[path]


def test_a_day_under_the_name_of_another_is_rebuilt(tmp_path: Path) -> None:
    """The file is undamaged and has the same instruments: only its stored name differs."""
    built_block(tmp_path, WHOLE, SET)
    path, other = days_of(tmp_path)[3:5]
    whole = path.read_bytes()
    path.write_bytes(other.read_bytes())
    assert_same(built_block(tmp_path, WHOLE, SET), build_features(WHOLE, SET))
    assert path.read_bytes() == whole


def test_days_of_other_code_are_not_used(
    tmp_path: Path, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    built_block(tmp_path, WHOLE, SET)
    monkeypatch.setattr(features.store.day_files, "features_code_hash", lambda: "another line somewhere")
    built_block(tmp_path, WHOLE, SET)
    assert built == [DAYS * STEPS] * 2
    assert len({path.parent for path in days_of(tmp_path)}) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from features.store.incremental import built_block
from features.store.atomic_files import FileWriter
from tests.features.store.test_incremental import SET, WHOLE
put = FileWriter.put
def kill(self, name, value, **more):
    put(self, name, value, **more)
    kill.puts += 1
    if kill.puts == 4:  # half of the second day
        os.fsync(self._handle)
        os.kill(os.getpid(), signal.SIGKILL)
kill.puts = 0
FileWriter.put = kill
built_block(Path(sys.argv[1]), WHOLE, SET)
"""


def test_a_killed_build_leaves_only_complete_days(tmp_path: Path, built: list[int]) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    assert len(days_of(tmp_path)) == 0 or all(path.stat().st_size for path in days_of(tmp_path))
    [left] = tmp_path.glob("*/.*.part")
    assert_same(built_block(tmp_path, WHOLE, SET), build_features(WHOLE, SET))
    assert len(days_of(tmp_path)) == DAYS
    assert left.exists(), "it may be another night's that is at work"
    old = time.time() - 2 * 86_400
    os.utime(left, (old, old))
    trim_days(tmp_path, limit_bytes=10**9)
    assert not left.exists()


def test_where_the_disk_is_full_the_night_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileWriter, "put", full)
    assert_same(built_block(tmp_path, WHOLE, SET), build_features(WHOLE, SET))
    assert days_of(tmp_path) == []


def test_days_in_another_users_folder_are_used_and_kept(
    tmp_path: Path, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night must not change or remove files of another user, if Airflow runs under its own account."""
    built_block(tmp_path, WHOLE, SET)
    built.clear()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert_same(built_block(tmp_path, WHOLE, SET), build_features(WHOLE, SET))
    assert built == []
    trim_days(tmp_path, limit_bytes=0)
    assert len(days_of(tmp_path)) == DAYS


def test_unreferenced_days_are_evicted_least_recently_used_first(tmp_path: Path) -> None:
    built_block(tmp_path, WHOLE, SET)
    key = StoreKey(SET, "15m", 0)
    folder = DayFiles.of(tmp_path, SET, QUARTER_NS).folder
    kept = days_of(tmp_path)
    manifest = Manifest(start_ns=MIDNIGHT_NS, stop_ns=MIDNIGHT_NS + DAY_NS)
    manifest.name_file(MIDNIGHT_NS, kept[0].name)
    write_manifest(folder, key, manifest)
    for age, path in enumerate(kept):
        os.utime(path, (2_000_000_000 - age, 2_000_000_000 - age))
    # The first is in the manifest; of the other four the last is the least recently used.
    trim_days(tmp_path, limit_bytes=3 * max(path.stat().st_size for path in kept))
    assert days_of(tmp_path) == kept[:4]
    # Files of the current build stay, however small the limit.
    built_block(tmp_path, WHOLE, SET, limit_bytes=0)
    assert days_of(tmp_path) == kept
    built_block(tmp_path, WHOLE.steps(0, 10), SET, limit_bytes=0)
    assert [path for path in days_of(tmp_path) if path in kept] == kept[:1]
    # Manifests of other code do not count.
    shutil.copytree(folder, old := tmp_path / f"{SET}-15m-000000000000")
    trim_days(tmp_path, limit_bytes=0)
    assert days_of(tmp_path) == kept[:1]
    assert list(old.glob("*-*-*-*.safetensors")) == []


AT_ONCE = """
import sys
from pathlib import Path
from features.store.incremental import built_block
from tests.features.store.test_incremental import SET, WHOLE, digest
print(digest(built_block(Path(sys.argv[1]), WHOLE, SET)))
"""


def digest(block: FeatureBlock) -> str:
    return hashlib.sha256(block.values.numpy().tobytes() + block.mask.numpy().tobytes()).hexdigest()


def test_concurrent_threads_get_the_same_block(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        blocks = list(pool.map(lambda _: built_block(tmp_path, WHOLE, SET), range(2)))
    assert [digest(block) for block in blocks] == [digest(build_features(WHOLE, SET))] * 2
    assert len(days_of(tmp_path)) == DAYS
    assert list(tmp_path.glob("*/.*.part")) == []


@pytest.mark.drill
def test_concurrent_nights_get_the_same_block(tmp_path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = [one.communicate()[0].splitlines()[-1] for one in both]
    assert digests == [digest(build_features(WHOLE, SET))] * 2
    assert len(days_of(tmp_path)) == DAYS
    assert list(tmp_path.glob("*/.*.part")) == []
