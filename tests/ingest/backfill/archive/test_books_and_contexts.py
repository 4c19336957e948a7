"""Archived books and contexts become rows, and invalid ones are set aside."""

from __future__ import annotations

import gzip
import json

import pytest

from ingest.backfill.archive.books import ArchiveBookSource
from ingest.backfill.archive.contexts import ArchiveContextSource
from ingest.backfill.archive.object_keys import HOUR_NS, book_key, context_key
from ingest.backfill.source import BackfillRequest
from storage.clock import DAY_NS, MS_NS, NS, ManualTime, parse_time_ns
from storage.errors import InstrumentError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.ingest.backfill.archive.archives import HOUR, LATER, fill_in, iso_ns, objects_at, packed, rows
from tests.ingest.backfill.archive.conftest import Put

DAY = parse_time_ns("2025-07-29")
HEADER = (
    "time,coin,funding,open_interest,prev_day_px,day_ntl_vlm,premium,oracle_px,mark_px,mid_px,"
    "impact_bid_px,impact_ask_px"
)


def recorded_books(coin: str, most: int) -> list[bytes]:
    """Return a capture's books of a coin as lines of the archive, which notes when it received them."""
    lines = []
    with gzip.open(recorded("hyperliquid/ws_20250904_4coins.ndjson.gz"), "rt") as capture:
        for text in capture:
            frame = json.loads(text)
            if frame["msg"]["channel"] == "l2Book" and frame["msg"]["data"]["coin"] == coin:
                time = iso_ns(frame["recv_ns"] // MS_NS)
                lines.append(json.dumps({"time": time, "ver_num": 1, "raw": frame["msg"]}).encode())
                if len(lines) == most:
                    break
    return lines


async def test_recorded_books_come_back_as_they_were(place: tuple[str, Put], settings: Settings) -> None:
    lines = recorded_books("BTC", 300)
    said = [json.loads(line) for line in lines]
    hour = parse_time_ns(said[0]["time"][:13] + ":00:00Z")
    crossed = json.loads(lines[0])
    crossed["raw"]["data"]["levels"].reverse()
    where, put = place
    put(book_key(hour, "BTC"), packed([*lines, json.dumps(crossed).encode(), b"{}"]))
    with Lake.open(settings) as lake:
        source = ArchiveBookSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        wish = BackfillRequest(hour, hour + HOUR_NS)
        assert await fill_in(source, wish, lake) == {}
        books = rows(lake, "books")
        refused = sorted(row["reason"] for row in rows(lake, "quarantine"))
    assert len(books) == len(lines) == 300
    for book, line in zip(sorted(books, key=lambda row: row["frame"]), said, strict=True):
        data = line["raw"]["data"]
        assert round(book["ts_event"].timestamp() * 1000) == data["time"]
        assert book["bid_px"] == [float(level["px"]) for level in data["levels"][0]]
        assert book["ask_sz"] == [float(level["sz"]) for level in data["levels"][1]]
        assert book["ts_recv_ns"] // MS_NS == parse_time_ns(line["time"][:23]) // MS_NS
        assert book["ts_knowable_ns"] >= max(book["ts_recv_ns"], data["time"] * MS_NS + 1_100 * MS_NS)
    assert {(book["mode"], book["origin"]) for book in books} == {("slow", "archive")}
    assert len(refused) == 2
    assert "do not fall" in refused[0]
    assert refused[1].startswith("the line does not fit its layout")


async def test_a_coin_without_books_is_named_with_the_nearest(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    put(book_key(HOUR, "BTC"), packed([b"{}"]))
    source = ArchiveBookSource(objects_at(where, settings.home), settings, ManualTime(LATER))
    with pytest.raises(InstrumentError, match=r"no book of 'btc' in those days .*the nearest is BTC"):
        await source.steps(BackfillRequest(HOUR, HOUR + HOUR_NS, ("btc",)))
    with pytest.raises(RangeError, match="no archive has books of 2023-01-01"):
        await source.steps(BackfillRequest(parse_time_ns("2023-01-01"), HOUR))


async def test_an_hour_of_books_that_is_not_there_is_absent(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    put(book_key(HOUR, "BTC"), packed([b"{}"]))
    with Lake.open(settings) as lake:
        source = ArchiveBookSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        absent = await fill_in(source, BackfillRequest(HOUR + HOUR_NS, HOUR + 2 * HOUR_NS, ("BTC",)), lake)
    assert list(absent.values()) == ["market_data/20250729/15/l2Book/BTC.lz4: refused or not there"]


async def test_contexts_keep_their_times_and_what_is_empty_is_null(
    place: tuple[str, Put], settings: Settings
) -> None:
    where, put = place
    lines = [
        "2025-07-29T00:00:00Z,BTC,0.0000125,100.5,1,2000.0,0.0003,118000.0,118010.5,118005.0,1,1",
        "2025-07-29T00:00:00Z,xyz:AAPL,0.0000125,3,1,5.0,,201.5,201.25,,,",
        "2025-07-29T00:00:31.250Z,BTC,0.0000125,101.5,1,2000.0,0.0003,118000.0,118011.5,118005.0,1,1",
        "2025-07-29T00:01:00Z,BTC,none,100.5,1,2000.0,0.0003,118000.0,118010.5,118005.0,1,1",
        "2025-07-29T00:02:00Z,BTC,0.1",
        "2025-07-29T00:03:00Z,BTC,0.0000125,100.5,1,2000.0,0.0003,118000.0,-1,118005.0,1,1",
    ]
    put(context_key(DAY), packed([HEADER.encode(), *(line.encode() for line in lines)]))
    with Lake.open(settings) as lake:
        source = ArchiveContextSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        assert await fill_in(source, BackfillRequest(DAY, DAY + DAY_NS), lake) == {}
        found = rows(lake, "contexts")
        reasons = sorted(row["reason"] for row in rows(lake, "quarantine"))
    said = {(row["instrument"], (row["ts_recv_ns"] - DAY) / NS, row["mark"], row["mid"]) for row in found}
    assert said == {
        ("hyperliquid|perp|BTC", 0.0, 118_010.5, 118_005.0),
        ("hyperliquid|perp|BTC", 31.25, 118_011.5, 118_005.0),
        ("hyperliquid|perp|xyz:AAPL", 0.0, 201.25, None),
    }
    apple = next(row for row in found if row["instrument"].endswith("AAPL"))
    assert (apple["premium"], apple["mid"], apple["open_interest"], apple["oracle"]) == (
        None,
        None,
        3.0,
        201.5,
    )
    assert apple["ts_knowable_ns"] == apple["ts_recv_ns"] + 1_100 * MS_NS
    assert len(reasons) == 3
    assert reasons[0] == "3 columns, not 12"
    assert reasons[1] == "its time or one of its numbers cannot be read"
    assert reasons[2].startswith("mark is -1")


@pytest.mark.parametrize(
    ("lines", "coins", "reason"),
    [
        (
            [HEADER, "2025-07-29T00:00:00Z,BTC,0,1,1,1,0,1,1,1,1,1"],
            ("btc",),
            "it has no row of btc; names are byte-exact",
        ),
        (
            ["time,coin,funding", "2025-07-29,BTC,0"],
            (),
            "it has no column open_interest (has time, coin, funding)",
        ),
    ],
)
async def test_an_unreadable_day_is_absent_with_its_reason(
    place: tuple[str, Put], settings: Settings, lines: list[str], coins: tuple[str, ...], reason: str
) -> None:
    where, put = place
    put(context_key(DAY), packed([line.encode() for line in lines]))
    with Lake.open(settings) as lake:
        source = ArchiveContextSource(objects_at(where, settings.home), settings, ManualTime(LATER))
        absent = await fill_in(source, BackfillRequest(DAY, DAY + DAY_NS, coins), lake)
    assert list(absent.values()) == [f"asset_ctxs/20250729.csv.lz4: {reason}"]
