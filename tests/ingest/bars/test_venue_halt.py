"""Detection of venue-wide halts in candles."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.backfill.candle_files import import_candles
from ingest.bars.from_candles import VENUE_HALT, bars_of
from ingest.simulator.server.history_endpoint import RecordedHistory
from storage.clock import NS
from storage.contracts.tables import CANDLES
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.ingest.backfill.histories import NOW_NS, candles, fill_in, serving, settings_for

STEP_NS = 60 * NS


def statuses(prints: dict[str, str]) -> dict[str, str]:
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
    bars = bars_of(CANDLES.rows(rows), spans, width="1m", step_ns=STEP_NS, lag_ns=0)
    found = dict.fromkeys(prints, "")
    for row in bars.to_pylist():
        found[row["instrument"].split("|")[2]] += {"unknown": "?"}.get(row["status"], row["status"][0])
        assert (row["cause"] == VENUE_HALT) == (row["status"] == "halted")
    return found


@pytest.mark.parametrize(
    ("candle", "bar"),
    [
        ("ppp00ppp", "ppphhppp"),  # the venue's halt
        ("ppp0ppp", "ppphppp"),
        ("pp00ppp", "ppqqppp"),  # what came before is not known well enough
        ("ppp00pp", "pppqqpp"),  # what came after is not known yet
        ("p0p00ppp", "pqpqqppp"),  # thin coins
    ],
)
def test_three_busy_coins_must_print_three_times_on_either_side(candle: str, bar: str) -> None:
    assert statuses(dict.fromkeys("ABC", candle)) == dict.fromkeys("ABC", bar)


def test_two_coins_are_no_venue_and_one_that_prints_is_no_halt() -> None:
    assert statuses(dict.fromkeys("AB", "ppp0ppp")) == dict.fromkeys("AB", "pppqppp")
    assert statuses(dict.fromkeys("ABC", "ppp0ppp") | {"D": "ppppppp"})["A"] == "pppqppp"


def test_thin_coins_are_halted_with_the_others_and_absent_ones_stay_unknown() -> None:
    found = statuses(dict.fromkeys("ABC", "ppp00ppp") | {"D": "000000p0", "E": "ppp-0ppp", "F": "----0000"})
    assert (found["D"], found["E"], found["F"]) == ("qqqhhqpq", "ppp?hppp", "????hqqq")


@pytest.mark.parametrize(
    "minutes",
    [
        pytest.param(4_000, id="three days"),
        pytest.param(20_000, id="two weeks", marks=pytest.mark.drill),
    ],
)
def test_thin_coins_make_next_to_no_halt(minutes: int) -> None:
    """Five coins that print in every second minute: by chance, not at all."""
    draw = random.Random(5)
    found = statuses({coin: "".join(draw.choice("p0") for _ in range(minutes)) for coin in "ABCDE"})
    assert sum(line.count("h") for line in found.values()) == 0
    assert sum(line.count("q") for line in found.values()) > 2 * minutes


async def test_a_halt_over_rest_is_one_whichever_coin_is_asked_for_later(settings: Settings) -> None:
    """A halt of five minutes; BTC alone is asked for first, and again last."""
    flat = range(40, 45)
    history = {(coin, "1m"): candles(90, flat=flat) for coin in ("BTC", "ETH", "SOL", "OP")}
    query = "SELECT status, count(*) AS n FROM bars_latest WHERE status <> 'printed' GROUP BY status"
    with Lake.open(settings) as lake:
        async with serving(RecordedHistory(NOW_NS, history)) as venue:
            chosen = settings_for(settings, venue)
            await fill_in(lake, chosen)
            assert lake.query(query).to_pylist() == [{"status": "quiet", "n": 5}], (
                "one coin alone shows no halt"
            )
            await fill_in(lake, chosen, coins=("*",))
            assert lake.query(query).to_pylist() == [{"status": "halted", "n": 20}]
            await fill_in(lake, chosen, from_ns=NOW_NS - 5_000 * NS)
            assert lake.query(query).to_pylist() == [{"status": "halted", "n": 20}]


def test_recorded_candles_with_a_made_up_halt(settings: Settings, tmp_path: Path) -> None:
    """The recorded files have no halt of 5 minutes; a quarter of an hour of a real afternoon is set to 0."""
    table = pq.read_table(recorded("hyperliquid/candles_5m_to_20250520.parquet")).to_pandas()
    day = table[(table["t"] >= "2025-05-10") & (table["t"] < "2025-05-11")].copy()
    silent = (day["t"] >= "2025-05-10T14:00") & (day["t"] < "2025-05-10T14:15")
    with Lake.open(settings) as lake:
        for name, rows in (("real", day), ("made", day.assign(volume=day["volume"].where(~silent, 0.0)))):
            rows.to_parquet(tmp_path / f"{name}.parquet")
            done = import_candles(tmp_path / f"{name}.parquet", settings, lake, venue=name)
            assert (len(done.instruments), done.halted) == (12, 0 if name == "real" else 36)
