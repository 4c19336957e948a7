"""Silence of trades: quiet needs evidence from the stream itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingest.bars.bar_status import QUIET, RULES, status_of, status_sql, statuses_of
from ingest.coverage.rhythm import LEAST_GAPS
from ingest.coverage.silence import CANDLE_COUNTS, RHYTHM_NOT_KNOWN, SILENT_TRADES, VOLUME_ROSE
from storage.lake.connection import connect_in_memory
from tests.ingest.pipeline.scripts import Script, latest, run

BTC = "hyperliquid|perp|BTC"
CONTEXT: dict[str, Any] = {
    "funding": "0.0",
    "openInterest": "1",
    "prevDayPx": "1",
    "dayNtlVlm": "1",
    "oraclePx": "1",
    "markPx": "1",
}


def known(minutes: float, *, every_s: float = 20.0) -> Script:
    """A stream whose rhythm is known, and quotes to the end; a print every 20 s allows a silence of 280 s."""
    return Script().open(0).known(0.05, every_s=every_s).alive(0.1, 60 * minutes + 5)


def statuses(script: Script, **options: Any) -> list[tuple[str, str]]:
    bars = latest(run(script, **options)[1]["bars"])
    return [(bars[minute]["status"], bars[minute]["cause"]) for minute in sorted(bars)]


def volume(script: Script, at_s: float, base: float, *, coin: str = "BTC", connection: int = 0) -> Script:
    data = {"coin": coin, "ctx": CONTEXT | {"dayBaseVlm": str(base)}}
    return script.frame(at_s, {"channel": "activeAssetCtx", "data": data}, connection)


def candles(script: Script, at_s: float, *counts: tuple[int, int]) -> Script:
    """Have the venue answer with candles of minutes and their numbers of trades."""
    made = []
    for minute, n in counts:
        open_ms = Script.venue_ms(60 * minute)
        made.append(
            {"t": open_ms, "T": open_ms + 59_999, "s": "BTC", "i": "1m", "n": n, "v": str(float(n))}
            | dict.fromkeys("ohlc", "1.0")
        )
    req = {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(0),
        "endTime": Script.venue_ms(3_600) - 1,
    }
    return script.answer(at_s, {"type": "candleSnapshot", "req": req}, made)


def test_the_same_rule_decides_for_one_bar_for_columns_and_in_sql() -> None:
    names = [flag for flag, _ in RULES]
    table = np.array(np.meshgrid(*[[False, True]] * len(names))).reshape(len(names), -1)
    flags = dict(zip(names, table, strict=True))
    one_by_one = [status_of(**{name: bool(flags[name][i]) for name in names}) for i in range(table.shape[1])]
    assert statuses_of(table.shape[1], **flags).tolist() == one_by_one
    with connect_in_memory() as run_sql:
        values = ", ".join(str(tuple(row.tolist())) for row in table.T)
        query = f"SELECT {status_sql(**{name: name for name in names})} FROM (VALUES {values}) AS t({', '.join(names)})"
        assert [row[0] for row in run_sql.execute(query).fetchall()] == one_by_one
    assert one_by_one.count(QUIET) == 1, "only where no flag is set"


def test_a_silence_within_the_rhythm_is_quiet_and_beyond_it_blind_since_the_last_print() -> None:
    """The rhythm allows 14 gaps of 20 s: at the fifth bar's publication the silence has lasted 292 s."""
    assert statuses(known(4)) == [("quiet", "")] * 4
    said = statuses(known(8))
    assert said == [("blind", SILENT_TRADES)] * 8


def test_with_fewer_than_twenty_gaps_the_silence_is_unknown() -> None:
    script = Script().open(0).alive(0.1, 185)
    script.prints(0.05, [script.a_print(-20.0 * n) for n in range(LEAST_GAPS, 0, -1)])
    assert statuses(script) == [("unknown", RHYTHM_NOT_KNOWN)] * 3
    script = Script().open(0).alive(0.1, 185)
    script.prints(0.05, [script.a_print(-20.0 * n) for n in range(LEAST_GAPS + 1, 0, -1)])
    assert statuses(script) == [("quiet", "")] * 3


def test_a_stream_that_dies_between_two_ticks_is_doubted_when_it_prints_again() -> None:
    """A silence of 300 s, where 293 s are allowed, and of which the publishing instant before saw 271 s."""
    script = known(6).print(30.5).print(330.5)
    assert statuses(script)[:5] == [("blind", SILENT_TRADES)] * 5
    script = known(6).print(30.5).print(290.5)
    assert [status for status, _ in statuses(script)[:5]] == ["printed", "quiet", "quiet", "quiet", "printed"]


def test_a_stream_that_dies_before_its_socket_is_doubted_when_the_socket_closes() -> None:
    script = known(4.8).print(3.5).close(290).open(295, 1).alive(295.1, 370, connection=1)
    assert statuses(script)[1:4] == [("blind", SILENT_TRADES)] * 3
    script = known(4.8).print(3.5).stop(290)
    assert statuses(script)[1:4] == [("blind", SILENT_TRADES)] * 3


