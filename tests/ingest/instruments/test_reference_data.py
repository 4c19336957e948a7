"""Point-in-time reference data: queries use only what was known at their date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ingest.instruments.reference_data import fees_at, instruments_at, universe
from serving.cli import app
from storage.clock import DAY_NS, US_NS, parse_time_ns
from storage.contracts.tables import BARS, CANDLES, FEES, INSTRUMENTS
from storage.errors import RangeError, SettingsError
from storage.lake.fees import Role, read_fees, seed_fees
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.storage.rows import bar

BTC = "hyperliquid|perp|BTC"
JAN = parse_time_ns("2026-01-20")


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake.open(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Only to be read."""
    with Lake.open(Settings(home=tmp_path_factory.mktemp("seeded"))) as opened:
        assert seed_fees(opened).rows == {"fees": 6}
        assert not seed_fees(opened).is_new, "a second time adds nothing"
        yield opened


def listing(symbol: str, known_ns: int, state: str = "listed") -> dict[str, Any]:
    return {
        "instrument": f"hyperliquid|perp|{symbol}", "venue": "hyperliquid", "kind": "perp", "symbol": symbol, "dex": "",
        "asset_index": 1, "size_decimals": 2, "quote": "USDC", "max_leverage": 10.0, "state": state,
        "is_delisted": state != "listed", "generation": 1, "session": "always", "ts_knowable_ns": known_ns,
    }  # fmt: skip


def candle(
    symbol: str, day: int, notional: float, *, known_ns: int | None = None, source: str = "f"
) -> dict[str, Any]:
    at_ns = parse_time_ns(f"2026-01-{day:02d}")
    prices = dict.fromkeys(("open", "high", "low", "close"), 10.0)
    return prices | {
        "instrument": f"hyperliquid|perp|{symbol}", "width": "1d", "ts_open": at_ns // US_NS, "volume": notional / 10,
        "trades": 5, "source": source, "ts_knowable_ns": known_ns or at_ns + DAY_NS + US_NS,
    }  # fmt: skip


def put(lake: Lake, number: int = 0, **rows: list[dict[str, Any]]) -> None:
    contracts = {"candles": CANDLES, "instruments": INSTRUMENTS, "fees": FEES, "bars": BARS}
    tables = {name: contracts[name].rows(items) for name, items in rows.items()}
    done = lake.commit(tables, batch_id=f"made{number}")
    assert done.refused == 0


def fee_bps(
    lake: Lake, venue: str, instrument: str, role: Role, at_ns: int, *, known_ns: int | None = None
) -> float:
    schedule = read_fees(lake, role, until_ns=max(at_ns, known_ns or 0))
    return float(schedule.bps(instrument, np.array([at_ns]), venue=venue, known_ns=known_ns)[0])


def test_the_taker_fee_is_that_in_force(seeded: Lake) -> None:
    said = {
        "2023-02-26": 3.5,
        "2024-03-11": 3.5,
        "2025-05-05T02:59:59": 3.5,
        "2025-05-05T03:00:00": 4.5,
        "2026-11-01": 4.5,
    }
    assert {at: fee_bps(seeded, "hyperliquid", BTC, "taker", parse_time_ns(at)) for at in said} == said


def test_spot_and_maker_have_their_own_and_what_is_not_known_is_an_error(seeded: Lake) -> None:
    at_ns = parse_time_ns("2026-01-01")
    assert fee_bps(seeded, "hyperliquid", "hyperliquid|spot|@107", "taker", at_ns) == 7.0
    assert fee_bps(seeded, "hyperliquid", BTC, "maker", at_ns) == 1.5
    match = r"no taker fee of hyperliquid\|perp\|xyz:AAPL at hyperliquid, tier base, was known at 2026-01-01"
    with pytest.raises(SettingsError, match=match):
        fee_bps(seeded, "hyperliquid", "hyperliquid|perp|xyz:AAPL", "taker", at_ns)
    with pytest.raises(SettingsError, match="no maker fee"):
        fee_bps(seeded, "hyperliquid", BTC, "maker", parse_time_ns("2024-06-01"))


