"""Windows of the panel and the normaliser."""

from __future__ import annotations

import torch

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
