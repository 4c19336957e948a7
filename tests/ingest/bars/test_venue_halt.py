"""Silences of candles: a halt of the venue, a possible one, and silences that the rhythm explains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ingest.backfill.candle_files import import_candles
from ingest.bars.from_candles import LONG_SILENCE, POSSIBLE_HALT, VENUE_HALT, Absent, bars_of
from ingest.bars.halt_detection import CoinSteps, find_silences
from ingest.simulator.server.history_endpoint import RecordedHistory
from storage.clock import NS
from storage.contracts.tables import CANDLES
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.ingest.backfill.histories import NOW_NS, candles, fill_in, serving, settings_for
from tests.plugins.property_tests import examples

STEP_NS = 60 * NS
PACE = {"BTC": 0.99, "ETH": 0.97, "SOL": 0.9, "AAA": 0.7, "BBB": 0.6, "CCC": 0.5, "DDD": 0.4}
CAUSES = {"h": (VENUE_HALT,), "?": (POSSIBLE_HALT, LONG_SILENCE, "candle absent"), "p": ("",), "q": ("",)}


def statuses(prints: Mapping[str, str], *, absent: Absent = "unknown") -> dict[str, str]:
    """Return each coin's bars as text, from its candles as text.

    `p` printed, `0` without volume, `-` absent; of the bars `q` quiet, `h` halted, `?` unknown.
    """
    rows = [
        {
            "instrument": f"made|perp|{coin}", "width": "1m", "ts_open": at * 60_000_000,
            "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": float(what == "p"),
            "trades": None, "source": "made", "ts_knowable_ns": at * STEP_NS,
        }
        for coin, line in prints.items() for at, what in enumerate(line) if what != "-"
    ]  # fmt: skip
    spans = pa.Table.from_pylist(
        [{"instrument": f"made|perp|{coin}", "first_ns": 0, "last_ns": (len(line) - 1) * STEP_NS}
         for coin, line in prints.items()]
    )  # fmt: skip
    bars = bars_of(CANDLES.rows(rows), spans, width="1m", step_ns=STEP_NS, lag_ns=0, absent=absent)
    found = dict.fromkeys(prints, "")
    for row in bars.to_pylist():
        letter = {"unknown": "?"}.get(row["status"], row["status"][0])
        found[row["instrument"].split("|")[2]] += letter
        assert row["cause"] in CAUSES[letter]
        assert (row["volume"] is None, row["trades"] is None) == (letter == "?", letter in "?p")
    return found


BUSY = "p" * 90


@pytest.mark.parametrize("silence", ["0", "-"])
def test_coins_that_fall_silent_together_are_halted_also_at_the_edge_and_the_thin_ones_with_them(
    silence: str,
) -> None:
    thin = "p" + "0" * 84 + "p" + "0" * 84 + "p" + "0" * 19
    gap = silence * 10
    lines = {
        **dict.fromkeys("ABC", BUSY + gap + BUSY),
        "late": "p" * 20 + "0" * 70 + gap + BUSY,
        "thin": thin,
    }
    found = statuses(lines, absent="quiet")
    assert all(line[90:100] == "h" * 10 for line in found.values())
    assert found["A"] == BUSY + "h" * 10 + BUSY
    assert "h" not in found["thin"][:90] + found["thin"][100:]
    at_the_end = {coin: BUSY + gap + ("p" if coin == "A" else silence) for coin in "ABC"}
    assert statuses(at_the_end, absent="quiet")["A"] == BUSY + "h" * 10 + "p"


def test_an_absent_candle_stays_unknown_where_nobody_says_what_it_means() -> None:
    found = statuses(dict.fromkeys("ABC", BUSY + "0" * 10 + BUSY) | {"D": BUSY + "-" * 5 + "0" * 5 + BUSY})
    assert found["D"][90:100] == "?????hhhhh"


def test_a_coin_that_prints_on_ends_no_silence_of_others_and_begins_no_halt() -> None:
    """Two coins of eight go: each is doubtful by itself, and the venue is not halted."""
    lines = {coin: BUSY + ("0" * 10 if coin in "AB" else "p" * 10) + BUSY for coin in "ABCDEFGH"}
    found = statuses(lines)
    assert (found["A"][90:100], found["B"][90:100], found["C"]) == ("?" * 10, "?" * 10, "p" * 190)


def test_one_coin_or_two_are_no_venue_and_are_not_quiet_either() -> None:
    line = BUSY + "0" * 10 + BUSY
    for coins in ("A", "AB"):
        found = statuses(dict.fromkeys(coins, line))
        assert found == dict.fromkeys(coins, BUSY + "?" * 10 + BUSY)


def test_few_candles_measure_no_rhythm_so_the_statement_counts() -> None:
    assert statuses(dict.fromkeys("ABC", "ppp0ppp")) == dict.fromkeys("ABC", "pppqppp")


def simulated(minutes: int, seed: int) -> dict[str, list[bool]]:
    draw = random.Random(seed)
    return {coin: [draw.random() < pace for _ in range(minutes)] for coin, pace in PACE.items()}


def judged(prints: Mapping[str, Sequence[bool]]) -> dict[str, str]:
    """Return the statuses of coins whose silent minutes were left out, without the tables between."""
    spans = {
        coin: (line.index(True), len(line) - list(reversed(line)).index(True))
        for coin, line in prints.items()
    }
    found = find_silences(
        [
            CoinSteps(np.arange(*spans[coin]), np.array(line[slice(*spans[coin])], np.bool_))
            for coin, line in prints.items()
        ]
    )
    texts = {}
    for (coin, line), own in zip(prints.items(), found.of_coins, strict=True):
        text = ["p" if is_printed else "q" for is_printed in line]
        for letter, parts in (("?", own), ("?", found.possible_halts), ("h", found.halts)):
            for first, last in parts:
                text[first : last + 1] = [letter if old != "p" else old for old in text[first : last + 1]]
        begin, end = spans[coin]
        texts[coin] = "-" * begin + "".join(text[begin:end]) + "-" * (len(line) - end)
    return texts


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    coins=st.sets(st.sampled_from(sorted(PACE)), min_size=1),
    begin=st.integers(100, 400),
    minutes=st.integers(60, 1_500),
    returns=st.lists(st.integers(0, 7), max_size=10),
    strays=st.lists(st.tuples(st.sampled_from(sorted(PACE)), st.floats(0, 1)), max_size=3),
)
def test_no_bar_in_a_halt_is_quiet_whichever_coins_are_left_and_print_astray(
    seed: int,
    coins: set[str],
    begin: int,
    minutes: int,
    returns: list[int],
    strays: list[tuple[str, float]],
) -> None:
    """A halt of an hour or more, with a ragged recovery, seen through any of its coins.

    Of a single coin that prints in four minutes of ten, an hour with three prints is not improbable enough.
    """
    strays = strays if len(coins) > 1 else strays[:1]
    prints = simulated(begin + minutes + 400, seed)
    for number, (coin, line) in enumerate(prints.items()):
        line[begin : begin + minutes] = [False] * minutes
        for at, back in enumerate(returns, begin + minutes):
            line[at] = number < back
        for name, where in strays:
            if name == coin:
                line[begin + round(where * (minutes - 1))] = True
    for text in judged({coin: prints[coin] for coin in sorted(coins)}).values():
        assert "q" not in text[begin : begin + minutes]


@hypothesis_settings(max_examples=examples(120), deadline=None)
@given(
    seed=st.integers(0, 100_000),
    pace=st.floats(1 / 3, 1.0),
    minutes=st.integers(40, 400),
    edge=st.sampled_from(["none", "end"]),
)
def test_a_halt_of_forty_minutes_is_doubtful_through_one_coin_of_twenty_prints_an_hour(
    seed: int, pace: float, minutes: int, edge: str
) -> None:
    """With 20 minutes, a third of the prints and no other coin, a halt is as common as a silence (docs/adr/0031)."""
    draw = random.Random(seed)
    line = [draw.random() < pace for _ in range(900)]
    line += (
        [False] * minutes
        + [edge == "none"]
        + [draw.random() < pace for _ in range(900 if edge == "none" else 0)]
    )
    found = find_silences([CoinSteps(np.arange(len(line)), np.array(line, np.bool_))]).of_coins[0]
    doubtful = {step for first, last in found for step in range(first, last + 1)}
    assert doubtful >= set(range(900, 900 + minutes))


@hypothesis_settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 100_000),
    pace=st.floats(0.02, 1 / 3),
    waits=st.floats(30, 60),
    edge=st.sampled_from(["none", "end"]),
)
def test_a_halt_of_thirty_mean_waits_is_doubtful_through_one_thin_coin(
    seed: int, pace: float, waits: float, edge: str
) -> None:
    """A hundred prints before it are its rhythm; from one print in 50 minutes on."""
    draw = np.random.default_rng(seed)
    begin, minutes = max(900, int(100 / pace)), int(waits / pace) + 1
    after = draw.random(begin) < pace if edge == "none" else np.zeros(0, np.bool_)
    line = np.concatenate([draw.random(begin) < pace, np.zeros(minutes, np.bool_), [edge == "none"], after])
    first = int(np.flatnonzero(line)[0])
    found = find_silences([CoinSteps(np.arange(first, line.size), line[first:])]).of_coins[0]
    doubtful = {step for start, last in found for step in range(start, last + 1)}
    assert doubtful >= set(range(begin, begin + minutes))


@pytest.mark.parametrize(
    "minutes",
    [
        pytest.param(4_000, id="three days"),
        pytest.param(100_000, id="ten weeks", marks=pytest.mark.drill),
    ],
)
def test_what_is_silent_by_its_nature_stays_quiet(minutes: int) -> None:
    """At most one in a thousand silent bars of Poisson coins is not quiet, and none of thin ones."""
    draw = random.Random(5)
    for paces in ([0.5, 0.4], [0.5] * 5, [0.01, 0.002, 0.1, 0.05], list(PACE.values())):
        lines = {str(n): [draw.random() < pace for _ in range(minutes)] for n, pace in enumerate(paces)}
        found = "".join(judged(lines).values())
        assert found.count("h") == 0
        assert found.count("?") <= 0.001 * found.count("q") * (max(paces) > 0.1)


def test_bursts_are_a_rhythm_too() -> None:
    """The longest: 30 prints a burst, then ten hours of nothing on average; at most 2 % of silent bars are doubtful."""
    draw = np.random.default_rng(3)
    for prints, pause_min in ((4, 10.0), (10, 30.0), (20, 200.0), (3, 300.0), (10, 300.0), (30, 600.0)):
        line = np.zeros(40_000, np.bool_)
        at = 0
        while at < line.size - 200:
            at += int(draw.exponential(pause_min)) + 1
            for _ in range(draw.geometric(1 / prints)):
                line[min(at, line.size - 1)] = True
                at += int(draw.geometric(0.5))
        text = judged({"A": line.tolist()})["A"]
        assert text.count("?") <= 0.02 * text.count("q"), (prints, pause_min)


async def test_a_halt_over_rest_is_one_whichever_coin_is_asked_for_later(settings: Settings) -> None:
    """A halt of ten minutes; BTC alone is asked for first, and again last."""
    flat = range(80, 90)
    history = {(coin, "1m"): candles(180, flat=flat) for coin in ("BTC", "ETH", "SOL", "OP")}
    query = "SELECT status, count(*) AS n FROM bars_latest WHERE status <> 'printed' GROUP BY status"
    with Lake.open(settings) as lake:
        async with serving(RecordedHistory(NOW_NS, history)) as venue:
            chosen = settings_for(settings, venue)
            await fill_in(lake, chosen, from_ns=NOW_NS - 20_000 * NS)
            assert lake.query(query).to_pylist() == [{"status": "unknown", "n": 10}], (
                "one coin alone shows no halt, and its rhythm does not explain the silence"
            )
            await fill_in(lake, chosen, coins=("*",), from_ns=NOW_NS - 20_000 * NS)
            assert lake.query(query).to_pylist() == [{"status": "halted", "n": 40}]
            await fill_in(lake, chosen, from_ns=NOW_NS - 15_000 * NS)
            assert lake.query(query).to_pylist() == [{"status": "halted", "n": 40}]


def test_recorded_candles_with_a_made_up_halt(settings: Settings, tmp_path: Path) -> None:
    """The recorded files have no halt of 5 minutes; a quarter of an hour of a real afternoon is set to 0."""
    table = pq.read_table(recorded("hyperliquid/candles_5m_to_20250520.parquet")).to_pandas()
    days = table[(table["t"] >= "2025-05-09") & (table["t"] < "2025-05-12")].copy()
    silent = (days["t"] >= "2025-05-10T14:00") & (days["t"] < "2025-05-10T14:15")
    made = days.assign(volume=days["volume"].where(~silent, 0.0))
    with Lake.open(settings) as lake:
        for name, rows in (("real", days), ("made", made), ("one", made[made["coin"] == "BTC"])):
            rows.to_parquet(tmp_path / f"{name}.parquet")
            done = import_candles(tmp_path / f"{name}.parquet", settings, lake, venue=name)
            assert (len(done.instruments), done.halted) == (1 if name == "one" else 12, 36 * (name == "made"))
            assert (done.quiet, done.unknown) == ((0, 3) if name == "one" else (1, 0))


def test_recorded_outages_with_stray_prints(settings: Settings, tmp_path: Path) -> None:
    """Two outages of Bitfinex, in which up to 22 minutes of a pair have prints: no bar in them is quiet."""
    file = recorded("bitfinex/candles_1m_20180101_20180430.parquet")
    for day, first, last in (("2018-03-21", "09:32", "12:31"), ("2018-04-11", "09:02", "10:38")):
        table = pq.read_table(file).to_pandas()
        table = table[(table["t"] >= f"{day}T03:00") & (table["t"] < f"{day}T18:00")]
        for coins in (sorted(set(table["coin"])), ["EOS", "XRP"], ["NEO"]):
            name = f"{day}-{len(coins)}"
            table[table["coin"].isin(coins)].to_parquet(tmp_path / f"{name}.parquet")
            with Lake.open(settings) as lake:
                import_candles(tmp_path / f"{name}.parquet", settings, lake, venue=name, absent="quiet")
                found = lake.query(
                    "SELECT DISTINCT status FROM bars WHERE split_part(instrument, '|', 1) = ? AND status <> 'printed'"
                    " AND ts_open BETWEEN CAST(? AS TIMESTAMPTZ) AND CAST(? AS TIMESTAMPTZ)",
                    [name, f"{day}T{first}:00Z", f"{day}T{last}:00Z"],
                )["status"].to_pylist()
            assert found == (["halted"] if len(coins) > 2 else ["unknown"])
