"""F10 to F14: what prints look like that no one would have made up."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ingest.journal import read_journal
from ingest.venues.faults import Disconnect, Duplicate, Reorder
from storage.settings import Settings
from tests.ingest.faults.rig import BY_NAME, Spoken, Taken, market, ms, since_s, taped

HASH, ZERO = "0x" + "ab" * 32, "0x" + "0" * 64
# A coin that prints only what a test says.
STILL = dataclasses.replace(BY_NAME["AVAX"], name="STILL", prints_per_minute=0.001)
STILL_ID = "hyperliquid|perp|STILL"


def batch(*rows: dict[str, Any]) -> str:
    """Return a message of prints, each given by what is not as usual."""
    usual = {"coin": "STILL", "side": "B", "px": "25.0", "sz": "2.0", "hash": HASH, "time": ms(20), "tid": 1}
    return json.dumps({"channel": "trades", "data": [usual | row for row in rows]}, separators=(",", ":"))


async def told(settings: Settings, *said: tuple[float, str], faults: tuple[Any, ...] = ()) -> Taken:
    """Record a market in which the still coin's prints are `said`: (seconds, text)."""
    source = Spoken(
        ((at_s, "trades:STILL", text) for at_s, text in said), coins=(BY_NAME["BTC"], STILL), span_s=60.0
    )
    return await taped(settings, *faults, source=source, record={"coins": ("BTC", "STILL")})


def mine(run: Taken) -> list[tuple[float, int]]:
    """Return (second, tid) of the still coin's stored prints."""
    return [
        (since_s(row["ts_event"]), row["tid"])
        for row in run.of("trades", STILL_ID)
        if row["price"] in (25.0, 26.0, 27.0)
    ]


async def test_f10_prints_of_one_millisecond_and_hash_are_all_kept(settings: Settings) -> None:
    """Seven of one block, and one of them again at another time: the key is (instrument, time, tid)."""
    block = batch(*({"tid": tid} for tid in range(7)))
    run = await told(settings, (20.0, block), (21.0, batch({"tid": 3, "time": ms(21)})), (22.0, block))
    assert mine(run) == [*((20.0, tid) for tid in range(7)), (21.0, 3)]
    assert {row["trades"] for row in run.bars(STILL_ID, 20.0, 30.0)} == {8}
    assert run.tables["quarantine"] == []


async def test_f10_one_key_with_other_values_is_set_aside(settings: Settings) -> None:
    run = await told(settings, (20.0, batch({})), (21.0, batch({"px": "26.0"})))
    assert [row["price"] for row in run.of("trades", STILL_ID) if row["tid"] == 1] == [25.0]
    assert run.reasons == [f"print 1 at {ms(20)} came again with other values"]


async def test_f11_tids_without_order_and_legs_without_a_hash_are_stored(settings: Settings) -> None:
    """No reconnect asks only for tids above the largest one: later prints have smaller ones."""
    said = ((20.0, 900), (25.0, 5), (40.0, 4))
    texts = [(at_s, batch({"tid": tid, "time": ms(at_s), "hash": ZERO})) for at_s, tid in said]
    run = await told(settings, *texts, faults=(Disconnect(at_s=30.0, outage_s=2.0),))
    assert mine(run) == list(said)
    assert {row["is_twap"] for row in run.of("trades", STILL_ID) if row["price"] == 25.0} == {True}


async def test_f12_a_batch_that_comes_newest_first_makes_the_same_bar(settings: Settings) -> None:
    rows = [{"tid": n, "time": ms(20 + n), "px": px} for n, px in enumerate(("26.0", "25.0", "27.0"))]
    run = await told(settings, (23.0, batch(*reversed(rows))))
    (bar,) = run.bars(STILL_ID, 20.0, 30.0)
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (26.0, 27.0, 25.0, 27.0)


async def test_f13_prints_late_by_more_than_the_lateness_revise_their_bars(settings: Settings) -> None:
    """Half of all messages come up to 70 s late, many twice: in the end the bars are those of a tidy feed."""
    source = {"source": market(span_s=150.0)}
    tidy = await taped(settings, **source)
    home = dataclasses.replace(settings, home=settings.home / "late")
    shuffled = await taped(home, Reorder(share=0.5, window_s=70.0), Duplicate(share=0.2), **source)
    assert shuffled.done is not None
    assert shuffled.done.counts.late > 10
    assert shuffled.is_each_print_stored_once()
    assert max(row["revision"] for row in shuffled.of("bars")) >= 2
    assert folded(shuffled) == folded(tidy)
    assert len(folded(tidy)) >= 28


def folded(run: Taken) -> list[tuple[Any, ...]]:
    """Return what prints make of the bars."""
    names = ("instrument", "ts_open", "open", "high", "low", "close", "volume", "buy_volume", "trades")
    return [tuple(row[name] for name in names) for row in run.of("bars_latest")]


async def test_f14_numbers_and_texts_say_the_same_and_the_journal_keeps_what_came(settings: Settings) -> None:
    forms: list[dict[str, Any]] = [
        {"tid": 1, "px": "25.0", "sz": "2.0"},
        {"tid": 2, "px": 25.0, "sz": 2},
        {"tid": "3", "time": str(ms(20))},
    ]
    texts = [batch(form) for form in forms]
    run = await told(settings, *((20.0, text) for text in texts))
    assert mine(run) == [(20.0, 1), (20.0, 2), (20.0, 3)]
    values = ("price", "size", "side", "ts_event")
    assert len({tuple(row[n] for n in values) for row in run.of("trades", STILL_ID, price=25.0)}) == 1
    kept = [record.body for record in read_journal(run.settings.journal_dir / "taped")]
    assert [text.encode() in kept for text in texts] == [True] * 3


async def test_f14_a_number_that_is_none_goes_into_quarantine_whole(settings: Settings) -> None:
    wrong: list[dict[str, Any]] = [
        {"time": ms(20) + 0.5},
        {"px": "dear"},
        {"px": None},
        {"sz": "0.0"},
        {"tid": -1},
        {"time": ms(20) // 1000 * 10**9},
    ]
    texts = [batch(form) for form in wrong]
    run = await told(settings, *((20.0 + n, text) for n, text in enumerate(texts)), (30.0, batch({})))
    assert mine(run) == [(20.0, 1)], "and the next good one is taken"
    assert [row["raw"].decode() for row in sorted(run.of("quarantine"), key=lambda r: r["ts_knowable_ns"])] == texts
    assert all(run.reasons)
