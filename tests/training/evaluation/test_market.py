"""Listings and settlements, and the ledger of them computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from storage.clock import parse_time_ns
from storage.contracts.tables import STATUSES
from storage.lake.fees import FeeRow, FeeSchedule
from tests.training.builders import GRACE_NS, block_of, panel_of
from training.data.labels import LabelRule, make_labels
from training.evaluation.costs import Costs
from training.evaluation.market import listed_steps, settlement_prices
from training.evaluation.positions import MarketData, PositionRule, run_ledger
from training.night.artifacts import NightData
from training.night.market_data import make_market
from training.recipe import get_recipe

NAN = float("nan")
MINUTE_NS = 60 * 10**9
LETTERS = {"p": "printed", "q": "quiet", "h": "halted", "b": "blind", "u": "unlisted", "?": "unknown"}


def codes(*rows: str) -> np.ndarray:
    return np.array([[STATUSES.index(LETTERS[x]) for x in row] for row in rows], dtype=np.uint8)


def test_listing_begins_and_ends_with_evidence() -> None:
    rows = ("??ppq?b", "ppu????", "bu??pp?", "???????", "uuhhuup")
    expected = ("0011111", "1100000", "1000111", "0000000", "0011001")
    assert ["".join(map(str, row)) for row in listed_steps(codes(*rows)).astype(int)] == list(expected)


def test_later_bars_do_not_change_a_listing() -> None:
    rng = np.random.default_rng(0)
    status = rng.integers(0, len(STATUSES), (20, 30)).astype(np.uint8)
    whole = listed_steps(status)
    for stop in range(1, 30):
        assert np.array_equal(whole[:, :stop], listed_steps(status[:, :stop]))


def test_settlement_averages_the_oracle_over_the_hour_before() -> None:
    listed = np.array([[True] * 4 + [False] * 2])
    price = np.array([[9.0, 10.0, 11.0, 12.0, NAN, NAN]])
    oracle = np.array([[1.0, 10.5, NAN, 11.5, 99.0, 99.0]])

    def at(oracle: np.ndarray, price: np.ndarray, minutes: int) -> float:
        found = settlement_prices(listed, price, oracle, width_ns=minutes * MINUTE_NS)
        assert np.isfinite(found[0]).sum() == 1
        return float(found[0, 4])

    nothing = np.full(oracle.shape, NAN)
    assert at(oracle, price, 20) == 11.0  # three bars
    assert at(oracle, price, 240) == 11.5  # less than one bar: the last close
    assert at(nothing, price, 20) == 11.0
    assert at(nothing, np.array([[9.0] + [NAN] * 5]), 20) == 9.0


def test_instrument_that_was_never_listed_or_never_ends_settles_nowhere() -> None:
    listed = np.array([[False] * 4, [True] * 4, [False, False, True, True]])
    assert np.isnan(settlement_prices(listed, np.ones((3, 4)), np.ones((3, 4)), width_ns=MINUTE_NS)).all()


FEES = FeeSchedule(
    "taker",
    "base",
    tuple(
        FeeRow("hyperliquid", "perp", "", bps, parse_time_ns(since), None, parse_time_ns(since))
        for bps, since in ((3.5, "2023-02-26"), (4.5, "2025-05-05T03:00"))
    ),
)


def market_by_hand() -> MarketData:
    """Return ten quarters of an hour around the fee change of 2025-05-05T03:00, which bar 3 closes at.

    `A` is flat at 100 with funding at bars 3 and 7. `OLD` is delisted in bar 5. `OLD~2` is the recycled name, listed
    in bar 7. `LATE` is listed in bar 4. `THIN` has no price from bar 2 to bar 6.
    """
    status = codes("pppppppppp", "pppppu????", "???????ppp", "????pppppp", "ppqqqqqppp")
    close = np.array(
        [
            [100.0] * 10,
            [50.0, 50.0, 51.0, 52.0, 53.0] + [NAN] * 5,
            [NAN] * 7 + [20.0, 20.0, 21.0],
            [NAN] * 4 + [10.0, 10.0, 10.0, 9.0, 8.0, 8.0],
            [30.0, 30.0] + [NAN] * 5 + [33.0, 36.0, 36.0],
        ]
    )
    names = [
        [LETTERS[x] for x in row]
        for row in ("pppppppppp", "pppppu????", "???????ppp", "????pppppp", "ppqqqqqppp")
    ]
    start_ns = parse_time_ns("2025-05-05T02:00")
    panel = panel_of(close, status=names, width="15m", start_ns=start_ns, notional=[[1e12] * 10] * 5)
    assert np.array_equal(panel.status.numpy(), status)
    oracle = torch.full((5, 10), NAN, dtype=torch.float64)
    oracle[1] = torch.tensor(
        [50.0, 50.2, 51.0, 52.2, 52.8, 70.0, 70.0, 70.0, 70.0, 70.0], dtype=torch.float64
    )
    ids = tuple(f"hyperliquid|perp|{name}" for name in ("A", "OLD", "OLD~2", "LATE", "THIN"))
    panel = replace(panel, instruments=ids, values=panel.values | {"oracle": oracle})
    funding = np.zeros((5, 10))
    funding[0, 3], funding[0, 7], funding[1, 3] = 1e-4, -2e-4, 3e-4
    rule = LabelRule(horizon_bars=2)
    data = NightData(
        panel=panel,
        block=block_of(instruments=5, steps=10),
        labels=make_labels(panel, rule, grace_ns=GRACE_NS),
        past=torch.zeros(5, 10),
        funding_paid=funding,
    )
    recipe = replace(get_recipe("candles"), label=rule)
    market = make_market(data, recipe, FEES, grace_ns=GRACE_NS)
    return replace(market, scale=np.full((5, 10), 0.01))


def test_ledger_equals_one_computed_by_hand() -> None:
    market = market_by_hand()
    # Bar 2 closes at 02:45 and pays 3.5 bp; bar 3 closes at 03:00 and pays 4.5.
    assert market.taker_fee_bps[0].tolist() == [3.5] * 3 + [4.5] * 7
    rule = PositionRule(threshold=1.0, hold_bars=4, expire_bars=3)
    costs = Costs(half_spread_bps=2.0, impact_bps=0.0)
    prediction = np.full((5, 10), NAN)
    prediction[0, 0] = -1.0  # short A in bar 1, of a third: A, OLD and THIN are listed
    prediction[1, 1] = 1.0  # long OLD in bar 2, of a third
    prediction[2, 7] = -1.0  # short OLD~2 in bar 8, of a quarter: A, OLD~2, LATE and THIN are listed
    prediction[3, 2] = 1.0  # not listed yet
    prediction[3, 5] = -1.0  # short LATE in bar 6, of a third: OLD is delisted
    prediction[4, 1] = 1.0  # an order that finds no price in bars 2, 3 and 4, and is cancelled
    ledger = run_ledger(prediction, market, rule, costs)

    third, quarter = 1 / 3, 1 / 4
    # (instrument, step, price, change, fee in bp, spread in bp)
    settled = (50.2 + 51.0 + 52.2 + 52.8) / 4  # of the oracle in the four quarters before bar 5
    expected = [
        (0, 1, 100.0, -third, 3.5, 2.0),
        (1, 2, 51.0, third, 3.5, 2.0),
        (0, 5, 100.0, third, 4.5, 2.0),  # held for four bars
        (1, 5, settled, -third * settled / 51.0, 0.0, 0.0),
        (3, 6, 10.0, -third, 4.5, 2.0),
        (2, 8, 20.0, -quarter, 4.5, 2.0),
        (2, 9, 21.0, quarter * 21 / 20, 4.5, 2.0),
        (3, 9, 8.0, third * 8 / 10, 4.5, 2.0),
    ]
    found = [
        (fill.instrument, fill.step, fill.price, fill.change, fill.fee, fill.spread) for fill in ledger.fills
    ]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for row, (_, _, price, change, fee, spread) in zip(found, expected, strict=True):
        by_hand = (price, change, abs(change) * fee * 1e-4, abs(change) * spread * 1e-4)
        assert row[2:] == pytest.approx(by_hand, abs=1e-9)
    gross = np.zeros(10)
    gross[3:6] = third / 51 * 1, third / 51 * 1, third / 51 * (settled - 53)
    gross[7:9] = third / 10 * 1, third / 10 * 1
    gross[9] = -quarter / 20 * 1
    assert ledger.gross == pytest.approx(gross, abs=1e-9)
    funding = np.zeros(10)
    funding[3] = -third * 1e-4 + third / 51 * 52 * 3e-4  # the short receives, the long pays at 52
    assert ledger.funding == pytest.approx(funding, abs=1e-9)
    costs_paid = sum(abs(change) * (fee + spread) for _, _, _, change, fee, spread in expected) * 1e-4
    assert ledger.net.sum() == pytest.approx(gross.sum() - funding.sum() - costs_paid, abs=1e-9)
    assert ledger.exposure[:, -1].tolist() == [0.0] * 5
    assert ledger.exposure[1, 4:6] == pytest.approx([third / 51 * 53, 0.0], abs=1e-9)
    assert ledger.quoted_share == 1 / 8  # the settlement


def test_instrument_that_lists_later_changes_no_earlier_size() -> None:
    """The audit's error (6): past net fell from 2.22 to 2.04 % when an instrument listed later."""
    rng = np.random.default_rng(3)
    log_price = np.cumsum(rng.standard_normal((3, 60)) * 0.01, axis=1)
    prediction = rng.standard_normal((3, 60))
    rule, costs = PositionRule(threshold=0.5, hold_bars=3), Costs(half_spread_bps=1.0)

    def net(listed: np.ndarray, rows: int) -> np.ndarray:
        market = MarketData(
            instruments=tuple("abc"[:rows]),
            ts_close_ns=np.arange(60),
            price=np.where(listed, np.exp(log_price), NAN)[:rows],
            half_spread=np.full((rows, 60), NAN),
            notional=np.full((rows, 60), 1e9),
            taker_fee_bps=np.full((rows, 60), 3.5),
            scale=np.full((rows, 60), 0.01),
            funding_paid=None,
            delay_bars=1,
            is_listed=listed[:rows],
        )
        return run_ledger(prediction[:rows], market, rule, costs).net

    listed = np.ones((3, 60), dtype=bool)
    listed[2, :40] = False
    assert np.array_equal(net(listed, 3)[:40], net(listed, 2)[:40])
    assert net(listed, 2).any()
    # Before, every instrument of the panel had its part, listed or not.
    everywhere = np.ones((3, 60), dtype=bool)
    assert not np.allclose(net(everywhere, 3)[:40], net(listed, 2)[:40])


