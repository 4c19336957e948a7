"""Building of feature blocks: equality for any slicing and number of threads, and round trips to disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import features.build
import features.store.atomic_files
from features.build import build_features
from features.feature import FeatureBlock, evaluate
from features.inputs import InputView, leaves_of
from features.panel.panel import content_hash
from features.sets import FEATURE_SETS, get_set
from features.store.serialization import read_block, read_panel, write_block, write_panel
from features.versioning.fingerprint import fingerprint
from storage.errors import ContractError, SettingsError
from tests.features.panels import often_quoted, random_panel
from tests.plugins.property_tests import examples

WHOLE = often_quoted(random_panel(7, 700, seed=1))
BLOCKS = {name: build_features(WHOLE, name) for name in FEATURE_SETS}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype == torch.float32:
        a, b = a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
    return torch.equal(a, b)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_a_block_is_zero_exactly_where_it_is_invalid_or_zero(name: str) -> None:
    block = BLOCKS[name]
    assert block.names == tuple(item.name for item in get_set(name))
    assert tuple(block.values.shape) == tuple(block.mask.shape) == (7, 700, len(block.names))
    assert (block.values.dtype, block.mask.dtype) == (torch.float32, torch.bool)
    assert torch.isfinite(block.values).all()
    assert not block.values[~block.mask].any()
    assert block.mask.any(dim=1).any(dim=0).all(), "a feature was nowhere valid"
    assert block.fingerprint == fingerprint(get_set(name))


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_a_block_rounds_what_was_computed_in_float64(name: str) -> None:
    results = evaluate(InputView(leaves_of(WHOLE)), get_set(name), shape=(7, 700))
    for place, (value, mask) in enumerate(results):
        assert same_bits(BLOCKS[name].values[:, :, place], value.to(torch.float32))
        assert same_bits(BLOCKS[name].mask[:, :, place], mask)


@settings(max_examples=examples(40), deadline=None)
@given(name=st.sampled_from(sorted(FEATURE_SETS)), start=st.integers(0, 500), length=st.integers(1, 400))
def test_any_slicing_agrees_to_the_bit(name: str, start: int, length: int) -> None:
    piece, whole = build_features(WHOLE.steps(start, start + length), name), BLOCKS[name]
    for place, item in enumerate(get_set(name)):
        old = slice(start + item.lookback_bars, start + length)
        new = slice(item.lookback_bars, None)
        assert same_bits(piece.values[:, new, place], whole.values[:, old, place])
        assert same_bits(piece.mask[:, new, place], whole.mask[:, old, place])
        assert not piece.mask[:, : item.lookback_bars, place].any(), "a value came from before the panel"


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_the_last_bars_alone_agree_with_the_long_panel(name: str) -> None:
    """A live scorer's values from its last bars equal those of the training table."""
    depth = BLOCKS[name].lookback_bars + 1
    for stop in range(depth, WHOLE.n_steps, 37):
        window = build_features(WHOLE.steps(stop - depth, stop), name)
        assert same_bits(window.values[:, -1], BLOCKS[name].values[:, stop - 1])
        assert same_bits(window.mask[:, -1], BLOCKS[name].mask[:, stop - 1])


@pytest.mark.parametrize("cells", [1, 7 * 160, 7 * 333])
def test_the_block_size_does_not_affect_the_result(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.build, "_BLOCK_CELLS", cells)
    built = build_features(WHOLE, "live")
    assert same_bits(built.values, BLOCKS["live"].values)
    assert same_bits(built.mask, BLOCKS["live"].mask)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_torch_threads_do_not_affect_the_result() -> None:
    """A build calls torch on one thread; an exported graph may use all threads of its host."""
    panel, features = random_panel(12, 5_000), get_set("candles")

    def bits(threads: int) -> list[torch.Tensor]:
        with on_threads(threads):
            return [
                v.view(torch.int64)
                for v, _ in evaluate(InputView(leaves_of(panel)), features, shape=(12, 5_000))
            ]

    assert all(torch.equal(one, two) for one, two in zip(bits(1), bits(2), strict=True))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_build_threads_do_not_affect_the_result(threads: int) -> None:
    panel = random_panel(3, 2_400, seed=4)
    whole = build_features(panel, "live")
    assert panel.n_steps > 4 * 3 * whole.lookback_bars, "four threads had nothing to share"
    with on_threads(threads):
        again = build_features(panel, "live")
    assert same_bits(again.values, whole.values)
    assert same_bits(again.mask, whole.mask)


