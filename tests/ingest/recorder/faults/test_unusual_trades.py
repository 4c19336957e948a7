"""Unusual prints."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from ingest.journal.reader import read_journal
from ingest.simulator.faults.faults import Disconnect, Duplicate, Reorder
from storage.settings import Settings, load_settings
from tests.ingest.recorder.faults.rig import BY_NAME, Spoken, Taken, market, ms, since_s, taped

HASH, ZERO = "0x" + "ab" * 32, "0x" + "0" * 64
# A coin that prints only what these tests say.
STILL = dataclasses.replace(BY_NAME["AVAX"], name="STILL", prints_per_minute=0.001)
STILL_ID = "hyperliquid|perp|STILL"


def batch(*rows: dict[str, Any]) -> str:
    """Return a message of prints, each given by its unusual fields."""
    usual = {"coin": "STILL", "side": "B", "px": "25.0", "sz": "2.0", "hash": HASH, "time": ms(20), "tid": 1}
    return json.dumps({"channel": "trades", "data": [usual | row for row in rows]}, separators=(",", ":"))


BLOCK = batch(*({"tid": tid, "time": ms(11)} for tid in range(7)))
UNORDERED = ((21.0, 900), (25.0, 105), (39.0, 104))
NEWEST_FIRST = batch(*({"tid": 200 + n, "time": ms(40 + n), "px": f"{26 - n}.0"} for n in (2, 1, 0)))
FORMS = [
    batch({"time": ms(50), "tid": 300, "px": "25.0", "sz": "2.0"}),
    batch({"time": ms(50), "tid": 301, "px": 25.0, "sz": 2}),
    batch({"time": str(ms(50)), "tid": "302"}),
]
WRONG = [
    batch({"time": ms(60), "tid": 400} | form)
    for form in (
        {"time": ms(60) + 0.5},
        {"px": "dear"},
        {"px": None},
        {"sz": "0.0"},
        {"tid": -1},
        {"time": ms(60) * 1_000},
    )
]
SAID = [
    *((at_s, BLOCK) for at_s in (12.0, 14.0)),
    (13.0, batch({"tid": 3, "time": ms(13)})),
    (15.0, batch({"tid": 3, "time": ms(13), "px": "26.0"})),
    *((at_s, batch({"tid": tid, "time": ms(at_s), "hash": ZERO})) for at_s, tid in UNORDERED),
    (43.0, NEWEST_FIRST),
    *((52.0 + n, text) for n, text in enumerate(FORMS)),
    *((60.0 + n, text) for n, text in enumerate(WRONG)),
    (69.0, batch({"tid": 500, "time": ms(69)})),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """A recording of a coin with exactly the messages `SAID`; the connection is lost once."""
    settings = load_settings(overrides={"home": tmp_path_factory.mktemp("told")}, environ={})
    source = Spoken(((at_s, "trades:STILL", text) for at_s, text in SAID), coins=(BY_NAME["BTC"], STILL))
    lost = Disconnect(at_s=30.0, outage_s=2.0)
    return asyncio.run(taped(settings, lost, source=source, record={"coins": ("BTC", "STILL")}))


def stored(run: Taken, from_s: float, to_s: float) -> list[dict[str, Any]]:
    """Return the still coin's prints of an interval."""
    return [row for row in run.of("trades", STILL_ID) if from_s <= since_s(row["ts_event"]) < to_s]


def keys(rows: list[dict[str, Any]]) -> list[tuple[float, int]]:
    return [(since_s(row["ts_event"]), row["tid"]) for row in rows]


def test_prints_of_one_millisecond_and_hash_are_all_kept(told: Taken) -> None:
    """Seven of one block, sent twice, and one tid again at another time: the key is (instrument, time, tid)."""
    assert keys(stored(told, 10.0, 20.0)) == [*((11.0, tid) for tid in range(7)), (13.0, 3)]
    assert [row["trades"] for row in told.bars(STILL_ID, 10.0, 20.0)] == [8]


def test_one_key_with_other_values_is_set_aside(told: Taken) -> None:
    assert {row["price"] for row in stored(told, 10.0, 20.0)} == {25.0}
    assert f"print 3 at {ms(13)} came again with other values" in told.reasons


def test_tids_without_order_and_legs_without_a_hash_are_stored(told: Taken) -> None:
    """The smallest tid comes after the largest one, so a reconnect cannot deduplicate by the largest tid."""
    rows = stored(told, 20.0, 40.0)
    assert keys(rows) == list(UNORDERED)
    assert {row["is_twap"] for row in rows} == {True}
    assert {row["is_twap"] for row in stored(told, 10.0, 20.0)} == {False}


def test_a_batch_that_comes_newest_first_makes_the_bar_of_its_times(told: Taken) -> None:
    (bar,) = told.bars(STILL_ID, 40.0, 50.0)
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (26.0, 26.0, 24.0, 24.0)


def test_numbers_and_texts_say_the_same_and_the_journal_keeps_what_came(told: Taken) -> None:
    rows = stored(told, 50.0, 60.0)
    assert keys(rows) == [(50.0, 300), (50.0, 301), (50.0, 302)]
    assert {(row["price"], row["size"], row["side"]) for row in rows} == {(25.0, 2.0, "buy")}
    kept = {record.body for record in read_journal(told.settings.journal_dir / "taped")}
    assert all(text.encode() in kept for _, text in SAID)


def test_a_number_that_is_none_goes_into_quarantine_whole(told: Taken) -> None:
    raws = [row["raw"].decode() for row in told.of("quarantine")]
    assert [raws.count(text) for text in WRONG] == [1] * len(WRONG)
    assert keys(stored(told, 60.0, 90.0)) == [(69.0, 500)], "and the next good one is taken"
    assert all(told.reasons)


async def test_prints_late_by_more_than_the_lateness_revise_their_bars(settings: Settings) -> None:
    """Half of all messages come up to 70 s late, many twice: the final bars equal those of an ordered feed."""
    tidy = await taped(settings, source=market(span_s=120.0))
    home = dataclasses.replace(settings, home=settings.home / "late")
    faults = (Reorder(share=0.5, window_s=75.0), Duplicate(share=0.2))
    shuffled = await taped(home, *faults, source=market(span_s=120.0))
    assert shuffled.done is not None
    assert shuffled.done.counts.late > 10
    assert shuffled.is_each_print_stored_once()
    assert max(row["revision"] for row in shuffled.of("bars")) >= 2
    assert folded(shuffled) == folded(tidy)
    assert len(folded(tidy)) >= 22


def folded(run: Taken) -> list[tuple[Any, ...]]:
    """Return the bars after adding prints."""
    names = ("instrument", "ts_open", "open", "high", "low", "close", "volume", "buy_volume", "trades")
    return [tuple(row[name] for name in names) for row in run.of("bars_latest")]
