"""Every feature against its reference loop, and the missing-data policies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.feature import Feature, evaluate
from features.inputs import CADENCES, InputView, leaves_of
from features.panel.panel import PRINTED, Panel
from features.sets import FEATURE_SETS
from tests.features.library.reference import REFERENCES, Rows
from tests.features.panels import CODE, often_quoted, random_panel

FEATURES = {item.name: item for features in FEATURE_SETS.values() for item in features}
# Windows are summed pairwise here and exactly in the reference, and a variance comes from two means: a few
# hundred roundings of 1e-16 on numbers of order one. The market's mean is rounded to 1e-12.
TOLERANCE = 1e-10
DRAWN = random_panel(4, 320, seed=3)
ROWS = Rows(DRAWN)


QUOTED = often_quoted(DRAWN)
QUOTED_ROWS = Rows(QUOTED)


def cells(panel: Panel, item: Feature) -> tuple[np.ndarray, np.ndarray]:
    [(value, mask)] = evaluate(
        InputView(leaves_of(panel)), [item], shape=(panel.n_instruments, panel.n_steps)
    )
    return value.numpy(), mask.numpy()


@pytest.mark.parametrize("name", FEATURES)
def test_feature_agrees_with_a_slow_loop(name: str) -> None:
    item = FEATURES[name]
    panel, rows = (QUOTED, QUOTED_ROWS) if "log_mid" in item.inputs else (DRAWN, ROWS)
    value, mask = cells(panel, item)
    loop, knobs = REFERENCES[item.function.__name__], dict[str, object](item.params)
    if item.inputs[0].startswith(tuple(f"{cadence}_" for cadence in CADENCES)):
        knobs["cadence"] = item.inputs[0].partition("_")[0]
    valid = 0
    for s in range(panel.n_instruments):
        for t in range(panel.n_steps):
            expected = loop(rows, s, t, **knobs) if t >= item.lookback_bars else None
            assert mask[s, t] == (expected is not None), (s, t, expected)
            if expected is not None:
                valid += 1
                assert value[s, t] == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), (s, t)
            else:
                assert value[s, t] == 0.0
    assert valid > 150, "nothing was compared"
    assert valid < mask.size or item.is_clock, "no hole was met"


def bars(**columns: list[float]) -> Panel:
    """Return one instrument's panel from columns; None is missing, and `status` is by name."""
    status = columns.pop("status")
    numbers = {
        k: torch.tensor([[math.nan if v is None else v for v in x]], dtype=torch.float64)
        for k, x in columns.items()
    }
    return Panel(
        instruments=("venue|perp|A",),
        width_ns=60 * 10**9,
        ts_open_ns=60 * 10**9 * np.arange(len(status), dtype=np.int64),
        values=numbers,
        status=torch.tensor([[CODE[s] for s in status]], dtype=torch.uint8),
    )


def series(panel: Panel, name: str) -> list[float]:
    """Return an input's row, rounded, for reading."""
    return [round(x, 6) for x in InputView(leaves_of(panel))[name][0].tolist()]


NAN = pytest.approx(math.nan, nan_ok=True)


def test_a_last_price_passes_quiet_bars_and_not_a_hole() -> None:
    panel = bars(
        close=[math.e, None, None, math.e**2, None, None],
        status=["printed", "quiet", "blind", "printed", "quiet", "quiet"],
    )
    assert series(panel, "log_price") == [1.0, 1.0, NAN, 2.0, 2.0, 2.0]
    assert series(panel, "price_age") == [0.0, 1.0, NAN, 0.0, 1.0, 2.0]


def test_a_quiet_bar_after_a_hole_has_no_price() -> None:
    panel = bars(close=[math.e, None, None, None], status=["printed", "unknown", "quiet", "quiet"])
    assert series(panel, "log_price") == [1.0, NAN, NAN, NAN]


def test_a_last_price_is_carried_31_bars_and_no_further() -> None:
    panel = bars(close=[math.e] + [None] * 33, status=["printed"] + ["quiet"] * 33)
    assert series(panel, "price_age") == [*map(float, range(32)), NAN, NAN]


def test_quiet_volume_is_zero_and_blind_volume_is_missing() -> None:
    panel = bars(volume=[5.0, None, 0.0, 3.0, None], status=["printed", "quiet", "quiet", "blind", "printed"])
    assert series(panel, "volume") == [5.0, 0.0, 0.0, NAN, NAN]


