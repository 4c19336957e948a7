"""The disk cache of panels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import features.store.panel_cache
from features.panel.panel import Panel, content_hash, load_panel
from features.store.eviction import trim_files
from features.store.panel_cache import cached_panel, load_stretch
from features.store.serialization import write_panel
from storage.clock import DAY_NS, NS, ManualTime
from storage.errors import InstrumentError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import MINUTE_NS, START_NS, random_panel, stored_rows

PANEL = random_panel(4, 3_000)
QUERY: dict[str, Any] = {"width": "1m", "grace_ns": 2 * NS}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("home")
    with Lake.open(Settings(home=path), clock=ManualTime(START_NS)) as lake:
        # A day without bars, and an instrument that starts late.
        lake.commit({"bars": stored_rows(PANEL.steps(0, 400))}, batch_id="first")
        lake.commit({"bars": stored_rows(PANEL.select([0, 2]).steps(2_900, 3_000))}, batch_id="last")
    return path


@pytest.fixture
def lake(home: Path) -> Iterator[Lake]:
    with Lake.open(Settings(home=home), clock=ManualTime(START_NS)) as opened:
        yield opened


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"since_ns": START_NS + 7 * MINUTE_NS + 1, "until_ns": START_NS + 2_950 * MINUTE_NS},
        {"instruments": [PANEL.instruments[3], PANEL.instruments[1]]},
        {"at": 2},
    ],
)
@pytest.mark.parametrize("cells", [1, 2_000_000])
def test_a_cached_panel_is_the_panel(
    lake: Lake, tmp_path: Path, more: dict[str, Any], cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features.store.panel_cache, "STRETCH_CELLS", cells)
    whole = load_panel(lake, **QUERY, **more)
    panel, content = cached_panel(tmp_path, lake, **QUERY, **more)
    assert content == content_hash(panel) == content_hash(whole)
    assert panel.values.keys() == whole.values.keys()
    assert int(whole.printed.sum()) > 300


def test_a_repeated_query_reads_nothing(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = cached_panel(tmp_path, lake, **QUERY)

    def refuse(*_: object, **__: object) -> Panel:
        raise AssertionError("the lake was read again")

    monkeypatch.setattr(features.store.panel_cache, "_write", refuse)
    assert cached_panel(tmp_path, lake, **QUERY)[1] == first
    for other in ({"grace_ns": 0}, {"at": 2}, {"until_ns": START_NS + 9 * MINUTE_NS}):
        with pytest.raises(AssertionError, match="read again"):
            cached_panel(tmp_path, lake, **(QUERY | other))


def test_explicit_default_bounds_give_the_same_file(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, content = cached_panel(tmp_path, lake, **QUERY)
    monkeypatch.setattr(features.store.panel_cache, "_write", None)
    bounds = {"since_ns": int(panel.ts_open_ns[0]), "until_ns": int(panel.ts_close_ns[-1])}
    again, again_content = cached_panel(
        tmp_path, lake, **QUERY, **bounds, instruments=panel.instruments, at=lake.snapshot()
    )
    assert again_content == content == content_hash(again)


@pytest.mark.parametrize("at", [-3, 4_000, 60_000])
def test_a_damaged_panel_is_read_from_the_lake_again(lake: Lake, tmp_path: Path, at: int) -> None:
    whole = load_panel(lake, **QUERY)
    cached_panel(tmp_path, lake, **QUERY)
    [path] = (tmp_path / "panels").iterdir()
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)
    assert cached_panel(tmp_path, lake, **QUERY)[1] == content_hash(whole)
    [again] = (tmp_path / "panels").iterdir()
    assert again.read_bytes() != body
    path.write_bytes(body[:-50])
    assert cached_panel(tmp_path, lake, **QUERY)[1] == content_hash(whole)


def test_a_cached_panel_is_written_with_equal_bytes(lake: Lake, tmp_path: Path) -> None:
    """Equal bytes, missing numbers included: a night's files do not depend on the source of its panel."""
    for joined in ((), ("paid_rate",)):
        write_panel(tmp_path / "a.safetensors", load_panel(lake, **QUERY, joined=joined))
        write_panel(tmp_path / "b.safetensors", cached_panel(tmp_path, lake, **QUERY, joined=joined)[0])
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_where_the_disk_is_full_the_lake_is_read(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("features.store.atomic_files.FileWriter.put", full)
    panel, content = cached_panel(tmp_path, lake, **QUERY)
    assert content == content_hash(panel) == content_hash(load_panel(lake, **QUERY))
    assert list((tmp_path / "panels").iterdir()) == []


def test_an_instrument_without_a_bar_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(InstrumentError, match="nobody has no bar in the requested range"):
        cached_panel(tmp_path, lake, **QUERY, instruments=[PANEL.instruments[0], "nobody"])


def test_another_lake_with_equal_snapshot_ids_is_distinguished(lake: Lake, tmp_path: Path) -> None:
    cached_panel(tmp_path, lake, **QUERY)
    with Lake.open(Settings(home=tmp_path / "other"), clock=ManualTime(START_NS)) as other:
        for batch in ("first", "last"):
            other.commit({"bars": stored_rows(PANEL.steps(10, 20))}, batch_id=batch)
        assert other.snapshot() == lake.snapshot()
        assert cached_panel(tmp_path, other, **QUERY)[0].n_steps == 10


def test_a_stretch_without_bars_is_an_empty_panel(lake: Lake) -> None:
    query: dict[str, Any] = QUERY | {"origins": ("live",), "joined": (), "at": lake.snapshot()}
    start_ns = START_NS + 1_000 * MINUTE_NS
    for instruments in (None, PANEL.instruments):
        panel = load_stretch(
            lake, start_ns=start_ns, stop_ns=start_ns + 9 * MINUTE_NS, instruments=instruments, **query
        )
        assert (panel.instruments, panel.n_steps) == ((), 9)
    with pytest.raises(RangeError, match="no 1m bar opens"):
        cached_panel(Path(), lake, **QUERY, since_ns=START_NS + 9 * DAY_NS)


def test_eviction_removes_old_files_and_keeps_the_one_in_use(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1_000 - age, 1_000 - age))
    trim_files(tmp_path.iterdir(), limit_bytes=250, keep={tmp_path / "d.safetensors"})
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "d"]
