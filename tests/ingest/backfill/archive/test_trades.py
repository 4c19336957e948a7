"""Archived hours: each trade once, complete bars, and reasons for rejected fills."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from ingest.backfill.archive.object_keys import BLOCKS, FILLS, HOUR_NS, TRADES
from ingest.backfill.archive.trades import ArchiveTradeSource
from ingest.backfill.pricing import check_cost, cost_of
from ingest.backfill.source import BackfillRequest
from storage.clock import MS_NS, ManualTime, parse_time_ns
from storage.errors import RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import ArchiveSettings
from tests.ingest.backfill.archive.archives import (
    HOUR,
    HOUR_MS,
    LATER,
    both,
    fill_in,
    in_order,
    iso_ns,
    objects_at,
    packed,
    pulse,
    rows,
)
from tests.ingest.backfill.archive.conftest import Put
from tests.ingest.recorder.faults.test_archive_fills import a_block, a_fill

WISH = BackfillRequest(HOUR, HOUR + HOUR_NS)
END_MS = HOUR_MS + 3_600_000
BTC = "instrument = 'hyperliquid|perp|BTC'"


def put_hours(put: Put, *middle: bytes, after: tuple[bytes, ...] = ()) -> None:
    """Upload an hour with both neighbours, in which the node wrote all the time."""
    put(BLOCKS.key(HOUR - HOUR_NS), packed(pulse(HOUR_MS - 100_000, HOUR_MS)))
    put(BLOCKS.key(HOUR), packed(in_order([*pulse(HOUR_MS, END_MS), *middle])))
    put(BLOCKS.key(HOUR + HOUR_NS), packed(in_order([*pulse(END_MS, END_MS + 400_000), *after])))


async def test_an_hour_makes_trades_bars_and_coverage_and_a_second_run_does_nothing(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    put_hours(
        put,
        a_block(*both(1, HOUR_MS + 1_000), *both(2, HOUR_MS + 1_000, price="101.0", is_buy=False)),
        a_block(*both(3, HOUR_MS + 61_000)[:1]),
        a_block(*both(4, HOUR_MS + 125_000)),
        after=(a_block(*both(5, END_MS - 50)), a_block(*both(6, END_MS + 50))),
    )
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(
            objects_at(where, settings.home), settings, ManualTime(LATER), query=lake.query
        )
        wish = BackfillRequest(HOUR, HOUR + HOUR_NS, ("BTC",))
        assert await fill_in(source, wish, lake) == {}
        trades = rows(lake, "trades")
        assert [(row["tid"], row["side"], row["price"], row["origin"]) for row in trades] == [
            (1, "buy", 100.0, "archive"),
            (2, "sell", 101.0, "archive"),
            (4, "buy", 100.0, "archive"),
            (5, "buy", 100.0, "archive"),
        ], "the trade that spilled over is there, the next hour's is not"
        lag_ns = settings.bars.history_lag_ms * MS_NS
        assert trades[0]["ts_knowable_ns"] == (HOUR_MS + 1_000) * MS_NS + lag_ns
        bars = rows(lake, "bars_latest")
        assert len(bars) == 60
        assert [bar["status"] for bar in bars[:4]] == ["printed", "blind", "printed", "quiet"]
        assert bars[1]["cause"] == "prints refused", "of its trade the archive has one side alone"
        first = bars[0]
        assert (first["trades"], first["volume"], first["buy_volume"]) == (2, 1.0, 0.5)
        assert (first["open"], first["close"], first["observed_ms"]) == (100.0, 101.0, 60_000)
        assert {bar["origin"] for bar in bars} == {"archive"}
        (odd,) = rows(lake, "quarantine")
        assert odd["reason"] == "1 fills on sides B: a trade has one B and one A"
        spans = rows(lake, "coverage")
        assert {(span["kind"], span["evidence"]) for span in spans} == {("watched", "venue_statement")}
        assert spans[1]["ts_from"] - spans[0]["ts_to"] == timedelta(milliseconds=1), (
            "all but the refused trade"
        )
        before = lake.snapshot()
        assert await fill_in(source, wish, lake) == {}
        assert lake.snapshot() == before


@pytest.mark.parametrize(
    ("damage", "lacking"),
    [
        pytest.param(lambda line: line.replace(b'"px": "100.0"', b'"px": "x"'), {"BTC"}, id="JSON"),
        pytest.param(
            lambda line: line.replace(b'"coin": "BTC"', b'"coin": 7', 1), {"BTC", "ETH"}, id="no coin"
        ),
        pytest.param(lambda line: line[:40], {"BTC", "ETH"}, id="cut"),
        pytest.param(lambda line: line.replace(b'"time": 1', b'"time": "x', 1), {"BTC", "ETH"}, id="no JSON"),
        pytest.param(lambda line: line.replace(b'"sz": "0.5"', b'"sz": "0.6"', 1), {"BTC"}, id="no pair"),
    ],
)
async def test_a_bar_that_lacks_a_refused_trade_is_blind(
    place: tuple[str, Put], settings: Settings, damage: Callable[[bytes], bytes], lacking: set[str]
) -> None:
    where, put = place
    broken = a_block(*both(1, HOUR_MS + 90_000))
    assert damage(broken) != broken
    put_hours(put)
    others = [a_block(*both(n, HOUR_MS + n * 5_000, coin=coin)) for n, coin in ((2, "BTC"), (3, "ETH"))]
    lines = in_order([*pulse(HOUR_MS, END_MS), *others, broken])
    put(BLOCKS.key(HOUR), packed(damage(line) if line == broken else line for line in lines))
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        await fill_in(source, WISH, lake)
        bars = rows(lake, "bars_latest", "status = 'blind'")
        assert len(rows(lake, "quarantine")) == 1
    found = {
        (bar["instrument"].split("|")[2], bar["ts_open"].minute)
        for bar in bars
        if bar["cause"] == "prints refused"
    }
    assert found - {("PULSE", 1)} == {(coin, 1) for coin in lacking}


async def test_an_unwritten_span_is_blind_and_not_quiet(place: tuple[str, Put], settings: Settings) -> None:
    where, put = place
    put_hours(put)
    still = [*pulse(HOUR_MS, HOUR_MS + 600_000), *pulse(HOUR_MS + 1_200_000, END_MS)]
    put(BLOCKS.key(HOUR), packed(in_order([*still, a_block(*both(1, HOUR_MS + 5_000))])))
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        await fill_in(source, WISH, lake)
        bars = rows(lake, "bars_latest", BTC)
    blind = [number for number, bar in enumerate(bars) if bar["status"] == "blind"]
    assert blind == list(range(9, 20))
    assert {bars[number]["cause"] for number in blind} == {"archive silent"}


async def test_overlapping_layouts_give_each_trade_once(place: tuple[str, Put], settings: Settings) -> None:
    """Hour 8 of 2025-07-27 lies in both fills layouts; one trade has a side in each, one lies in both."""
    hour = FILLS.to_ns - HOUR_NS
    at_ms = hour // MS_NS
    where, put = place
    shared, cut = both(1, at_ms + 10_000), both(2, at_ms + 20_000)
    fills = [json.dumps(["0xuser", fill]).encode() for fill in (*shared, cut[0])]
    put(FILLS.key(hour), packed(fills))
    put(
        BLOCKS.key(hour),
        packed([a_block(*shared), a_block(cut[1]), *pulse(at_ms + 30_000, at_ms + 3_600_000)]),
    )
    put(BLOCKS.key(hour + HOUR_NS), packed(pulse(at_ms + 3_600_000, at_ms + 3_700_000)))
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        assert await fill_in(source, BackfillRequest(hour, hour + HOUR_NS), lake) == {}
        assert [row["tid"] for row in rows(lake, "trades", BTC)] == [1, 2]
        assert rows(lake, "quarantine") == []


async def test_trades_without_a_tid_get_a_synthetic_one(place: tuple[str, Put], settings: Settings) -> None:
    hour = parse_time_ns("2025-04-01T05:00:00Z")
    where, put = place
    line = {"coin": "BTC", "side": "A", "time": iso_ns(hour // MS_NS + 7), "px": "85000.5", "sz": "0.25"}
    line |= {
        "hash": "0xab",
        "trade_dir_override": "Na",
        "side_info": [{"user": "0x1", "oid": 5}, {"user": "0x2", "oid": 6}],
    }
    other = line | {"side_info": [{"user": "0x1", "oid": 5}, {"user": "0x3", "oid": 7}]}
    contradiction = line | {"px": "85000.6"}
    body = [json.dumps(item).encode() for item in (line, other, line, contradiction)]
    put(TRADES.key(hour), packed([*body, b"{}"]))
    put(TRADES.key(hour + HOUR_NS), packed(body[:1]))
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        assert await fill_in(source, BackfillRequest(hour, hour + HOUR_NS), lake) == {}
        trades = rows(lake, "trades")
        assert [(row["side"], row["price"], row["size"]) for row in trades] == [("sell", 85_000.5, 0.25)] * 2
        assert all(row["tid"] > 1 << 50 for row in trades)
        assert trades[0]["ts_event"].microsecond == 7_000
        reasons = sorted(row["reason"] for row in rows(lake, "quarantine"))
        assert reasons[0] == "an earlier trade has its key, with other values"
        assert reasons[1].startswith("the line does not fit its layout: Object missing required field")
        assert len(reasons) == 2, "an equal repeat is skipped"


@pytest.mark.parametrize("lost", ["hour", "next"])
async def test_a_missing_object_is_absent_with_its_reason_and_fetched_later(
    place: tuple[str, Put], settings: Settings, lost: str
) -> None:
    where, put = place
    whole = packed([*pulse(HOUR_MS, END_MS), a_block(*both(1, HOUR_MS + 5_000))])
    after = packed(pulse(END_MS, END_MS + 400_000))
    put(BLOCKS.key(HOUR), whole[:-20] if lost == "hour" else whole)
    if lost == "hour":
        put(BLOCKS.key(HOUR + HOUR_NS), after)
    clock = ManualTime(HOUR + 10 * HOUR_NS)
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, settings.home), settings, clock)
        (reason,) = (await fill_in(source, WISH, lake)).values()
        text = "14.lz4: cut short or damaged" if lost == "hour" else "may hold its end, is not there yet"
        assert text in reason
        assert rows(lake, "trades") == []
        put(BLOCKS.key(HOUR), whole)
        put(BLOCKS.key(HOUR + HOUR_NS), after)
        assert len(await fill_in(source, WISH, lake)) == 1, "it is not asked for at once"
        clock.advance_to(HOUR + 20 * HOUR_NS)
        assert await fill_in(source, WISH, lake) == {}
        assert [row["tid"] for row in rows(lake, "trades", BTC)] == [1]


async def test_a_request_outside_the_archive_is_refused(place: tuple[str, Put], settings: Settings) -> None:
    source = ArchiveTradeSource(objects_at(place[0], settings.home), settings, ManualTime(LATER))
    early = parse_time_ns("2024-01-01")
    with pytest.raises(
        RangeError, match=r"no archive has trades of 2024-01-01.*the first are of 2025-03-22T10"
    ):
        await source.steps(BackfillRequest(early, early + HOUR_NS))
    with pytest.raises(RangeError, match="is in the future: no archive has trades of it"):
        await source.steps(BackfillRequest(HOUR, LATER + 1))
    with pytest.raises(RangeError, match="is no stretch of time"):
        await source.steps(BackfillRequest(HOUR, HOUR))


async def test_an_unknown_coin_is_named_and_no_bar_claims_that_it_was_quiet(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    put_hours(put, a_block(*both(1, HOUR_MS + 1_000)))
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        (reason,) = (await fill_in(source, BackfillRequest(HOUR, HOUR + HOUR_NS, ("btc",)), lake)).values()
        assert reason == "nobody traded btc in that hour, as it is written"
        assert rows(lake, "bars") == []


async def test_the_price_is_known_before_fetching_and_cached_objects_cost_nothing(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    put_hours(put, a_block(*both(1, HOUR_MS + 1_000)))
    dear = ArchiveSettings(usd_per_gb=1e9, usd_per_1000=0.0, limit_usd=5.0)
    objects = objects_at(where, settings.home)
    source = ArchiveTradeSource(objects, settings, ManualTime(LATER))
    cost = cost_of(await source.steps(WISH), dear)
    listed = objects.listed(f"{BLOCKS.folder}/20250729/")
    assert listed is not None
    assert cost.size_bytes == sum(listed.values()) > 0
    assert cost.usd == pytest.approx(cost.size_bytes)
    assert not (settings.home / "archive").exists(), "nothing was fetched"
    with pytest.raises(RangeError, match=r"more than archive.limit_usd = 5.00 \(say --yes"):
        check_cost(cost, dear, is_agreed=False)
    check_cost(cost, dear, is_agreed=True)
    with Lake.open(settings) as lake:
        await fill_in(source, WISH, lake)
    assert cost_of(await source.steps(WISH), dear).usd == 0.0


async def test_watched_bars_stay_and_blind_ones_get_trades_beside_their_quotes(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    put_hours(put, a_block(*both(1, HOUR_MS + 1_000)), a_block(*both(2, HOUR_MS + 61_000)))
    with Lake.open(settings) as lake:
        plain = ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        step = (await plain.steps(WISH))[0]
        made = (await plain.fetch(step)).tables["bars"].to_pylist()
        mine = [bar for bar in made if bar["instrument"].endswith("BTC")][:2]
        watched = mine[0] | {"origin": "live", "bid": 99.0, "trades": 7}
        blind = mine[1] | {"origin": "live", "bid": 98.0, "status": "blind", "cause": "connection lost"}
        blind |= {"observed_ms": 30_000, "trades": 0}
        from storage.contracts.tables import BARS

        lake.commit({"bars": BARS.rows([watched, blind])}, batch_id="live")
        source = ArchiveTradeSource(
            objects_at(where, settings.home), settings, ManualTime(LATER), query=lake.query
        )
        await fill_in(source, WISH, lake)
        first, second = rows(lake, "bars_latest", BTC)[:2]
    assert (first["origin"], first["trades"], first["bid"], first["revision"]) == ("live", 7, 99.0, 0)
    assert (second["origin"], second["status"], second["trades"]) == ("archive", "printed", 1)
    assert (second["bid"], second["revision"]) == (98.0, 1)


async def test_settlements_are_no_trades(place: tuple[str, Put], settings: Settings) -> None:
    where, put = place
    put_hours(put, a_block(a_fill(dir="Settlement", time=HOUR_MS + 9), *both(1, HOUR_MS + 1_000)))
    with Lake.open(settings) as lake:
        await fill_in(
            ArchiveTradeSource(objects_at(where, settings.home), settings, ManualTime(LATER)), WISH, lake
        )
        assert [row["tid"] for row in rows(lake, "trades", BTC)] == [1]
        assert rows(lake, "quarantine") == []
