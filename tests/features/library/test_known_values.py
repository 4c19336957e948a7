"""Features on data with known answers, from a theorem or from constructed bars.

The slow loops of tests/features/loops follow the same formulas as the features, so a formula that is wrong would be
wrong in both. Nothing here repeats one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from features.feature import evaluate
from features.inputs import InputView, leaves_of
from features.panel.panel import Panel
from features.sets import FEATURE_SETS
from tests.features.panels import CODE, MINUTE_NS

FEATURES = {item.name: item for features in FEATURE_SETS.values() for item in features}
STEPS = 200
Numbers = npt.NDArray[np.float64]
# Prices are 100 e^x: their logs come back with roundings of 1e-15, on returns of 1e-3.
EXACT = 1e-9


def panel_of(*, blind: Sequence[int] = (), names: Sequence[str] = (), **columns: object) -> Panel:
    """Return a panel in which every bar printed except the `blind` steps; a column is a number, (T,) or (S, T)."""
    arrays = np.broadcast_arrays(*(np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in columns.values()))
    shape = arrays[0].shape if arrays[0].shape[1] > 1 else (arrays[0].shape[0], STEPS)
    status = torch.full(shape, CODE["printed"], dtype=torch.uint8)
    status[:, list(blind)] = CODE["blind"]
    return Panel(
        instruments=tuple(names) or tuple(f"hyperliquid|perp|C{row}" for row in range(shape[0])),
        width_ns=MINUTE_NS,
        ts_open_ns=MINUTE_NS * np.arange(shape[1], dtype=np.int64),
        values={
            name: torch.from_numpy(np.broadcast_to(x, shape).copy())
            for name, x in zip(columns, arrays, strict=True)
        },
        status=status,
    )


def newest(panel: Panel, name: str) -> Numbers:
    """Return the feature at the last step, (S,); NaN where it is masked."""
    [(value, mask)] = evaluate(
        InputView(leaves_of(panel)), [FEATURES[name]], shape=(panel.n_instruments, panel.n_steps)
    )
    found: Numbers = np.where(mask[:, -1], value[:, -1], np.nan)
    return found


def only(panel: Panel, name: str) -> float:
    [value] = newest(panel, name).tolist()
    return float(value)


def closes(moves: Numbers) -> Numbers:
    """Return prices with these log returns, (..., T)."""
    priced: Numbers = 100.0 * np.exp(np.cumsum(moves, axis=-1))
    return priced


def zigzag(size: float = 1e-3, steps: int = STEPS) -> Numbers:
    return np.where(np.arange(steps) % 2 == 0, size, -size)


# Theorems about random walks.


def test_parkinson_finds_the_volatility_of_a_brownian_motion_from_its_ranges() -> None:
    """E ln(H/L)^2 = 4 ln 2 sigma^2 (Parkinson 1980).

    A path seen at m points has a range that is short by about 2 x 0.5826 sigma / sqrt(m), 1.8 % of it here; 40 x 60
    ranges leave a sampling error of 0.65 %.
    """
    rows, steps, m, sigma = 40, 60, 1_600, 2e-3
    moves = np.random.default_rng(1).normal(0.0, sigma / math.sqrt(m), (rows * steps, m)).cumsum(axis=1)
    high = np.exp(np.maximum(moves.max(axis=1), 0.0)).reshape(rows, steps)
    low = np.exp(np.minimum(moves.min(axis=1), 0.0)).reshape(rows, steps)
    found = newest(panel_of(high=high, low=low), "parkinson_volatility_60")
    assert math.sqrt((found**2).mean()) == pytest.approx(0.982 * sigma, rel=0.02)


def test_bipower_and_realised_volatility_agree_where_nothing_jumps() -> None:
    """Both have sigma^2 for their mean; 400 rows of 120 returns leave an error of 0.4 %."""
    panel = panel_of(close=closes(np.random.default_rng(2).normal(0.0, 1e-3, (400, STEPS))))
    for name in ("realised_volatility_120", "bipower_volatility_120"):
        assert math.sqrt((newest(panel, name) ** 2).mean()) == pytest.approx(1e-3, rel=0.015), name


@pytest.mark.parametrize("phi", [0.3, 0.0, -0.3])
def test_variance_ratio_of_an_autoregression(phi: float) -> None:
    """It is 2 sum of (1 - k / 5) phi^k over k = 1..4 (Lo and MacKinlay 1988); 800 rows leave an error of 0.01."""
    noise = np.random.default_rng(3).normal(0.0, 1e-3, (800, STEPS))
    moves = np.zeros_like(noise)
    for t in range(1, STEPS):
        moves[:, t] = phi * moves[:, t - 1] + noise[:, t]
    expected = 2.0 * sum((1.0 - k / 5.0) * phi**k for k in range(1, 5))
    assert newest(panel_of(close=closes(moves)), "variance_ratio_120").mean() == pytest.approx(
        expected, abs=0.04
    )


# Constructed bars with arithmetic answers.


def test_a_trend_and_a_zigzag_reach_the_extreme_values() -> None:
    trend, turning = panel_of(close=closes(np.full(STEPS, 1e-3))), panel_of(close=closes(zigzag()))
    # Five returns of c are 25 c^2 against 5 c^2; five that alternate are c^2.
    assert only(trend, "variance_ratio_120") == pytest.approx(4.0, rel=EXACT)
    assert only(turning, "variance_ratio_120") == pytest.approx(-0.8, rel=EXACT)
    assert only(trend, "momentum_30") == pytest.approx(math.sqrt(30.0), rel=EXACT)
    assert only(turning, "momentum_30") == pytest.approx(0.0, abs=1e-9)
    assert only(trend, "semivariance_balance_60") == pytest.approx(1.0, rel=EXACT)
    assert only(turning, "semivariance_balance_60") == pytest.approx(0.0, abs=1e-9)
    fall = panel_of(close=closes(np.full(STEPS, -1e-3)))
    assert only(fall, "momentum_120") == pytest.approx(-math.sqrt(120.0), rel=EXACT)
    assert only(fall, "semivariance_balance_60") == pytest.approx(-1.0, rel=EXACT)


def test_one_jump_is_all_of_the_variance_and_none_of_the_bipower() -> None:
    moves = np.zeros(STEPS)
    moves[150] = 0.05
    panel = panel_of(close=closes(moves))
    assert only(panel, "realised_volatility_120") == pytest.approx(0.05 / math.sqrt(120.0), rel=EXACT)
    assert only(panel, "bipower_volatility_120") == 0.0
    assert only(panel, "jump_share_120") == 1.0
    # Returns of one size have pi / 2 times their square for bipower variance: no jumps, and no share below zero.
    assert only(panel_of(close=closes(zigzag())), "bipower_volatility_120") == pytest.approx(
        math.sqrt(math.pi / 2.0) * 1e-3, rel=EXACT
    )
    assert only(panel_of(close=closes(zigzag())), "jump_share_120") == 0.0


def test_a_jump_is_beyond_four_bipower_volatilities() -> None:
    """Of returns of one size s that is 4 sqrt(pi / 2) s, or 5.0133 s."""
    for size, jumps in ((5.0, 0.0), (5.1, 1.0), (-5.1, -1.0)):
        moves = zigzag()
        moves[-5] = size * 1e-3
        panel = panel_of(close=closes(moves))
        assert only(panel, "jump_balance_15") == pytest.approx(jumps, rel=EXACT), size
    # A blind bar takes two returns of the fifteen, and what is left stands for all.
    moves[-5] = 8e-3
    holed = panel_of(close=closes(moves), blind=[STEPS - 9])
    assert only(holed, "jump_balance_15") == pytest.approx(15.0 / 13.0, rel=EXACT)


def test_range_position_of_a_price_a_quarter_of_the_way_up() -> None:
    panel = panel_of(close=100.0 * math.exp(0.01), high=100.0 * math.exp(0.04), low=100.0)
    assert only(panel, "range_position_60") == pytest.approx(0.25, rel=EXACT)


def test_flow_lies_between_all_sold_and_all_bought() -> None:
    for bought, share in ((4.0, 1.0), (3.0, 0.5), (2.0, 0.0), (0.0, -1.0)):
        panel = panel_of(volume=4.0, buy_volume=bought)
        for bars in (1, 5, 15):
            assert only(panel, f"flow_imbalance_{bars}") == share
        assert only(panel, "signed_flow_5") == pytest.approx(5.0 * share)
        assert only(panel, "signed_flow_30") == pytest.approx(30.0 * share)
    # A share of the volume, not the mean of the bars' shares: 1 of 1 bought, then 0 of 9.
    late = panel_of(volume=np.where(zigzag() > 0, 1.0, 9.0), buy_volume=np.where(zigzag() > 0, 1.0, 0.0))
    assert only(late, "flow_imbalance_5") == pytest.approx((2.0 - 27.0) / 29.0)


def test_price_impact_is_the_slope_that_the_price_was_made_with() -> None:
    """Half of each bar's volume of 8 is bought on balance, or sold, and 1 base unit moves the price by 2e-5."""
    flow = 4.0 * np.sign(zigzag())
    panel = panel_of(volume=8.0, buy_volume=4.0 + flow / 2.0, close=closes(2e-5 * flow))
    assert only(panel, "price_impact_60") == pytest.approx(1e4 * 8.0 * 2e-5, rel=1e-7)
    assert only(panel_of(volume=8.0, buy_volume=4.0 + flow / 2.0, close=100.0), "price_impact_60") == 0.0


