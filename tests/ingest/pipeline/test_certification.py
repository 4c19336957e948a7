"""Certification of a recording's bars by the answers in its journal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ingest.pipeline.processor import Pipeline
from ingest.replay.replay import replay
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.ingest.pipeline.scripts import START_NS, Script, latest, minute_of, run
from tests.storage.rows import UNSTAMPED

HOUR_S = 3_600
SETTINGS = load_settings(environ={})


def watched(minutes: int = 6, *, silent: tuple[int, ...] = (), from_s: float = 0) -> Script:
    """Three prints a minute at 100, 101 and 100.5, of one unit each; the quote moves every second."""
    script = Script().open(from_s).known(from_s + 0.1).alive(from_s + 0.6, 60 * minutes + 5)
    for minute in range(minutes):
        for second, price in ((5, "100.0"), (25, "101.0"), (45, "100.5")):
            if minute not in silent:
                script.print(60 * minute + second, px=price)
    return script


def candle(minute: int, **changes: Any) -> dict[str, Any]:
    open_ms = Script.venue_ms(60 * minute)
    made = {"t": open_ms, "T": open_ms + 59_999, "s": "BTC", "i": "1m", "n": 3, "v": "3.0"}
    return made | {"o": "100.0", "h": "101.0", "l": "100.0", "c": "100.5"} | changes


def flat(minute: int) -> dict[str, Any]:
    return candle(minute, o="100.5", h="100.5", l="100.5", c="100.5", v="0.0", n=0)


def told(script: Script, at_s: float, *candles: dict[str, Any], width: str = "1m") -> Script:
    """Add the venue's answer with its candles of the first hour."""
    req = {
        "coin": "BTC",
        "interval": width,
        "startTime": Script.venue_ms(0),
        "endTime": Script.venue_ms(HOUR_S) - 1,
    }
    return script.answer(at_s, {"type": "candleSnapshot", "req": req}, list(candles))


def certified(rows: dict[str, Any]) -> list[int]:
    return sorted(minute for minute, row in latest(rows["bars"]).items() if row["certified"])


def unlike(rows: dict[str, Any]) -> list[tuple[int, str, float | None, float | None, str]]:
    return [
        (minute_of(row), row["differs"], row["ours"], row["theirs"], row["checked"])
        for row in rows.get("discrepancies", [])
    ]


def fed(script: Script, settings: Settings = SETTINGS) -> Pipeline:
    pipeline = Pipeline("made", settings, is_capture=False)
    for record in script.sorted():
        pipeline.process(record)
    return pipeline


def asks(pipeline: Pipeline, at_s: float) -> list[dict[str, Any]]:
    return [
        ask["req"]
        for ask in pipeline.repairs.due_requests(START_NS + round(at_s * NS))
        if ask["type"] == "candleSnapshot"
    ]


def test_a_bar_whose_candle_agrees_is_certified_by_a_revision_of_its_own() -> None:
    script = told(watched(), 600, *(candle(n) for n in range(6))).clock(601)
    _, rows = run(script)
    assert certified(rows) == [0, 1, 2, 3, 4, 5]
    first, second = [row for row in rows["bars"] if minute_of(row) == 2]
    assert (first["certified"], second["certified"], second["revision"]) == (False, True, 1)
    assert second["ts_knowable_ns"] == START_NS + 600 * NS
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"certified", "revision", "ts_knowable_ns", "ts_available_ns"}
    assert unlike(rows) == []


