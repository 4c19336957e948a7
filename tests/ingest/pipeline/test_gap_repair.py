"""Gap repair: what the venue's answers settle, and what is queued for the archive."""

from __future__ import annotations

from typing import Any

import pytest

from ingest.journal.records import Record
from ingest.pipeline.processor import Pipeline
from storage.clock import NS
from storage.settings import load_settings
from tests.ingest.pipeline.scripts import START_NS, Script, latest, run

BTC = "hyperliquid|perp|BTC"


def broken(*, lost: int = 0) -> Script:
    """One print a second; the socket is down from 70 s to 80 s, and `lost` prints of that time are not resent.

    With 0 nothing is resent at all.
    """
    script = Script().open(0)
    made = [script.a_print(n + 0.25) for n in range(200)]
    for n, item in enumerate(made):
        if not 70 <= n < 80:
            connection = int(n >= 80)
            script.bbo(n + 0.5, connection=connection).prints(n + 0.75, [item], connection)
    resent = made[70 + lost : 80] if lost else []
    script.close(70, 0).open(80, 1)
    if resent:
        script.prints(80.4, resent, 1)
    return script


def candle(minute: int, trades: int, **changes: Any) -> dict[str, Any]:
    made = {"s": "BTC", "i": "1m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "n": trades}
    open_ms = Script.venue_ms(60 * minute)
    return made | {"t": open_ms, "T": open_ms + 59_999} | changes


def told(script: Script, at_s: float, *candles: dict[str, Any], minute: int = 1) -> Script:
    """Add the venue's answer with its candles of a minute."""
    req = {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(60 * minute),
        "endTime": Script.venue_ms(60 * minute + 60) - 1,
    }
    return script.answer(at_s, {"type": "candleSnapshot", "req": req}, list(candles))


def outcomes(rows: dict[str, Any], minute: int = 1) -> list[tuple[str, int | None, int | None]]:
    wanted = START_NS + 60 * minute * NS
    return [
        (row["outcome"], row["trades"], row["venue_trades"])
        for row in rows.get("repairs", [])
        if row["width"] == "1m" and round(row["ts_open"].timestamp() * NS) == wanted
    ]


def test_a_candle_that_counts_what_we_hold_repairs_the_bar() -> None:
    """Ten prints happen while the socket is down; the resent batch has them but does not reach back to the loss."""
    script = told(broken(lost=1).clock(240), 245, candle(1, 59)).clock(310)
    _, rows = run(script)
    said = [row for row in rows["bars"] if row["ts_open"].minute == 1]
    assert [(row["status"], row["repaired"], row["trades"]) for row in said][-1] == ("printed", True, 59)
    assert said[0]["status"] == "blind"
    assert outcomes(rows) == [("confirmed", 59, 59)]
    proof = [row for row in rows["coverage"] if row["evidence"] == "venue_statement"]
    assert [(row["kind"], row["bridged"], row["channel"]) for row in proof] == [("gap", True, "trades")]


def test_a_candle_that_counts_more_leaves_the_bar_blind_and_in_the_end_to_the_archive() -> None:
    script = broken(lost=3).clock(240)
    told(script, 245, candle(1, 60))
    told(script, 3_800, candle(1, 60)).clock(3_900)
    _, rows = run(script)
    assert outcomes(rows) == [("short", 57, 60), ("queued", 57, 60)]
    assert (latest(rows["bars"])[1]["status"], latest(rows["bars"])[1]["repaired"]) == ("blind", False)


def test_the_second_look_an_hour_later_may_confirm_what_the_first_could_not() -> None:
    """The venue's candle of a minute may be absent at first."""
    script = told(broken(lost=1).clock(240), 245)
    told(script, 3_800, candle(1, 59)).clock(3_900)
    _, rows = run(script)
    assert outcomes(rows) == [("short", 59, None), ("confirmed", 59, 59)]
    assert latest(rows["bars"])[1]["repaired"]


def test_without_an_answer_the_bar_goes_to_the_archive_an_hour_later() -> None:
    _, rows = run(broken(lost=3).clock(4_200))
    assert outcomes(rows) == [("queued", None, None)]


@pytest.mark.parametrize("changes", [{"s": "ETH"}, {"i": "5m"}, {"t": Script.venue_ms(120)}])
def test_a_candle_of_something_else_settles_nothing(changes: dict[str, Any]) -> None:
    _, rows = run(told(broken(lost=1).clock(240), 245, candle(1, 59, **changes)).clock(310))
    assert outcomes(rows) == [("short", 59, None)]


def test_an_answer_that_does_not_fit_is_quarantined() -> None:
    _, rows = run(told(broken(lost=1).clock(240), 245, {"s": "BTC"}).clock(310))
    assert [row["table_name"] for row in rows["quarantine"]] == ["answers"]
    assert outcomes(rows) == []


def test_the_newest_trades_bridge_a_loss_that_they_reach_back_over() -> None:
    """Two prints were resent; the recent trades, requested at once, contain those before the loss and those in it."""
    script = broken()
    prints = [script.a_print(n + 0.25, tid=n + 1) for n in range(68, 80)][::-1]
    script.prints(80.4, prints[:2], 1)
    _, before = run(script)
    assert latest(before["bars"])[1]["status"] == "blind"
    script.answer(81, {"type": "recentTrades", "coin": "BTC"}, prints)
    _, rows = run(script)
    bar = latest(rows["bars"])[1]
    assert (bar["status"], bar["repaired"], bar["trades"]) == ("printed", True, 60)
    origins = [row["origin"] for row in rows["trades"]]
    assert (origins.count("recent"), len(origins)) == (8, 200)


def test_the_newest_trades_that_do_not_reach_back_are_stored_and_prove_nothing() -> None:
    script = broken()
    prints = [script.a_print(n + 0.25, tid=n + 1) for n in range(74, 80)][::-1]
    script.prints(80.4, prints[:2], 1).answer(81, {"type": "recentTrades", "coin": "BTC"}, prints)
    bar = latest(run(script)[1]["bars"])[1]
    assert (bar["status"], bar["trades"]) == ("blind", 56)


def test_a_print_of_another_coin_in_the_answer_is_quarantined() -> None:
    script = broken(lost=1)
    script.answer(81, {"type": "recentTrades", "coin": "BTC"}, [script.a_print(75.25, coin="ETH")])
    _, rows = run(script)
    assert [row["reason"] for row in rows["quarantine"]] == ["a print of 'ETH' came in an answer about 'BTC'"]
    assert len(rows["trades"]) == 199


def fed(records: list[Record]) -> Pipeline:
    pipeline = Pipeline("made", load_settings(environ={}), is_capture=False)
    for record in records:
        pipeline.process(record)
    return pipeline


def asks(pipeline: Pipeline, at_s: float, kind: str) -> list[dict[str, Any]]:
    return [ask for ask in pipeline.repairs.due_requests(START_NS + round(at_s * NS)) if ask["type"] == kind]


def test_the_newest_trades_are_asked_for_once_where_the_resent_do_not_reach_back() -> None:
    pipeline = fed(broken(lost=1).sorted())
    assert asks(pipeline, 200, "recentTrades") == [{"type": "recentTrades", "coin": "BTC"}]
    assert asks(pipeline, 200, "recentTrades") == []


def test_a_candle_is_asked_for_two_minutes_and_an_hour_after_the_close() -> None:
    pipeline = fed(broken(lost=1).clock(239).sorted())
    close_s = 120.0
    assert asks(pipeline, close_s + 119, "candleSnapshot") == []
    first = asks(pipeline, close_s + 120, "candleSnapshot")
    assert first[0]["req"] == {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(60),
        "endTime": Script.venue_ms(120) - 1,
    }
    assert asks(pipeline, close_s + 121, "candleSnapshot") == []
    answered = told(broken(lost=1).clock(239), 245, minute=1).clock(300)
    pipeline = fed(answered.sorted())
    started = [ask["req"]["startTime"] for ask in asks(pipeline, close_s + 3_599, "candleSnapshot")]
    assert Script.venue_ms(60) not in started
    started = [ask["req"]["startTime"] for ask in asks(pipeline, close_s + 3_600, "candleSnapshot")]
    assert Script.venue_ms(60) in started


def test_an_unanswered_question_is_asked_again_two_minutes_later() -> None:
    pipeline = fed(broken(lost=1).clock(239).sorted())
    times = [at for at in range(240, 700, 10) if asks(pipeline, at, "candleSnapshot")]
    assert times == [240, 370, 500, 630]


def test_what_is_open_is_bounded_by_the_hour() -> None:
    """After a venue has been down for a day, the bars of its last hour are still open for revision."""
    records = Script().open(0).close(1).clock(86_400).sorted()
    pipeline = fed(records)
    held = pipeline.repairs.open_bars
    assert held <= (3_600 + 300 + 120) // 60
    rows = pipeline.drain()["repairs"].to_pylist()
    assert {row["outcome"] for row in rows} == {"queued"}
    assert len(rows) + held == 86_400 // 60 - 1 == len({row["ts_open"] for row in rows}) + held


def test_every_outcome_names_a_bar_that_was_published_blind() -> None:
    _, rows = run(told(broken(lost=3).clock(240), 245, candle(1, 60)).clock(4_200))
    blind = {(row["width"], row["ts_open"]) for row in rows["bars"] if row["status"] == "blind"}
    assert rows["repairs"]
    assert {(row["width"], row["ts_open"]) for row in rows["repairs"]} <= blind