@pytest.mark.parametrize("expire_bars", [1, 3, 41, 42])
def test_late_fill_needs_an_order_that_waits(expire_bars: int) -> None:
    """The audit's error (5): an order was filled 41 bars late."""
    price = np.full((1, 60), 100.0)
    price[0, 2:42] = NAN
    market = MarketData(
        instruments=("a",),
        ts_close_ns=np.arange(60),
        price=price,
        half_spread=np.full((1, 60), NAN),
        notional=np.full((1, 60), 1e9),
        taker_fee_bps=np.full((1, 60), 3.5),
        scale=np.full((1, 60), 0.01),
        funding_paid=None,
        delay_bars=1,
    )
    prediction = np.full((1, 60), NAN)
    prediction[0, 1] = 1.0
    rule = PositionRule(threshold=1.0, hold_bars=5, expire_bars=expire_bars)
    fills = run_ledger(prediction, market, rule, Costs(half_spread_bps=1.0)).fills
    assert [fill.step for fill in fills] == ([42, 47] if expire_bars >= 41 else [])


def test_position_that_cannot_be_closed_is_closed_at_the_first_price() -> None:
    price = np.full((1, 30), 100.0)
    price[0, 5:19] = NAN
    market = MarketData(
        instruments=("a",),
        ts_close_ns=np.arange(30),
        price=price,
        half_spread=np.full((1, 30), NAN),
        notional=np.full((1, 30), 1e9),
        taker_fee_bps=np.full((1, 30), 3.5),
        scale=np.full((1, 30), 0.01),
        funding_paid=None,
        delay_bars=1,
    )
    prediction = np.full((1, 30), NAN)
    prediction[0, 1] = 1.0
    rule = PositionRule(threshold=1.0, hold_bars=4, expire_bars=2)
    fills = run_ledger(prediction, market, rule, Costs(half_spread_bps=1.0)).fills
    assert [fill.step for fill in fills] == [2, 19]