def test_what_is_resent_with_overlap_restores_quiet() -> None:
    """The venue's last print is the last that we have: nothing was missing."""
    script = known(9)
    resent = [script.a_print(25.0), script.a_print(30.0)]
    script.prints(30.5, resent).unsubscribe(400).subscribe(400.1).prints(400.2, resent)
    _, rows = run(script)
    bars = latest(rows["bars"])
    assert [bars[m]["status"] for m in range(9)] == ["printed"] + ["quiet"] * 8
    assert [bars[m]["repaired"] for m in range(1, 6)] == [True] * 5
    history = [row["status"] for row in rows["bars"] if row["ts_open"].minute == 2]
    assert history == ["quiet", "blind", "quiet"]
    gap = [row for row in rows["coverage"] if row["cause"] == SILENT_TRADES][-1]
    assert (gap["bridged"], gap["evidence"], gap["channel"]) == (True, "overlap", "trades")


def test_what_is_resent_with_new_prints_completes_the_bars() -> None:
    script = known(9)
    old = [script.a_print(25.0), script.a_print(30.0)]
    script.prints(30.5, old).unsubscribe(400).subscribe(400.1)
    script.prints(400.2, [*old, script.a_print(150.0), script.a_print(390.0)])
    bars = latest(run(script)[1]["bars"])
    found = [(bars[m]["status"], bars[m]["trades"], bars[m]["repaired"]) for m in range(7)]
    assert found[2] == ("printed", 1, True)
    assert found[6] == ("printed", 1, True)
    assert {found[m][0] for m in (1, 3, 4, 5)} == {"quiet"}


def test_what_is_resent_without_overlap_leaves_the_silence_blind() -> None:
    script = known(9).print(30.5)
    script.unsubscribe(400).subscribe(400.1).prints(
        400.2, [script.a_print(390.0 + n / 10) for n in range(30)]
    )
    assert [status for status, _ in statuses(script)[:7]] == ["blind"] * 7


def test_a_proven_silence_is_part_of_the_rhythm() -> None:
    """After 370 s of proven silence, three times as much is allowed: no second doubt."""
    script = known(18)
    resent = [script.a_print(25.0), script.a_print(30.0)]
    script.prints(30.5, resent).unsubscribe(400).subscribe(400.1).prints(400.2, resent)
    assert [status for status, _ in statuses(script)] == ["printed"] + ["quiet"] * 17


def test_volume_that_rises_without_a_print_proves_that_prints_are_missing() -> None:
    script = volume(volume(known(4), 70.0, 10.0), 75.0, 11.0)
    assert statuses(script) == [("blind", VOLUME_ROSE)] * 4


@pytest.mark.parametrize(
    "changed",
    [
        lambda s: volume(volume(s, 70.0, 11.0), 75.0, 11.0),
        lambda s: volume(volume(s, 70.0, 11.0), 75.0, 10.0),
        lambda s: volume(volume(s, 70.0, 10.0), 75.0, 11.0).print(79.5),
        lambda s: volume(volume(s, 70.0, 10.0), 75.0, 11.0).print(65.5),
        lambda s: volume(volume(s, 70.0, 10.0), 75.0, 11.0, coin="ETH"),
        lambda s: volume(volume(s.open(60, 1), 70.0, 10.0, connection=1), 75.0, 11.0),
    ],
    ids=["same", "falls", "print after", "print before", "other coin", "other socket"],
)
def test_volume_that_does_not_rise_or_is_explained_proves_nothing(changed: Any) -> None:
    script = Script(("BTC", "ETH")).open(0, 0, "BTC", "ETH").known(0.05, every_s=20.0).alive(0.1, 245)
    assert {status for status, _ in statuses(changed(script))} <= {"quiet", "printed"}


def test_a_rise_is_doubted_since_the_last_print_and_until_the_next() -> None:
    script = volume(volume(known(6).print(30.5), 130.0, 10.0), 135.0, 11.0).print(200.5)
    said = statuses(script)
    assert said[:4] == [("blind", VOLUME_ROSE)] * 4
    assert said[4] == ("quiet", "")


def test_a_candle_without_trades_proves_an_unknown_silence() -> None:
    script = candles(Script().open(0).alive(0.1, 500), 430, (2, 0), (3, 4))
    said = statuses(script)
    assert said[1] == ("unknown", RHYTHM_NOT_KNOWN)
    assert said[2] == ("quiet", "")
    assert said[3] == ("blind", CANDLE_COUNTS)


def test_a_candle_with_trades_contradicts_a_quiet_bar() -> None:
    script = candles(known(4).print(230.5).alive(245, 500), 430, (0, 0), (1, 3), (2, 0))
    said = statuses(script)
    assert [said[minute][0] for minute in (0, 2)] == ["quiet", "quiet"]
    assert said[1] == ("blind", CANDLE_COUNTS)


def test_the_same_rule_holds_in_a_capture() -> None:
    script = known(8)
    script.records = script.records[4:]
    assert statuses(script, is_capture=True)[1:] == [("blind", SILENT_TRADES)] * 7


def test_a_doubted_stream_is_subscribed_again_once_in_five_minutes() -> None:
    pipeline, _ = run(known(20))
    silence, now_ns = pipeline.state.silence, pipeline.state.now_ns
    due = silence.due_renewals(now_ns)
    assert [(item.instrument, item.cause, item.is_repeated) for item in due] == [(BTC, SILENT_TRADES, False)]
    assert silence.due_renewals(now_ns + 299 * 10**9) == []
    assert [item.is_repeated for item in silence.due_renewals(now_ns + 300 * 10**9)] == [True]
