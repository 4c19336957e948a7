"""The simulated market is repeatable and follows the rules of the wire format."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.simulator.market.chunking import pieces
from ingest.simulator.market.funding import funding_rate
from ingest.simulator.market.generator import MarketGenerator, tick_steps
from ingest.simulator.market.spec import DEFAULT_COINS, MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.wire.candles import INTERVAL_MINUTES, CandleBook, bounds_ms
from ingest.simulator.wire.encoder import Block, SimulatedPrint, decimal_text, exact_text
from storage.clock import MS_NS, NS
from storage.errors import SettingsError
from tests.plugins.property_tests import examples

MINUTE_MS = 60_000


def served(spec: MarketSpec) -> list[Block]:
    return [block for block in SyntheticMarket(spec).blocks() if block.time_ms * MS_NS >= spec.start_ns]


@pytest.fixture(scope="module")
def hour() -> list[Block]:
    return served(MarketSpec(seed=11, span_s=3_600.0))


def tape_id(spec: MarketSpec) -> str:
    digest = hashlib.sha256()
    for block in SyntheticMarket(spec).blocks():
        digest.update(b"%d" % block.clock_ns)
        for frame in block.frames:
            digest.update(frame.text.encode())
    return digest.hexdigest()


def test_same_spec_gives_the_same_tape_and_another_seed_another() -> None:
    spec = MarketSpec(seed=5, span_s=600.0)
    assert tape_id(spec) == tape_id(MarketSpec(seed=5, span_s=600.0))
    assert tape_id(spec) != tape_id(MarketSpec(seed=6, span_s=600.0))


def test_longer_span_begins_with_the_shorter_one() -> None:
    short = [b.frames for b in served(MarketSpec(span_s=60.0))]
    long = [b.frames for b in served(MarketSpec(span_s=120.0))]
    assert short
    assert long[: len(short)] == short


@pytest.mark.parametrize("events", [1, 700, 1_000_000])
def test_chunk_in_pieces_is_the_chunk(events: int) -> None:
    """Blocks, prints, orders and contexts fall into exactly one piece each."""
    chunk = next(MarketGenerator(MarketSpec(seed=5)).chunks())
    parts = list(pieces(chunk, events))
    assert (len(parts) == 1) == (events == 1_000_000)
    assert [first for first, _, _ in parts] == [0, *(last for _, last, _ in parts[:-1])]
    assert parts[-1][1] == len(chunk.block_ms)
    for name, whole in chunk.coins.items():
        cuts = [piece.coins[name] for _, _, piece in parts]
        assert np.array_equal(np.concatenate([part.tid for part in cuts]), whole.tid)
        assert np.array_equal(np.concatenate([part.quote_block for part in cuts]), whole.quote_block)
        assert [row for part in cuts for row in part.contexts] == whole.contexts
        hashes = [part.order_hash[i] for part in cuts for i in part.order.tolist()]
        assert hashes == [whole.order_hash[i] for i in whole.order.tolist()]


def test_prints_obey_the_venues_rules(hour: list[Block]) -> None:
    coins = {coin.name: coin for coin in DEFAULT_COINS}
    prints = 0
    for block in hour:
        for frame in block.frames:
            if frame.channel != "trades":
                continue
            for row in json.loads(frame.text)["data"]:
                prints += 1
                coin = coins[row["coin"]]
                assert row["time"] == block.time_ms, "prints of a block share its time"
                assert row["side"] in ("A", "B")
                assert 0 <= row["tid"] < 1 << 50
                assert len(row["hash"]) == 66
                assert all(len(user) == 42 for user in row["users"])
                assert_legal_price(row["px"], coin.price_decimals)
                assert_legal_size(row["sz"], coin.size_decimals)
    assert prints > 5_000


def assert_legal_price(px: str, price_decimals: int) -> None:
    whole, _, part = px.partition(".")
    assert part
    assert len(part) <= max(price_decimals, 1)
    digits = (whole + part.rstrip("0")).lstrip("0")
    assert part == "0" or len(digits) <= 5, f"{px} has more than 5 significant figures"


def assert_legal_size(sz: str, size_decimals: int) -> None:
    assert float(sz) > 0
    assert len(sz.partition(".")[2].removesuffix("0")) <= size_decimals


def test_blocks_rise_and_receipts_lag_within_bounds(hour: list[Block]) -> None:
    times = np.array([block.time_ms for block in hour])
    lags_ms = np.array([block.clock_ns for block in hour]) / 1e6 - times
    assert np.all(np.diff(times) > 0)
    assert np.all(np.diff([block.clock_ns for block in hour]) >= 0)
    assert lags_ms.min() >= 300
    assert lags_ms.max() <= 800


def test_quotes_are_never_crossed_and_trades_print_at_the_touch(hour: list[Block]) -> None:
    checked = 0
    for block in hour:
        quotes = {frame.coin: frame.quote for frame in block.frames if frame.quote is not None}
        for frame in block.frames:
            for item in frame.prints:
                quote = quotes[item.coin]
                buy = '"side":"B"' in item.text
                assert item.price >= quote.ask if buy else item.price <= quote.bid
                checked += 1
        assert all(quote.bid < quote.ask for quote in quotes.values())
    assert checked > 5_000


def test_a_slow_coin_has_quiet_minutes_and_a_busy_one_none(hour: list[Block]) -> None:
    minutes: defaultdict[str, set[int]] = defaultdict(set)
    for block in hour:
        for frame in block.frames:
            if frame.prints:
                minutes[frame.coin].add(block.time_ms // MINUTE_MS)
    assert len(minutes["BTC"]) == 60
    assert 15 <= len(minutes["AVAX"]) <= 50


def test_one_order_sweeps_several_prints_that_share_its_hash(hour: list[Block]) -> None:
    hashes = Counter(
        row["hash"] for block in hour for f in block.frames if f.prints for row in json.loads(f.text)["data"]
    )
    zero = hashes.pop("0x" + "0" * 64)
    assert 0.02 < zero / hashes.total() < 0.09, "about one in twenty orders is a TWAP leg"
    assert 1.5 < hashes.total() / len(hashes) < 1.9


def test_contexts_are_strings_and_null_together_for_a_delisted_coin(hour: list[Block]) -> None:
    seen: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for block in hour:
        for frame in block.frames:
            if frame.channel == "activeAssetCtx":
                seen[frame.coin].append(json.loads(frame.text)["data"]["ctx"])
    assert len(seen["BTC"]) == 360, "one each 10 s"
    for ctx in seen["BTC"]:
        texts = {key: value for key, value in ctx.items() if key != "impactPxs"}
        assert all(isinstance(value, str) and float(value) is not None for value in texts.values())
        oracle, mid, premium = (float(str(ctx[key])) for key in ("oraclePx", "midPx", "premium"))
        assert mid / oracle - 1 == pytest.approx(premium, abs=2e-5)
    assert {ctx["midPx"] for ctx in seen["MATIC"]} == {None}
    assert {ctx["premium"] for ctx in seen["MATIC"]} == {None}
    assert {ctx["impactPxs"] for ctx in seen["MATIC"]} == {None}


def test_funding_is_paid_at_each_full_hour() -> None:
    spec = MarketSpec(span_s=1.9 * 3_600, start_ns=1_767_571_200 * NS + 1_200 * NS, activity=0.1)
    rows = [row for block in served(spec) for row in block.fundings]
    assert Counter(row.coin for row in rows) == {c.name: 2 for c in DEFAULT_COINS if c.listed}
    assert all(row.time_ms % 3_600_000 < 1_000 for row in rows)
    assert all(row.rate == funding_rate(row.premium) for row in rows)


def test_funding_rate_matches_the_venues_formula() -> None:
    assert funding_rate(0.0001) == pytest.approx(0.0000125)
    assert funding_rate(-0.0002) == pytest.approx(0.0000125), (
        "within the clamp only the interest rate is left"
    )
    assert funding_rate(0.0011) == pytest.approx((0.0011 - 0.0005) / 8)
    assert funding_rate(1.0) == 0.04


# Numbers, candles, settings.


@given(st.integers(1, 10**9), st.integers(0, 6))
def test_exact_text_equals_decimal_text_on_the_grid(units: int, decimals: int) -> None:
    value = units / 10.0**decimals
    assert exact_text(value) == decimal_text(value, decimals)


def test_ticks_follow_five_significant_figures_and_whole_numbers() -> None:
    prices = np.array([109_741.0, 99_999.0, 4_268.9, 202.16, 0.18648])
    assert tick_steps(prices[:2], 1).tolist() == [10.0, 10.0], "whole numbers, in steps of 0.1"
    assert tick_steps(prices[2:3], 2).tolist() == [10.0]
    assert tick_steps(prices[3:4], 4).tolist() == [100.0]
    assert tick_steps(prices[4:], 6).tolist() == [10.0]


prints_of_a_coin = st.lists(
    st.tuples(st.integers(0, 40 * MINUTE_MS), st.integers(90, 110), st.integers(1, 50)),
    min_size=1,
    max_size=60,
).map(
    lambda rows: [
        SimulatedPrint("SOL", 1_767_571_200_000 + t, i, float(p), s / 100, "")
        for i, (t, p, s) in enumerate(sorted(rows, key=lambda row: row[0]))
    ]
)


@given(prints_of_a_coin)
@settings(max_examples=examples(30), deadline=None)
def test_candles_of_every_interval_conserve_prints(prints: list[SimulatedPrint]) -> None:
    book = CandleBook("SOL", 4, 2)
    for item in prints:
        book.add([item])
    book.advance(prints[-1].time_ms)
    for interval in ("1m", "5m", "1h", "1w", "1M"):
        rows = [json.loads(text) for text in book.between(interval, 0, 1 << 60)]
        assert sum(row["n"] for row in rows) == len(prints)
        assert sum(float(row["v"]) for row in rows) == pytest.approx(sum(item.size for item in prints))
        assert [row["t"] for row in rows[1:]] == [row["T"] + 1 for row in rows[:-1]], "no hole"
        for row in rows:
            inside = [item.price for item in prints if row["t"] <= item.time_ms <= row["T"]]
            if inside:
                got = [float(row[key]) for key in "ohlc"]
                assert got == [inside[0], max(inside), min(inside), inside[-1]]
            else:
                assert (row["n"], row["v"]) == (0, "0.0")


@given(st.integers(0, 4_000_000_000_000), st.sampled_from(sorted(INTERVAL_MINUTES)))
def test_every_instant_lies_in_its_interval(time_ms: int, interval: str) -> None:
    first, last = bounds_ms(time_ms, interval)
    assert first <= time_ms <= last
    assert bounds_ms(first, interval) == bounds_ms(last, interval) == (first, last)


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    wednesday_ms = 1_767_786_000_000  # 2026-01-07T11:40Z
    assert bounds_ms(wednesday_ms, "1w")[0] == 1_767_571_200_000  # 2026-01-05
    assert bounds_ms(wednesday_ms, "1M") == (1_767_225_600_000, 1_769_904_000_000 - 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"signal_strength": 1.5}, "signal_strength is 1.5, but it lies in 0 .. 0.9"),
        ({"context_s": 7}, "context_s is 7, but it divides 60"),
        ({"span_s": 0.0}, "span_s is 0.0"),
        ({"coins": (DEFAULT_COINS[0], DEFAULT_COINS[0])}, "each once"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        dataclasses.replace(MarketSpec(), **change)  # type: ignore[arg-type]


def test_the_volume_of_the_day_rises_by_prints_alone(hour: list[Block]) -> None:
    """The rise between two contexts is at most what printed between them, since a day's oldest prints leave it."""
    before: dict[str, float] = {}
    printed: defaultdict[str, float] = defaultdict(float)
    rises = Counter[str]()
    for block in hour:
        for frame in block.frames:
            for item in frame.prints:
                printed[frame.coin] += item.size
            if frame.channel in ("activeAssetCtx", "activeSpotAssetCtx"):
                volume = float(json.loads(frame.text)["data"]["ctx"]["dayBaseVlm"])
                risen = volume - before.get(frame.coin, volume)
                assert risen <= printed[frame.coin] * (1 + 1e-9) + 1e-9 * volume, (frame.coin, block.time_ms)
                rises[frame.coin] += risen > 0
                before[frame.coin], printed[frame.coin] = volume, 0.0
    assert sum(rises.values()) > 100
