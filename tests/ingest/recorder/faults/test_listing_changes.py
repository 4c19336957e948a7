"""Listings and update rates that change during a recording."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from ingest.simulator.faults.faults import ListingChange, SlowBook
from ingest.simulator.market.spec import DEFAULT_COINS, WHOLE_VENUE
from storage.clock import NS
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import BY_NAME, SOL, START_NS, live, market, since_s, statuses, until

PRICES = {coin.name: coin.start_price for coin in DEFAULT_COINS}


def open_market(*coins: Any) -> Any:
    return market(coins=coins, span_s=None)


async def test_contexts_named_by_position_are_set_aside_until_the_universe_is_known_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOL is listed at 15 s: contexts that come before its name is known must not be assigned to any coin."""
    change = ListingChange(coin="SOL", what="listed", at_s=15.0)
    coins = (BY_NAME["BTC"], BY_NAME["SOL"], BY_NAME["AVAX"])
    record = {"coins": ("BTC",), "channels": ("trades", "allDexsAssetCtxs")}
    tables = ("contexts", "instruments")
    async with live(
        settings, monkeypatch, change, source=open_market(*coins), streams=2, tables=tables, record=record
    ) as run:
        # The universe is asked for anew, which takes the loop's time and much of the market's.
        await run.until_s(150.0)
    refused = run.of("quarantine", table_name="contexts")
    assert refused
    assert {row["reason"] for row in refused} == {
        "3 contexts of dex '' cannot be named: its universe has 2 names"
    }
    named = {row["instrument"].rpartition("|")[2] for row in run.of("contexts")}
    assert named == {"BTC", "SOL", "AVAX"}
    for row in run.of("contexts"):
        assert row["oracle"] == pytest.approx(PRICES[row["instrument"].rpartition("|")[2]], rel=0.1)
    assert [row["asset_index"] for row in run.of("instruments", SOL)] == [2]


async def test_a_slow_book_at_its_pace_is_no_alarm_and_at_another_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change = SlowBook(cadence_s=20.0, at_s=80.0)
    names = tuple(coin.name for coin in DEFAULT_COINS if coin.listed)
    record = {"coins": names, "channels": ("l2Book",)}
    slow: dict[str, Any] = {"source": open_market(*DEFAULT_COINS), "streams": 6, "tables": ("books",)}
    async with live(settings, monkeypatch, change, record=record, **slow) as run:
        await run.until_s(75.0)
        before = capsys.readouterr().err
        await run.until_s(300.0)
    assert "drifted" not in before
    assert "stream silent" not in before
    assert "reconnecting" not in before
    after = capsys.readouterr().err
    assert "book cadence drifted" in after
    found = re.search(r"expected_s=5.0 measured_s=([0-9.]+)", after)
    assert found
    assert 7.5 < float(found[1]) < 25.0
    assert run.venue.stats.by_feed["hyperliquid"] == 1, "a slower pace ends no connection"
    assert {row["mode"] for row in run.of("books")} == {"slow"}


async def test_a_market_of_a_deployed_dex_is_taken_up_when_it_is_listed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = ListingChange(coin="xyz:GOLD", what="listed", at_s=15.0)
    coins = [coin for coin in WHOLE_VENUE if coin.name in ("BTC", "xyz:AAPL", "xyz:GOLD")]
    record = {"coins": ("xyz:*",), "discover_s": 0.2}
    more: dict[str, Any] = {"source": open_market(*coins), "streams": 2, "tables": ("instruments",)}
    async with live(settings, monkeypatch, change, record=record, **more) as run:
        await until(lambda: run.venue.stats.frames["subscriptionResponse"] == 4)
        taken_up_s = (run.time.now_ns() - run.venue.now_ns) / 1e9
        await run.until_s(90.0)
    assert taken_up_s < 30.0
    gold = "hyperliquid|perp|xyz:GOLD"
    assert [(row["dex"], row["state"]) for row in run.of("instruments", gold)] == [("xyz", "listed")]
    assert min(since_s(row["ts_event"]) for row in run.of("trades", gold)) > 15.0
    assert run.bars(gold)[-2]["status"] in ("printed", "quiet")
    assert run.venue.stats.by_feed["hyperliquid"] == 1, "the socket was told, and not renewed"
    assert run.is_each_print_stored_once()


@pytest.mark.parametrize("coins", [("BTC", "SOL"), ("SOL",)], ids=["among others", "alone"])
async def test_a_delisted_coin_ends_its_bars_and_comes_back_as_another_instrument(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, coins: tuple[str, ...]
) -> None:
    """SOL is delisted at 23 s without notice, and at 55 s its name is given to a contract with other lots."""
    changes = [
        ListingChange(coin="SOL", what="delisted", at_s=23.0),
        ListingChange(coin="SOL", what="recycled", at_s=55.0, size_decimals=3),
    ]
    record = {"coins": coins, "discover_s": 0.1}
    more: dict[str, Any] = {"streams": 2 * len(coins), "tables": ("instruments",)}
    async with live(settings, monkeypatch, *changes, record=record, **more) as run:
        await run.until_s(130.0)
    first = [(row["state"], row["generation"], row["size_decimals"]) for row in run.of("instruments", SOL)]
    assert first == [("listed", 1, 2), ("delisted", 1, 2)]
    second = run.of("instruments", f"{SOL}~2")
    assert [(row["state"], row["generation"], row["size_decimals"]) for row in second] == [("listed", 2, 3)]
    ended = run.bars(SOL)
    assert [row["cause"] for row in ended if row["status"] == "unlisted"] == ["delisted"]
    assert ended[-1]["status"] == "unlisted"
    assert since_s(ended[-1]["ts_open"]) in (20.0, 30.0, 40.0, 50.0)
    assert max(since_s(row["ts_event"]) for row in run.of("trades", SOL)) < 23.5
    assert min(since_s(row["ts_event"]) for row in run.of("trades", f"{SOL}~2")) > 55.0
    assert set(statuses(run.bars(f"{SOL}~2", 100.0, 120.0))) <= {"printed", "quiet"}
    if "BTC" in coins:
        assert set(statuses(run.bars("hyperliquid|perp|BTC", 10.0, 120.0))) <= {"printed", "quiet"}


@pytest.mark.drill
async def test_a_recorder_starts_and_rotates_although_a_coin_of_its_settings_has_gone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start knows from the lake that SOL was once listed, and is not a misspelt name."""
    change = ListingChange(coin="SOL", what="delisted", at_s=12.0)
    quick = {"discover_s": 0.1, "rotate_h": 1.0 / 3600.0}
    async with live(settings, monkeypatch, change, record=quick) as run:
        await until(lambda: len(list(run.settings.journal_dir.iterdir())) >= 3)
    gone = dataclasses.replace(BY_NAME["SOL"], listed=False)
    later = START_NS + 600 * NS
    source = market(coins=(BY_NAME["BTC"], gone), span_s=None, start_ns=later)
    async with live(settings, monkeypatch, streams=2, source=source, name="next", start_s=600.0) as again:
        await again.until_s(615.0)
    assert {row["instrument"] for row in again.of("trades", journal="next")} >= {"hyperliquid|perp|BTC"}
    assert again.venue.stats.frames["subscriptionResponse"] == 2