def test_volume_score_counts_deviations_of_the_root() -> None:
    """Roots of 1 and 3 have mean 2 and deviation 1; now it is 25."""
    volume = np.where(zigzag() > 0, 1.0, 9.0)
    volume[-1] = 25.0
    assert only(panel_of(volume=volume), "volume_score_120") == pytest.approx(3.0, rel=EXACT)


def test_vwap_weighs_prices_by_their_volume() -> None:
    """1 at 100 and 3 at 104 cost 103 each."""
    early = zigzag() > 0
    panel = panel_of(
        close=104.0, volume=np.where(early, 1.0, 3.0), notional=np.where(early, 100.0, 3.0 * 104.0)
    )
    assert only(panel, "vwap_distance_30") == pytest.approx(math.log(104.0 / 103.0), rel=EXACT)


def test_quotes_with_three_times_as_much_at_the_bid() -> None:
    panel = panel_of(bid=100.0, ask=101.0, bid_size=3.0, ask_size=1.0)
    assert only(panel, "queue_imbalance") == 0.5
    assert only(panel, "microprice_distance") == pytest.approx(1e4 * 0.25 / 100.5, rel=EXACT)
    assert only(panel, "relative_spread") == pytest.approx(1e4 / 100.5, rel=EXACT)
    mirrored = panel_of(bid=100.0, ask=101.0, bid_size=1.0, ask_size=3.0)
    assert only(mirrored, "microprice_distance") == pytest.approx(-1e4 * 0.25 / 100.5, rel=EXACT)