def test_a_deployers_market_takes_its_dex_s_fee_and_else_that_of_all_deployers(lake: Lake) -> None:
    since: dict[str, Any] = {
        "venue": "hyperliquid",
        "kind": "perp",
        "tier": "base",
        "role": "taker",
        "ts_to": None,
        "source": "made",
    }
    since |= {"ts_from": JAN // US_NS, "ts_knowable_ns": JAN}
    put(lake, fees=[since | {"dex": "*", "bps": 9.0}, since | {"dex": "xyz", "bps": 8.0}])
    found = [
        fee_bps(lake, "hyperliquid", f"hyperliquid|perp|{name}", "taker", JAN) for name in ("xyz:A", "abc:A")
    ]
    assert found == [8.0, 9.0]


def test_a_fee_that_became_known_later_changes_no_earlier_answer(lake: Lake) -> None:
    seed_fees(lake)
    before = fees_at(lake, JAN)
    row = {"venue": "hyperliquid", "kind": "perp", "dex": "", "tier": "base", "role": "taker", "bps": 5.0}
    later = {
        "ts_from": (JAN - DAY_NS) // US_NS,
        "ts_to": None,
        "source": "a correction",
        "ts_knowable_ns": JAN + 1,
    }
    put(lake, fees=[row | later])
    assert fees_at(lake, JAN).equals(before)
    assert fee_bps(lake, "hyperliquid", BTC, "taker", JAN) == 4.5
    assert fee_bps(lake, "hyperliquid", BTC, "taker", JAN, known_ns=JAN + 1) == 5.0
    assert fee_bps(lake, "hyperliquid", BTC, "taker", JAN + 1_000) == 5.0


def test_a_fee_with_an_announced_end_ends(lake: Lake) -> None:
    row = {
        "venue": "x",
        "kind": "perp",
        "dex": "",
        "tier": "base",
        "role": "taker",
        "bps": 0.0,
        "source": "a sale",
    }
    put(lake, fees=[row | {"ts_from": JAN // US_NS, "ts_to": (JAN + DAY_NS) // US_NS, "ts_knowable_ns": JAN}])
    assert fee_bps(lake, "x", "x|perp|A", "taker", JAN + DAY_NS - US_NS) == 0.0
    with pytest.raises(SettingsError, match="no taker fee"):
        fee_bps(lake, "x", "x|perp|A", "taker", JAN + DAY_NS)


def ranked(rows: Any) -> list[tuple[str, float, str]]:
    return [(row["instrument"].split("|")[2], row["notional"], row["state"]) for row in rows.to_pylist()]


def test_the_universe_includes_later_delistings_and_excludes_earlier_ones(lake: Lake) -> None:
    put(
        lake,
        instruments=[
            *(listing(name, JAN - 60 * DAY_NS) for name in ("LIVE", "GONE", "DEAD")),
            listing("DEAD", JAN - DAY_NS, "delisted"),
            listing("GONE", JAN + DAY_NS, "absent"),
        ],
        candles=[candle(name, day, notional) for name, notional in
                 (("LIVE", 100.0), ("GONE", 300.0), ("DEAD", 900.0), ("NEW", 50.0)) for day in (10, 11, 25)],
    )  # fmt: skip
    found = ranked(universe(lake, JAN, days=30, top=10))
    assert found == [("GONE", 600.0, "listed"), ("LIVE", 200.0, "listed"), ("NEW", 100.0, "not said")]
    assert ranked(universe(lake, JAN, days=30, top=1)) == found[:1]
    later = ranked(universe(lake, JAN + 10 * DAY_NS, days=30, top=10))
    assert [row[0] for row in later] == ["LIVE", "NEW"]


def test_later_rows_change_no_earlier_universe_or_listing(lake: Lake) -> None:
    put(
        lake,
        instruments=[listing("A", JAN - 5 * DAY_NS)],
        candles=[candle("A", 10, 10.0), candle("B", 10, 20.0)],
    )
    before = universe(lake, JAN, days=30, top=9), instruments_at(lake, JAN)
    put(
        lake, 1,
        instruments=[listing("A", JAN + 1, "delisted"), listing("C", JAN + 1)],
        candles=[candle("A", 10, 5e6, known_ns=JAN + 1, source="g"), candle("C", 12, 1e9, known_ns=JAN + 1)],
        bars=[bar(0, instrument="hyperliquid|perp|D", width="1d", ts_open=parse_time_ns("2026-01-12") // US_NS,
                  ts_close=parse_time_ns("2026-01-13") // US_NS, notional=1e9, ts_knowable_ns=JAN + 1)],
    )  # fmt: skip
    assert universe(lake, JAN, days=30, top=9).equals(before[0])
    assert instruments_at(lake, JAN).equals(before[1])
    assert [row[0] for row in ranked(universe(lake, JAN + 1_000, days=30, top=2))] == ["C", "D"]


def test_bars_of_several_widths_and_candles_are_not_added_up(lake: Lake) -> None:
    day = parse_time_ns("2026-01-10")
    minutes = [
        bar(0, instrument=BTC, width=width, ts_open=(day + n * step) // US_NS, ts_close=(day + (n + 1) * step) // US_NS,
            notional=100.0 * (step // 60_000_000_000), ts_knowable_ns=day + DAY_NS)
        for width, step, count in (("1m", 60_000_000_000, 10), ("5m", 300_000_000_000, 2)) for n in range(count)
    ]  # fmt: skip
    put(lake, bars=minutes, candles=[candle("BTC", 10, 900.0)])
    assert ranked(universe(lake, JAN, days=30, top=5)) == [("BTC", 1000.0, "not said")]


def test_an_empty_answer_says_what_to_do(lake: Lake) -> None:
    with pytest.raises(
        RangeError, match=r"nothing was known at 2026-01-20T00:00:00\.000Z to have traded in the 7 days"
    ):
        universe(lake, JAN, days=7, top=5)
    with pytest.raises(RangeError, match="0 days and the top 5 are no universe"):
        universe(lake, JAN, days=0, top=5)


def test_the_reference_commands_print_their_tables(settings: Settings, lake: Lake) -> None:
    put(lake, instruments=[listing("A", JAN - 5 * DAY_NS)], candles=[candle("A", 10, 10.0)])

    def told(*words: str) -> str:
        return CliRunner().invoke(app, ["--home", str(settings.home), "reference", *words]).output

    shown = CliRunner().invoke(app, ["--home", str(settings.home), "reference", "fees"])
    assert isinstance(shown.exception, RangeError)
    assert "tickwalk reference seed" in shown.exception.hint
    assert told("seed") == "6 new rows of fees\n"
    assert ",taker,3.5," in told("fees", "--at", "2025-01-01", "--format", "csv")
    assert "hyperliquid|perp|A,listed" in told("instruments", "--at", "2026-01-20", "--format", "csv")
    assert "1,hyperliquid|perp|A,10.0,listed" in told(
        "universe", "--at", "2026-01-20", "--top", "3", "--format", "csv"
    )