def test_a_quote_known_to_be_stale_is_missing() -> None:
    panel = bars(
        bid=[1.0, 1.0, 1.0], quote_age_ms=[300_000, 300_001, None], status=["printed", "quiet", "quiet"]
    )
    assert series(panel, "bid") == [1.0, NAN, 1.0]


def test_a_column_that_the_panel_lacks_is_missing_throughout() -> None:
    panel = bars(close=[1.0, 1.0], status=["printed", "printed"])
    assert series(panel, "mark") == [NAN, NAN]


def test_a_mid_is_missing_where_quotes_are_crossed_and_is_never_carried() -> None:
    panel = bars(
        bid=[math.e, 3.0, None, math.e, math.e],
        ask=[math.e, 2.0, math.e, math.e, math.e],
        quote_age_ms=[1.0, 1.0, 1.0, 300_001, 1.0],
        status=["quiet"] * 4 + ["blind"],
    )
    assert series(panel, "log_mid") == [1.0, NAN, NAN, NAN, NAN]


def test_without_a_trade_feed_silence_is_missing() -> None:
    """GaiaEx sends books only: a fully watched bar has quotes, but no zeros for prints."""
    panel = bars(
        volume=[0.0, None],
        bid=[1.0, 1.0],
        trades_applicable=[0.0, 1.0],
        status=["quiet", "quiet"],
    )
    assert series(panel, "volume") == [NAN, 0.0]
    assert series(panel, "bid") == [1.0, 1.0]
    long = bars(trades_applicable=[0.0] * 200, bid=[1.0] * 200, ask=[2.0] * 200, status=["quiet"] * 200)
    assert cells(long, FEATURES["relative_spread"])[1].all()
    walked = (100.0 * np.exp(np.cumsum(np.random.default_rng(1).normal(0.0, 1e-3, 200)))).tolist()
    moving = bars(
        trades_applicable=[0.0] * 200, bid=walked, ask=[x * 1.001 for x in walked], status=["quiet"] * 200
    )
    for name in ("mid_return_15", "mid_momentum_120", "mid_volatility_120"):
        assert cells(moving, FEATURES[name])[1][0, 120:].all(), name
    for name in ("empty_share_30", "print_rate_30", "parkinson_volatility_60", "volume_score_120"):
        assert not cells(long, FEATURES[name])[1].any(), name


def walk(*, jumps: dict[int, float] | None = None, steps: int = 400) -> list[float]:
    """Return closes of a random walk of 0.1 % a bar, with moves added at some bars."""
    moves = np.random.default_rng(5).normal(0.0, 1e-3, steps)
    for at, size in (jumps or {}).items():
        moves[at] += size
    return (100.0 * np.exp(np.cumsum(moves))).tolist()


def last(panel: Panel, name: str, row: int = 0) -> float:
    value, mask = cells(panel, FEATURES[name])
    assert mask[row, -1], name
    return float(value[row, -1])


def test_a_jump_is_distinguished_from_volatility() -> None:
    status = ["printed"] * 400
    calm = bars(close=walk(), status=status)
    jumped = bars(close=walk(jumps={390: 0.02, 395: -0.02, 398: -0.02}), status=status)
    assert last(calm, "jump_share_120") < 0.15
    assert last(jumped, "jump_share_120") > 0.8
    assert last(jumped, "realised_volatility_120") > 2.5 * last(calm, "realised_volatility_120")
    assert last(jumped, "bipower_volatility_120") < 1.7 * last(calm, "bipower_volatility_120")
    assert (last(calm, "jump_balance_15"), last(jumped, "jump_balance_15")) == (0.0, pytest.approx(-1.0))
    assert last(jumped, "semivariance_balance_60") < -0.2


def test_a_market_that_turns_wild_or_calm_changes_its_state() -> None:
    moves = np.random.default_rng(2).normal(0.0, 1e-3, 600)
    moves[300:450] *= 5.0
    close = (100.0 * np.exp(np.cumsum(moves))).tolist()
    panel = bars(close=close, volume=[5.0] * 600, status=["printed"] * 600)
    state = cells(panel, FEATURES["volatility_state_120"])[0][0]
    assert set(state[305:330]) == {1.0}
    assert set(state[460:480]) == {-1.0}
    assert (state[200:300] == 0.0).mean() > 0.8
    hard = cells(panel, FEATURES["illiquidity_state_120"])[0][0]
    assert set(hard[305:320]) == {1.0}


