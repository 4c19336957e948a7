"""Windows of the panel and the normaliser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.plugins.property_tests import examples
from tests.training.builders import block_of
from training.data.panel import Normaliser, PanelWindows

S, T, F, W = 3, 20, 2, 4


def all_rows() -> torch.Tensor:
    return torch.ones((S, T), dtype=torch.bool)


def test_windows_equal_slices_of_one_instrument_and_start_masked() -> None:
    made = block_of()
    normaliser = Normaliser.fit(made.values, made.mask, all_rows())
    windows = PanelWindows(made, normaliser, window_bars=W, device=torch.device("cpu"))
    scaled = normaliser.apply(made.values, made.mask)
    rows = torch.arange(S * T)
    x, mask = windows.batch(rows)
    assert x.shape == (S * T, W, F)
    for row in rows.tolist():
        s, t = divmod(row, T)
        for back in range(W):
            step = t - W + 1 + back
            expected = scaled[s, step] if step >= 0 else torch.zeros(F)
            known = made.mask[s, step] if step >= 0 else torch.zeros(F, dtype=torch.bool)
            assert torch.equal(x[row, back], expected)
            assert torch.equal(mask[row, back], known.float())
    newest, known = windows.newest(rows)
    assert torch.equal(newest, x[:, -1])
    assert torch.equal(known, mask[:, -1])


@hypothesis_settings(max_examples=examples(100), deadline=None)
@given(
    seed=st.integers(0, 10_000),
    window=st.integers(1, 30),
    mean=st.sampled_from([0.0, -3.0, 1e4, -2e6]),
    extreme=st.sampled_from([1.0, 1e9, -1e30]),
)
def test_a_resident_block_gives_the_bits_of_one_that_is_gathered_on_the_host(
    seed: int, window: int, mean: float, extreme: float
) -> None:
    made = block_of(seed=seed)
    made.values[made.mask] += mean
    made.values[1, 3, 0], made.mask[1, 3, 0] = extreme, True
    normaliser = Normaliser.fit(made.values, made.mask, all_rows() & (torch.arange(T) != 3))
    host, resident = (
        PanelWindows(
            made, normaliser, window_bars=window, device=torch.device("cpu"), is_resident=is_resident
        )
        for is_resident in (False, True)
    )
    rows = torch.randperm(S * T, generator=torch.Generator().manual_seed(seed))[:40]
    assert host.gather(rows).numpy().tobytes() == resident.gather(rows).numpy().tobytes()
    assert torch.equal(host.newest(rows)[0], resident.batch(rows)[0][:, -1])


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_standardised_values_are_as_exact_as_their_inputs_allow(offset: float) -> None:
    """A float32 near a million is known to 0.06, and its standardised value to that over its deviation."""
    made = block_of(steps=400)
    values = made.values.to(torch.float64) + offset
    block = replace(made, values=values.to(torch.float32))
    rows = torch.ones(block.mask.shape[:2], dtype=torch.bool)
    normaliser = Normaliser.fit(block.values, block.mask, rows)
    exact = (block.values.to(torch.float64) - normaliser.mean) / normaliser.std
    found = normaliser.apply(block.values, block.mask)
    assert float((found - exact.clamp(-5, 5))[block.mask].abs().max()) < 1e-6


def test_a_block_is_uploaded_once_for_all_folds() -> None:
    made, device = block_of(), torch.device("cpu")
    normaliser = Normaliser.fit(made.values, made.mask, all_rows())
    first, second = (
        PanelWindows(made, normaliser, window_bars=W, device=device, is_resident=True)._source
        for _ in range(2)
    )
    assert first._values.data_ptr() == second._values.data_ptr()


def test_normaliser_ignores_masked_values_and_other_rows() -> None:
    made = block_of()
    rows = all_rows()
    rows[:, 12:] = False
    fitted = Normaliser.fit(made.values, made.mask, rows)
    changed = made.values.clone()
    changed[:, 12:] = 1e6
    changed[~made.mask] = -1e6
    again = Normaliser.fit(changed, made.mask, rows)
    assert torch.equal(fitted.mean, again.mean)
    assert torch.equal(fitted.std, again.std)
    seen = made.values[:, :12, 0][made.mask[:, :12, 0]].double()
    torch.testing.assert_close(fitted.mean[0], seen.mean())
    torch.testing.assert_close(fitted.std[0], seen.std(unbiased=False))


def test_scaled_values_are_clipped_and_zero_where_masked() -> None:
    made = block_of()
    made.values[0, 0, 0], made.mask[0, 0, 0] = 1e9, True
    normaliser = Normaliser.fit(made.values, made.mask, all_rows() & (torch.arange(T) > 0))
    scaled = normaliser.apply(made.values, made.mask)
    assert scaled[0, 0, 0] == 5.0
    assert (scaled[~made.mask] == 0).all()


def test_constant_or_absent_feature_is_not_scaled() -> None:
    values = torch.full((1, 5, 2), 3.0)
    mask = torch.tensor([True, False]).expand(1, 5, 2)
    normaliser = Normaliser.fit(values, mask, torch.ones((1, 5), dtype=torch.bool))
    assert normaliser.std.tolist() == [1.0, 1.0]
    assert normaliser.mean.tolist() == [3.0, 0.0]


def test_normaliser_survives_a_manifest() -> None:
    made = block_of()
    normaliser = Normaliser.fit(made.values, made.mask, all_rows())
    again = Normaliser.from_plain(normaliser.to_plain())
    assert torch.equal(normaliser.mean, again.mean)
    assert torch.equal(normaliser.std, again.std)
    assert normaliser.clip == again.clip