@pytest.mark.parametrize(
    ("column", "before", "after", "event"),
    [
        ("bid_size", 2.0, 3.0, 1.0),  # added at the bid
        ("ask_size", 2.0, 3.0, -1.0),  # added at the ask
        ("bid", 99.0, 99.5, 2.0),  # a better bid is a whole new queue
        ("bid", 99.0, 98.5, -2.0),  # a worse one leaves a queue that went
        ("ask", 101.0, 101.5, 2.0),  # the queue at the ask was taken
        ("ask", 101.0, 100.5, -2.0),
    ],
)
def test_each_event_of_the_best_quotes_has_its_sign(
    column: str, before: float, after: float, event: float
) -> None:
    """The cases of Cont, Kukanov and Stoikov (2014), each once, two bars ago."""
    quotes: dict[str, object] = {"bid": 99.0, "ask": 101.0, "bid_size": 2.0, "ask_size": 2.0}
    quotes[column] = np.where(np.arange(STEPS) < STEPS - 3, before, after)
    depth = 2.3 if column.endswith("size") else 2.0  # three bars of five with (2 + 3) / 2
    assert only(panel_of(**quotes), "quote_flow_5") == pytest.approx(event / depth, rel=EXACT)


def test_ties_share_the_mean_rank() -> None:
    moves = np.zeros((5, STEPS))
    moves[:, -1] = [1e-3, 2e-3, 2e-3, 3e-3, 9e-3]
    close = closes(moves)
    close[4] = np.nan  # its price is unknown, so it does not count
    ranks = newest(panel_of(close=close), "return_rank_5")
    assert ranks[:4].tolist() == [-0.5, 0.0, 0.0, 0.5]
    assert math.isnan(ranks[4])