def test_a_blind_bar_is_certified_only_after_its_count_has_shown_that_it_is_whole() -> None:
    """The subscription began within the first minute."""
    script = told(watched(from_s=3), 600, *(candle(n) for n in range(6)))
    _, rows = run(script.clock(601))
    assert latest(rows["bars"])[0]["status"] == "blind"
    assert certified(rows) == [1, 2, 3, 4, 5]
    _, rows = run(told(script, 700, *(candle(n) for n in range(6))).clock(701))
    said = [(row["status"], row["repaired"], row["certified"]) for row in rows["bars"] if minute_of(row) == 0]
    assert said == [("blind", False, False), ("printed", True, False), ("printed", True, True)]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"n": 4}, [("trades", 3.0, 4.0)]),
        ({"v": "3.1"}, [("volume", 3.0, 3.1)]),
        ({"c": "101.0"}, [("close", 100.5, 101.0)]),
        ({"o": "100.5", "h": "102.0"}, [("open", 100.0, 100.5), ("high", 101.0, 102.0)]),
    ],
)
def test_what_differs_within_the_hour_is_told_and_looked_at_again(
    changes: dict[str, Any], differs: list[tuple[str, float, float]]
) -> None:
    candles = [candle(n) for n in range(6)]
    candles[3] = candle(3, **changes)
    script = told(watched(), 600, *candles)
    told(script, HOUR_S + 300, *(candle(n) for n in range(6))).clock(HOUR_S + 301)
    _, rows = run(script)
    assert [row[1:4] for row in unlike(rows)] == differs
    assert {row[0] for row in unlike(rows)} == {3}
    assert {row[4] for row in unlike(rows)} == {"T+2m"}
    assert certified(rows) == [0, 1, 2, 3, 4, 5], "the venue's candle changed, and agrees now"
    assert "queued" not in [row["outcome"] for row in rows.get("repairs", []) if minute_of(row) == 3]


def test_what_differs_an_hour_later_goes_to_the_archive() -> None:
    candles = [candle(n) for n in range(6)]
    candles[3] = candle(3, n=5, v="5.0")
    script = told(watched(), HOUR_S + 300, *candles)
    told(script, HOUR_S + 400, *candles).clock(HOUR_S + 401)
    _, rows = run(script)
    assert unlike(rows) == [(3, "volume", 3.0, 5.0, "T+1h"), (3, "trades", 3.0, 5.0, "T+1h")]
    queued = [
        (row["outcome"], row["trades"], row["venue_trades"]) for row in rows["repairs"] if minute_of(row) == 3
    ]
    assert queued == [("queued", 3, 5)]
    assert certified(rows) == [0, 1, 2, 4, 5]


def test_an_omitted_candle_of_a_quiet_minute_says_nothing_and_a_flat_one_certifies_it() -> None:
    """VENUES.md F15: a minute without a print is omitted, and later it is flat."""
    candles = [candle(n) for n in range(6) if n != 3]
    script = told(watched(silent=(3,)), 600, *candles)
    assert certified(run(script.clock(601))[1]) == [0, 1, 2, 4, 5]
    told(script, HOUR_S + 300, flat(3)).clock(HOUR_S + 301)
    _, rows = run(script)
    assert certified(rows) == [0, 1, 2, 3, 4, 5]
    assert latest(rows["bars"])[3]["status"] == "quiet"
    assert unlike(rows) == []


def test_prints_without_a_candle_an_hour_later_are_a_discrepancy() -> None:
    script = told(watched(), 600, candle(1))
    assert unlike(run(script.clock(601))[1]) == []
    told(script, HOUR_S + 300, *(candle(n) for n in (0, 2, 4, 5))).clock(HOUR_S + 301)
    assert unlike(run(script)[1]) == [(3, "candle", 3.0, None, "T+1h")]


def test_a_candle_that_is_too_young_is_not_believed() -> None:
    _, rows = run(told(watched(), 360 + 61, *(candle(n) for n in range(6))).clock(430))
    assert certified(rows) == [0, 1, 2, 3, 4]


def test_a_late_print_makes_another_bar_of_a_certified_one() -> None:
    settings = load_settings(overrides={"bars.widths": ["5m"]}, environ={})
    script = told(watched(12), 425, candle(0, i="5m", n=15, v="15.0"), width="5m")
    script.print(430, event_s=290.0, px="100.2")
    _, rows = run(script.clock(610), settings)
    said = [(row["certified"], row["trades"]) for row in rows["bars"] if minute_of(row) == 0]
    assert said == [(False, 15), (True, 15), (False, 16)]


def test_counts_are_left_out_where_the_setting_says_so() -> None:
    settings = load_settings(overrides={"bars.candle_trades": "ignore"}, environ={})
    _, rows = run(told(watched(), 600, *(candle(n, n=6) for n in range(6))).clock(601), settings)
    assert certified(rows) == [0, 1, 2, 3, 4, 5]