def follower(lag: int) -> Panel:
    """Return Bitcoin, an instrument that follows `lag` bars later and moves twice as far, and an independent Ether."""
    draw = np.random.default_rng(1)
    led, own = draw.normal(0.0, 1e-3, 300), draw.normal(0.0, 1e-3, 300)
    moves = np.stack([led, 2.0 * np.roll(led, lag), own])
    panel = random_panel(3, 300)
    return Panel(
        instruments=("hyperliquid|perp|BTC", "hyperliquid|perp|DOGE", "hyperliquid|perp|ETH"),
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        values={"close": torch.from_numpy(100.0 * np.exp(np.cumsum(moves, axis=1)))},
        status=torch.full_like(panel.status, PRINTED),
    )


def test_a_follower_is_distinguished_from_a_co_mover() -> None:
    after, along = follower(1), follower(0)
    assert last(after, "btc_lead_120", row=1) == pytest.approx(1.0)
    assert abs(last(along, "btc_lead_120", row=1)) < 0.3
    assert abs(last(after, "eth_lead_120", row=1)) < 0.3
    assert last(along, "btc_beta_120", row=1) == pytest.approx(2.0)
    assert abs(last(after, "btc_beta_120", row=1)) < 0.6
    assert last(along, "btc_residual_5", row=1) == pytest.approx(0.0, abs=1e-9)
    for row in range(3):
        assert last(along, "btc_return_5", row) == last(along, "log_return_5", 0)


def test_a_panel_without_a_leader_has_nothing_to_follow() -> None:
    """Whether there is no leader at all, or only another venue's BTC."""
    panel = follower(1)
    alone = replace(panel.select([1, 0]), instruments=("hyperliquid|perp|DOGE", "bitfinex|perp|BTC"))
    led = [item for item in FEATURES.values() if item.function.__module__ == "features.library.lead_lag"]
    assert len(led) == 8
    for item in led:
        assert cells(panel, item)[1].any(), item.name
        assert not cells(alone, item)[1][0].any(), item.name


def test_each_follows_the_leader_of_its_own_venue() -> None:
    panel = follower(1)
    names = ("bitfinex|spot|BTC", "gaiaex|perp|DOGE", "hyperliquid|perp|BTC")
    both = replace(panel, instruments=names)
    led, own = cells(both, FEATURES["btc_return_1"])[0], cells(both, FEATURES["log_return_1"])[0]
    for row, leader in ((0, 0), (1, 2), (2, 2)):
        assert np.array_equal(led[row], own[leader])
    assert np.count_nonzero(own) > 3 * 250


def test_an_instrument_that_never_prints_has_volume_and_no_price() -> None:
    panel = bars(volume=[0.0] * 200, bid=[1.0] * 200, ask=[2.0] * 200, status=["quiet"] * 200)
    known = {name for name, item in FEATURES.items() if not item.is_clock and cells(panel, item)[1].any()}
    assert known == {
        "empty_share_30",
        "print_rate_30",
        "parkinson_volatility_60",
        "relative_spread",
        "spread_ratio_60",
        *(name for name, item in FEATURES.items() if "log_mid" in item.inputs and "volatility" in name),
        *(f"mid_return_{count}" for count in (1, 5, 15, 60)),
    }
    assert last(panel, "empty_share_30") == 1.0
    assert last(panel, "print_rate_30") == 0.0


def test_an_instrument_without_bars_has_only_the_clock_and_affects_no_other() -> None:
    panel = random_panel(4, 300, seed=8)
    status = panel.status.clone()
    status[1] = CODE["unknown"]
    absent = replace(
        panel,
        status=status,
        values={
            name: value.index_fill(0, torch.tensor([1]), math.nan) for name, value in panel.values.items()
        },
    )
    compared = 0
    for item in FEATURES.values():
        value, mask = cells(absent, item)
        assert mask[1].all() if item.is_clock else not mask[1].any(), item.name
        without, known = cells(absent.select([0, 2, 3]), item)
        assert (mask[[0, 2, 3]] == known).all(), item.name
        assert (value[[0, 2, 3]] == without).all(), item.name
        compared += int(known.sum())
    assert compared > 20_000