def test_concurrent_builds_agree_and_restore_the_thread_count() -> None:
    with on_threads(2), ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: build_features(WHOLE, "live"), range(8)))
        # Another thread has what the process has; this one keeps what it had.
        assert ThreadPoolExecutor(1).submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    assert all(same_bits(block.values, BLOCKS["live"].values) for block in built)


@pytest.mark.parametrize(("rows", "steps"), [(0, 100), (2, 0), (0, 0)])
def test_an_empty_panel_has_no_features(rows: int, steps: int) -> None:
    block = build_features(WHOLE.select(range(rows)).steps(0, steps), "live")
    assert tuple(block.values.shape) == tuple(block.mask.shape) == (rows, steps, len(block.names))


def test_an_instrument_alone_has_the_values_it_has_among_others() -> None:
    rooms = ("features.library.cross_section", "features.library.lead_lag")
    across = {item.name for item in get_set("live") if item.function.__module__ in rooms}
    assert {"return_rank_5", "market_residual_5", "btc_return_1"} <= across
    for row in range(WHOLE.n_instruments):
        alone = build_features(WHOLE.select([row]), "live")
        for place, name in enumerate(alone.names):
            if name not in across:
                assert same_bits(alone.values[0, :, place], BLOCKS["live"].values[row, :, place]), name
                assert same_bits(alone.mask[0, :, place], BLOCKS["live"].mask[row, :, place]), name


def test_a_panel_shorter_than_the_lookback_is_masked() -> None:
    block = build_features(WHOLE.steps(0, 20), "live")
    deep = [place for place, item in enumerate(get_set("live")) if item.lookback_bars >= 20]
    assert len(deep) > 10
    assert not block.mask[:, :, deep].any()


def test_a_set_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(
        SettingsError, match="feature set 'candle' does not exist; there are candles, live"
    ) as caught:
        build_features(WHOLE, "candle")
    assert caught.value.hint == "use candles"


def test_a_block_and_a_panel_survive_the_disk(tmp_path: Path) -> None:
    block = BLOCKS["live"]
    write_block(tmp_path / "night" / "features.safetensors", block)
    again = read_block(tmp_path / "night" / "features.safetensors")
    for field in ("names", "instruments", "width_ns", "fingerprint", "feature_set", "lookback_bars"):
        assert getattr(again, field) == getattr(block, field)
    assert again.ts_open_ns.tolist() == block.ts_open_ns.tolist()
    assert same_bits(again.values, block.values)
    assert same_bits(again.mask, block.mask)
    write_panel(tmp_path / "panel.safetensors", WHOLE)
    assert content_hash(read_panel(tmp_path / "panel.safetensors")) == content_hash(WHOLE)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "features.safetensors",
        "panel.safetensors",
    ]


def test_the_same_block_is_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        write_block(tmp_path / name, BLOCKS["candles"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features.safetensors"
    write_block(path, BLOCKS["candles"])
    before = path.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.store.atomic_files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_block(path, BLOCKS["live"])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_block_is_refused(tmp_path: Path) -> None:
    write_panel(tmp_path / "panel", WHOLE)
    with pytest.raises(ContractError, match="holds panel, not features"):
        read_block(tmp_path / "panel")
    whole = (tmp_path / "panel").read_bytes()
    (tmp_path / "torn").write_bytes(whole[: len(whole) // 2])
    for name in ("torn", "absent"):
        with pytest.raises(ContractError, match=f"{name} cannot be read as panel"):
            read_panel(tmp_path / name)


def test_a_block_is_mapped_and_not_read(tmp_path: Path) -> None:
    write_block(tmp_path / "block", BLOCKS["live"])
    block: FeatureBlock = read_block(tmp_path / "block")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("/proc/self/maps: this system does not list its mappings")
    assert str(tmp_path / "block") in maps.read_text()
    assert block.values.any()
