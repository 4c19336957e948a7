"""Labels: prices, masks, and their start after the decision."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from storage.errors import SettingsError
from tests.training.builders import GRACE_NS, MINUTE_NS, START_NS, panel_of, walk
from training.data.labels import BASES, LabelRule, delay_bars, make_labels, prices_at_close, trailing_scale

RULE = LabelRule(horizon_bars=2, volatility_bars=2, delay_ms=200)
CLOSES = [100.0, 101.0, 100.0, 102.0, 104.0, 103.0, 106.0]


def test_label_by_hand() -> None:
    labels = make_labels(panel_of([CLOSES]), RULE, grace_ns=GRACE_NS)
    # At t = 2 the last two returns are known; entry at the close of bar 3, exit two bars later.
    volatility = math.sqrt((math.log(101 / 100) ** 2 + math.log(100 / 101) ** 2) / 2)
    expected = math.log(103 / 102) / (volatility * math.sqrt(2))
    assert labels.mask[0].tolist() == [False, True, True, True, False, False, False]
    assert labels.label[0, 2].item() == pytest.approx(expected, rel=1e-6)
    assert BASES[labels.basis[0, 2]] == "print"
    assert labels.scale[0, 2].item() == pytest.approx(volatility * math.sqrt(2))


def test_span_starts_after_the_decision_and_ends_at_the_exit() -> None:
    labels = make_labels(panel_of([CLOSES]), RULE, grace_ns=GRACE_NS)
    close_ns = START_NS + 3 * MINUTE_NS  # of bar 2
    assert labels.ts_decided_ns[2] == close_ns + GRACE_NS
    assert labels.ts_span_start_ns[2] == close_ns + MINUTE_NS
    assert labels.ts_span_end_ns[2] == close_ns + 3 * MINUTE_NS
    assert (labels.ts_span_start_ns > labels.ts_decided_ns).all()


@pytest.mark.parametrize(
    ("width_s", "grace_s", "delay_ms", "bars"),
    [(60, 2, 200, 1), (60, 60, 0, 1), (60, 60, 1, 2), (1, 2, 200, 3)],
)
def test_order_meets_first_bar_that_closes_after_its_delay(
    width_s: int, grace_s: int, delay_ms: int, bars: int
) -> None:
    second = 1_000_000_000
    assert delay_bars(width_s * second, grace_ns=grace_s * second, delay_ms=delay_ms) == bars


def test_label_reads_no_price_at_or_before_its_decision() -> None:
    log_price = walk(instruments=2, steps=40, seed=1)
    rule = LabelRule(horizon_bars=3, volatility_bars=4)
    before = make_labels(panel_of(np.exp(log_price)), rule, grace_ns=GRACE_NS)
    changed = log_price.copy()
    changed[:, :21] += 0.3
    after = make_labels(panel_of(np.exp(changed)), rule, grace_ns=GRACE_NS)
    move = (before.label * before.scale)[:, 20], (after.label * after.scale)[:, 20]
    assert before.mask[:, 20].all()
    # The scale differs, and the unscaled return does not.
    torch.testing.assert_close(*move, rtol=1e-5, atol=0)


def test_scale_and_decision_do_not_move_with_the_future() -> None:
    log_price = walk(instruments=2, steps=60, seed=2)
    rule = LabelRule(horizon_bars=3, volatility_bars=10)
    changed = log_price.copy()
    changed[:, 31:] -= 1.0
    first, second = (make_labels(panel_of(np.exp(x)), rule, grace_ns=GRACE_NS) for x in (log_price, changed))
    assert torch.equal(first.decidable[:, :31], second.decidable[:, :31])
    assert torch.equal(first.scale[:, 10:31], second.scale[:, 10:31])
    assert not torch.equal(first.label[:, 20:31], second.label[:, 20:31])


@pytest.mark.parametrize("cut", [1, 37, 150])
@pytest.mark.parametrize("bars", [7, 60, 64])
def test_scale_and_label_do_not_move_with_the_start_of_the_panel(bars: int, cut: int) -> None:
    """A running sum carried the rounding of all earlier bars into every scale."""
    close = np.exp(walk(instruments=3, steps=400, seed=4, volatility=3e-3))
    close[0, 40:200] *= 1e4  # a sum over these bars leaves rounding behind
    close[1, 100:180] = math.nan
    rule = LabelRule(horizon_bars=3, volatility_bars=bars)
    whole = make_labels(panel_of(close), rule, grace_ns=GRACE_NS)
    part = make_labels(panel_of(close[:, cut:], start_ns=START_NS + cut * MINUTE_NS), rule, grace_ns=GRACE_NS)
    # The first return of the part needs one bar before the window.
    later = torch.isfinite(whole.scale[:, cut + bars :])
    assert later.float().mean() > 0.4
    for name in ("scale", "label", "mask", "decidable"):
        first, second = getattr(whole, name)[:, cut + bars :], getattr(part, name)[:, bars:]
        assert torch.equal(torch.nan_to_num(first), torch.nan_to_num(second)), name


def test_label_uses_the_mid_where_quoted_and_names_its_basis() -> None:
    bid = [[99.0, 100.0, 99.0, 101.0, 103.0, 102.0, math.nan]]
    ask = [[101.0, 102.0, 101.0, 103.0, 105.0, 104.0, math.nan]]
    panel = panel_of([[x + 0.5 for x in CLOSES]], bid=bid, ask=ask)
    prices = prices_at_close(panel)
    assert prices.price[0].tolist() == [*CLOSES[:6], 106.5]
    labels = make_labels(panel, RULE, grace_ns=GRACE_NS)
    assert [BASES[code] for code in labels.basis[0]] == ["none", "mid", "mid", "none", "none", "none", "none"]
    # Row 3 would mix a mid and a print, which is not a return.
    assert not labels.mask[0, 3]


def test_stale_quote_is_no_price() -> None:
    panel = panel_of([[math.nan] * 3], bid=[[99.0] * 3], ask=[[101.0] * 3])
    panel.values["quote_age_ms"] = torch.tensor([[1e3, 3e5, 3.1e5]], dtype=torch.float64)
    assert [BASES[code] for code in prices_at_close(panel).basis[0]] == ["mid", "mid", "none"]


@pytest.mark.parametrize("hole", ["blind", "unknown"])
def test_no_label_spans_a_hole_longer_than_allowed(hole: str) -> None:
    closes = [100.0, 101.0, 100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0]
    status = [["printed"] * 5 + [hole] + ["printed"] * 3]
    panel = panel_of([closes], status=status)
    strict = make_labels(panel, LabelRule(horizon_bars=3, volatility_bars=2), grace_ns=GRACE_NS)
    kind = make_labels(
        panel, LabelRule(horizon_bars=3, volatility_bars=2, max_hole_bars=1), grace_ns=GRACE_NS
    )
    assert not strict.mask[0, 2]
    assert not strict.mask[0, 3]
    assert kind.mask[0, 2]
    assert kind.mask[0, 3]
    # Entry in the hole is never allowed, since it was not observed.
    assert not kind.mask[0, 4]


def test_no_label_spans_two_listings() -> None:
    closes = [100.0, 101.0, 100.0, 101.0, math.nan, 7.0, 7.1, 7.0, 7.2]
    status = [["printed"] * 4 + ["unlisted"] + ["printed"] * 4]
    rule = LabelRule(horizon_bars=3, volatility_bars=2, max_hole_bars=5)
    labels = make_labels(panel_of([closes], status=status), rule, grace_ns=GRACE_NS)
    assert not labels.mask[0, :4].any()


def test_too_few_returns_give_no_scale() -> None:
    closes = [[100.0, 101.0, math.nan, math.nan, math.nan, 101.5, 101.0, 102.0]]
    scale = trailing_scale(prices_at_close(panel_of(closes)), LabelRule(horizon_bars=1, volatility_bars=4))
    assert torch.isfinite(scale[0]).tolist() == [False, False, False, False, False, False, False, True]


def test_constant_price_gives_no_scale() -> None:
    labels = make_labels(panel_of([[100.0] * 10]), RULE, grace_ns=GRACE_NS)
    assert not labels.decidable.any()
    assert not labels.mask.any()


def test_rule_out_of_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="horizon_bars from 1"):
        LabelRule(horizon_bars=0)


EXCESS = LabelRule(horizon_bars=3, volatility_bars=10, target="excess")


def test_excess_labels_are_returns_less_the_mean_return_of_the_same_span() -> None:
    log_price = walk(instruments=4, steps=60, seed=2)
    plain, excess = (
        make_labels(panel_of(np.exp(log_price)), rule, grace_ns=GRACE_NS)
        for rule in (replace(EXCESS, target="return"), EXCESS)
    )
    assert torch.equal(plain.mask, excess.mask)
    assert torch.equal(plain.scale.nan_to_num(), excess.scale.nan_to_num())
    returns = torch.where(plain.mask, plain.label.double() * plain.scale, 0.0)
    expected = (returns - returns.mean(dim=0)) / plain.scale
    torch.testing.assert_close(excess.label[plain.mask], expected[plain.mask].float(), rtol=1e-4, atol=1e-5)


def test_excess_labels_do_not_see_a_move_of_the_whole_market_nor_prices_after_their_span() -> None:
    log_price = walk(instruments=4, steps=60, seed=2)
    market, later = log_price.copy(), log_price.copy()
    market[:, 40:] += 0.01
    later[1, 40:] += 0.5
    whole, moved, after = (
        make_labels(panel_of(np.exp(x)), EXCESS, grace_ns=GRACE_NS) for x in (log_price, market, later)
    )
    # Spans that end before bar 40, and those across it, whose scales are from before.
    ends = torch.from_numpy(whole.ts_span_end_ns) <= START_NS + 40 * MINUTE_NS
    assert torch.equal(whole.label[:, ends], after.label[:, ends])
    torch.testing.assert_close(whole.label[:, :39], moved.label[:, :39], rtol=1e-4, atol=1e-4)


def test_too_few_instruments_make_no_market() -> None:
    close = np.exp(walk(instruments=4, steps=40, seed=2))
    close[0, 20:] = math.nan
    close[1, 25:] = math.nan
    labels = make_labels(panel_of(close), EXCESS, grace_ns=GRACE_NS)
    observed = labels.mask.sum(dim=0)
    assert set(observed.tolist()) == {0, 3, 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"target": "alpha"}, "label.target is 'alpha'"), ({"weights": "time"}, "label.weights is 'time'")],
)
def test_unknown_kinds_of_labels_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LabelRule(horizon_bars=3, **change)  # type: ignore[arg-type]