def test_a_halt_is_a_hole_and_a_recycled_name_another_instrument() -> None:
    """The old BTC ends where the new one begins; a window of 120 bars outlives it by 24 at most."""
    old = ["printed"] * 200 + ["halted"] * 5 + ["printed"] * 45 + ["unlisted"] * 150
    new = ["unlisted"] * 250 + ["printed"] * 150
    prices = torch.linspace(1.0, 2.0, 400, dtype=torch.float64).repeat(2, 1)
    panel = Panel(
        instruments=("hyperliquid|perp|BTC", "hyperliquid|perp|BTC~2"),
        width_ns=60 * 10**9,
        ts_open_ns=60 * 10**9 * np.arange(400, dtype=np.int64),
        values=dict.fromkeys(("close", "high", "low", "volume"), prices),
        status=torch.tensor([[CODE[s] for s in old], [CODE[s] for s in new]], dtype=torch.uint8),
    )
    for item in FEATURES.values():
        value, mask = cells(panel, item)
        assert np.isfinite(value).all()
        if item.function.__module__ in (
            "features.library.returns",
            "features.library.volatility",
            "features.library.order_flow",
        ):
            assert not mask[0, 275:].any(), item.name
            assert not mask[1, :250].any(), item.name
    mask = cells(panel, FEATURES["log_return_5"])[1]
    assert not mask[0, 200:210].any(), "a return spanned the halt"
    assert mask[0, 210:250].all()
    assert mask[1, 255:].all()


def test_a_wholly_blind_hour_is_missing_and_passes() -> None:
    """A window of 120 bars tolerates 24 missing ones; then only the clock is valid, until prices are back."""
    panel = random_panel(4, 400, seed=8)
    status = panel.status.clone()
    status[:, 200:260] = CODE["blind"]
    status[:, 260:] = PRINTED
    prices = torch.linspace(1.0, 2.0, 400, dtype=torch.float64).expand(4, 400)
    holed = replace(panel, status=status, values=panel.values | {"close": prices})
    for item in FEATURES.values():
        value, mask = cells(holed, item)
        assert np.isfinite(value).all()
        if not item.is_clock:
            assert not mask[:, 225:260].any(), item.name
    mask = cells(holed, FEATURES["log_return_15"])[1]
    assert not mask[:, 260:275].any()
    assert mask[:, 275:].all()


@pytest.mark.parametrize("volume", [7.3, 0.1, 3.0, 1e-3, 12_345.678, 2e9])
def test_volume_that_never_varies_has_no_score(volume: float) -> None:
    """The rounding error of its variance is not a variance."""
    panel = bars(volume=[volume] * 200, status=["printed"] * 200)
    value, mask = cells(panel, FEATURES["volume_score_120"])
    assert not mask.any()
    assert not value.any()


def test_no_return_spans_a_hole_of_a_fifth_of_its_window() -> None:
    def last_mask(hole: int) -> bool:
        status = ["printed"] * 60 + ["blind"] * hole + ["printed"] * (40 - hole)
        panel = bars(close=[1.0] * 100, status=status)
        return bool(cells(panel, FEATURES["log_return_60"])[1][0, -1])

    assert last_mask(12)
    assert not last_mask(13)


def test_equal_returns_share_a_rank() -> None:
    still = bars(close=[2.0] * 50, status=["printed"] * 50)
    three = Panel(
        instruments=("a", "b", "c"),
        width_ns=still.width_ns,
        ts_open_ns=still.ts_open_ns,
        values={"close": still.values["close"].repeat(3, 1)},
        status=still.status.repeat(3, 1),
    )
    value, mask = cells(three, FEATURES["return_rank_5"])
    assert mask[:, 36:].all()
    assert not value.any()


def test_one_instrument_has_no_rank_and_no_market() -> None:
    panel = random_panel(1, 200)
    across = [
        item for item in FEATURES.values() if item.function.__module__ == "features.library.cross_section"
    ]
    assert len(across) == 7
    for item in across:
        assert not cells(panel, item)[1].any(), item.name


def test_a_wholly_blind_panel_is_missing_but_for_the_clock() -> None:
    panel = random_panel(3, 200)
    blind = Panel(
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        values=panel.values,
        status=torch.full_like(panel.status, CODE["blind"]),
    )
    for item in FEATURES.values():
        value, mask = cells(blind, item)
        assert np.isfinite(value).all()
        assert mask.all() if item.is_clock else not mask.any(), item.name