def test_one_question_an_hour_asks_for_all_bars_of_a_coin() -> None:
    pipeline = fed(watched(70))
    close_s = 60  # of the first bar
    assert asks(pipeline, close_s + HOUR_S - 1) == []
    (req,) = asks(pipeline, close_s + HOUR_S)
    assert req == {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(0),
        "endTime": Script.venue_ms(close_s + HOUR_S - 120) - 1,
    }
    assert weight_of({"type": "candleSnapshot"}, (req["endTime"] + 1 - req["startTime"]) // 60_000) == 21
    assert asks(pipeline, close_s + HOUR_S + 60) == [], "asked, and not yet answered"
    assert len(asks(pipeline, close_s + HOUR_S + 600)) == 1, "asked again where no answer came"


def test_a_setting_turns_it_off() -> None:
    settings = load_settings(overrides={"record.certify": "false"}, environ={})
    assert asks(fed(watched(70), settings), 2 * HOUR_S) == []
    assert certified(run(told(watched(), 600, *(candle(n) for n in range(6))).clock(601), settings)[1]) == []


def test_many_coins_are_asked_for_at_half_of_the_weight() -> None:
    """All coins' bars are due at once; the requests of an hour use at most half of the rate limit."""
    coins = tuple(f"C{n}" for n in range(120))
    script = Script(coins).open(0, 0, *coins)
    for coin in coins:
        script.known(0.1, coin=coin)
    for minute in range(4):
        for second in range(0, 60, 20):
            for coin in coins:
                script.bbo(60 * minute + second + 0.6, coin=coin)
    script.pong(241.5)  # the last bar is whole
    pipeline = fed(script.clock(246))
    spent: list[tuple[int, int]] = []
    asked = []
    for at_s in range(HOUR_S + 180, HOUR_S + 1_200):
        for req in asks(pipeline, at_s):
            spent.append((at_s, weight_of({"type": "candleSnapshot"}, 60)))
            asked.append(req["coin"])
    assert sorted(asked[:120]) == sorted(coins), "every coin once before any is asked for again"
    for start_s in range(HOUR_S + 180, HOUR_S + 1_200, 7):
        in_a_minute = sum(weight for at_s, weight in spent if start_s <= at_s < start_s + 60)
        assert in_a_minute <= SETTINGS.record.rest_weight_per_minute / 2


def test_what_waits_is_bounded_by_two_hours() -> None:
    pipeline = fed(watched(6).clock(2 * HOUR_S + 600))
    asked = asks(pipeline, 2 * HOUR_S + 600)
    assert asked, "of bars that are blind"
    assert all(req["startTime"] > Script.venue_ms(360) for req in asked)


def test_a_recording_and_its_replay_certify_the_same_also_across_a_restart(tmp_path: Path) -> None:
    """The second recording restores the bars that wait, and its answer certifies those of the first."""
    settings = dataclasses.replace(SETTINGS, home=tmp_path / "home")
    first = watched(6).stop(366)
    second = Script().open(400).alive(400.6, 600)
    told(second, HOUR_S, *(candle(n) for n in range(6))).clock(HOUR_S + 1)
    second.records[0] = dataclasses.replace(second.records[0], recv_ns=START_NS + 399 * NS)
    folders = [first.write(settings.journal_dir / "one"), second.write(settings.journal_dir / "two")]
    tables = []
    for home in (settings.home, tmp_path / "other"):
        with Lake.open(dataclasses.replace(settings, home=home)) as lake:
            for folder in folders:
                replay(folder, dataclasses.replace(settings, home=home), lake)
            tables.append(lake.query(f"SELECT {UNSTAMPED} FROM bars ORDER BY ALL"))
    assert tables[0] == tables[1]
    rows = [row for row in tables[0].to_pylist() if row["certified"]]
    assert sorted(minute_of(row) for row in rows) == [0, 1, 2, 3, 4, 5]
    assert {row["revision"] for row in rows} <= {1, 2}