def test_dispersion_of_a_rise_a_fall_and_no_move_is_two_thirds() -> None:
    """The mean absolute deviation; the standard deviation would be the move itself, or sqrt(2 / 3) of it."""
    moves = np.zeros((3, STEPS))
    moves[:, -1] = [6e-3, 0.0, -6e-3]
    panel = panel_of(close=closes(moves))
    assert newest(panel, "market_dispersion_5") == pytest.approx(np.full(3, 4e-3), abs=1e-11)
    assert newest(panel, "market_return_5") == pytest.approx(np.zeros(3), abs=1e-11)
    assert newest(panel, "market_residual_5") == pytest.approx(moves[:, -1], abs=1e-11)


def test_beta_and_residual_of_a_pair_made_with_a_beta() -> None:
    """One moves by 1.5 of Bitcoin's return and by something at right angles to it; another does not move."""
    at = np.arange(STEPS)
    led, own = 1e-3 * np.where(at % 4 < 2, 1.0, -1.0), 2e-3 * np.where(at % 2 == 0, 1.0, -1.0)
    panel = panel_of(
        close=closes(np.stack([led, 1.5 * led + own, 0.0 * led])),
        names=[f"hyperliquid|perp|{name}" for name in ("BTC", "DOGE", "USDE")],
    )
    beta, rest = newest(panel, "btc_beta_120"), newest(panel, "btc_residual_5")
    assert beta[:2] == pytest.approx([1.0, 1.5], rel=EXACT)
    assert rest[:2] == pytest.approx([0.0, own[-5:].sum()], abs=1e-11)
    # An instrument that never moved has no beta, and a residual of zero.
    assert math.isnan(beta[2])
    assert rest[2] == 0.0


@pytest.mark.parametrize("ago", [4, 16])
def test_a_doubling_some_bars_ago_is_weighted_by_the_half_lives(ago: int) -> None:
    """The last m bars have (1 - 2^(-m / h)) / (1 - 2^(-120 / h)) of all the weight: a geometric sum."""
    short, long = ((1.0 - 2.0 ** (-ago / h)) / (1.0 - 2.0 ** (-120.0 / h)) for h in (8.0, 40.0))
    is_new = np.arange(STEPS) >= STEPS - ago
    wild = panel_of(close=closes(zigzag() * np.where(is_new, 2.0, 1.0)), volume=3.0)
    assert only(wild, "volatility_regime_120") == pytest.approx(
        math.log((1.0 + 3.0 * short) / (1.0 + 3.0 * long)) / 2.0, rel=1e-7
    )
    # With half the volume it is harder to trade. Prices differ by 0.1 %, which is what is tolerated.
    thin = panel_of(close=closes(zigzag()), volume=np.where(is_new, 1.5, 3.0))
    expected = math.log((1.0 - long / 2.0) / (1.0 - short / 2.0))
    assert only(thin, "illiquidity_regime_120") == pytest.approx(expected, abs=1e-3)
    assert only(thin, "illiquidity_state_120") == float(expected > math.log(1.25))
