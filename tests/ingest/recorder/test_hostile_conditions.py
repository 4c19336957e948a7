"""Hostile conditions in which a recorder could lose rows or report false coverage."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from ingest.coverage.gap_queries import list_gaps
from ingest.journal.recording import SEALED
from ingest.journal.records import Record, RecordKind
from ingest.pipeline.processor import Pipeline
from ingest.recorder.recorder import Recorder
from ingest.recorder.status import RecorderStatus
from ingest.replay.recovery import recover
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.drills.running import live_market, port_of, quick, running, whole
from tests.ingest.pipeline.scripts import START_NS, Script, latest, run

BTC, RELAY = "hyperliquid|perp|BTC", "gaiaex|perp|BTC"
CONTEXT = {
    "funding": "0",
    "openInterest": "1",
    "prevDayPx": "1",
    "dayNtlVlm": "1",
    "oraclePx": "1",
    "markPx": "1",
}


def gaps(rows: dict[str, Any], channel: str = "trades") -> list[tuple[float, float]]:
    """Return the distinct gaps of a channel, in seconds."""
    found = {
        (row["ts_from"].timestamp() - START_NS / NS, row["ts_to"].timestamp() - START_NS / NS)
        for row in rows["coverage"]
        if row["kind"] == "gap" and row["channel"] == channel
    }
    return sorted((round(start, 3), round(to, 3)) for start, to in found)


def twins(*, lost_s: tuple[float, float], to_s: float = 300) -> Script:
    """Two sockets carry BTC's trades, and both carry ETH; for a while no message of BTC arrives."""
    script = Script(("BTC", "ETH"))
    for connection in (0, 1):
        script.open(0, connection, "BTC", "ETH").alive(0.1, to_s, coin="ETH", connection=connection)
        script.alive(0.2 + connection / 10, lost_s[0], connection=connection)
        script.alive(lost_s[1] + connection / 10, to_s, connection=connection)
    return script


def test_a_coin_that_dies_on_both_of_its_sockets_leaves_a_gap_that_is_told() -> None:
    _, rows = run(twins(lost_s=(70, 130)))
    assert latest(rows["bars"])[1]["status"] == latest(rows["bars"])[2]["status"] == "blind"
    told = [(start, to) for start, to in gaps(rows) if start < 70 and to >= 130]
    assert told, gaps(rows)
    assert latest(rows["bars"])[1]["cause"] == "silent stream"


def test_a_socket_that_reconnects_beside_a_dead_twin_leaves_a_gap_that_is_told() -> None:
    """One socket is half open from 50 s and closed at 75 s; the other one is disconnected from 60 s to 65 s."""
    script = Script().open(0, 0).open(0, 1).alive(0.1, 50, connection=0).alive(0.2, 60, connection=1)
    script.close(60, 1).open(65, 2).alive(65.1, 200, connection=2).close(75, 0)
    _, rows = run(script)
    assert latest(rows["bars"])[0]["status"] == latest(rows["bars"])[1]["status"] == "blind"
    assert [(round(start), to) for start, to in gaps(rows)] == [(59, 65)]
    assert latest(rows["bars"])[1]["cause"] == "connection lost"


def test_a_gap_begins_where_the_last_of_two_sockets_was_proven() -> None:
    """The socket that closes last was dead before: what the other one had proven stays proven."""
    script = Script().open(0, 0).open(0, 1).alive(0.1, 50, connection=0).alive(0.2, 100, connection=1)
    script.close(100, 1).close(105, 0).open(110, 2).alive(110.1, 200, connection=2)
    _, rows = run(script)
    assert [(round(start), to) for start, to in gaps(rows)] == [(99, 110)]


def loss_of_ten_s(newest_s: float) -> Script:
    """The socket is down from 70 s to 80 s; the recent trades, requested at once, come from a server that lags.

    Prints come ten times a second, so that what is resent begins at 77.5 s. The answer holds the ten up to `newest_s`.
    """
    script = Script().open(0)
    made = [script.a_print(n / 10) for n in range(2_000)]
    for n, item in enumerate(made):
        at_s = n / 10 + 0.5
        if not 70 <= at_s < 80.5:
            connection = int(at_s >= 80)
            script.bbo(at_s, connection=connection).prints(at_s + 0.01, [item], connection)
    script.close(70, 0).open(80, 1).prints(80.4, made[775:800], 1)
    newest = round(newest_s * 10)
    script.answer(82, {"type": "recentTrades", "coin": "BTC"}, made[newest - 9 : newest + 1][::-1])
    return script


def test_the_newest_trades_of_a_server_that_is_behind_prove_nothing_of_what_came_after_them() -> None:
    """Its ten newest trades end before the resent ones begin: they cover the beginning of the loss, not its rest."""
    _, rows = run(loss_of_ten_s(newest_s=70.0))
    bar = latest(rows["bars"])[1]
    assert bar["trades"] < 600
    assert (bar["status"], bar["repaired"]) == ("blind", False)


def rotated(script: Script) -> tuple[list[dict[str, Any]], list[tuple[int, str, str, int]]]:
    """Rotate at the end of a script; return the coverage by then, and the streams that continue."""
    pipeline = Pipeline("made", load_settings(environ={}), is_capture=False)
    for record in script.sorted():
        pipeline.process(record)
    streams = pipeline.proven_streams()
    pipeline.stop(pipeline.state.now_ns, "rotated")
    return pipeline.drain()["coverage"].to_pylist(), streams


def test_a_stream_goes_on_over_a_rotation_exactly_where_the_tables_say_it_ended() -> None:
    """The tables have microseconds, while a pong proves a stream to the nanosecond."""
    script = Script().open(0).bbo(0.5).bbo(30.5).pong(55.123456789)
    watched, streams = rotated(script)
    ended_ns = {row["channel"]: round(row["ts_to"].timestamp() * 1e6) * 1_000 for row in watched}
    assert {channel: since_ns for _, channel, _, since_ns in streams} == ended_ns


def test_a_question_whose_answer_mends_nothing_is_not_asked_every_second() -> None:
    """A dex whose contexts never fit its universe must not use up the rate limit with requests."""
    ctxs = {"channel": "allDexsAssetCtxs", "data": {"ctxs": [["", [CONTEXT, CONTEXT]]]}}
    one = {"universe": [{"name": "BTC", "szDecimals": 5, "maxLeverage": 40}]}
    script = Script().open(0)
    pipeline = Pipeline("made", load_settings(environ={}), is_capture=False)
    for n in range(300):
        script.frame(n + 0.5, ctxs).answer(n + 0.7, {"type": "meta"}, one)
    asked = 0
    for record in script.sorted():
        pipeline.process(record)
        asked += sum(wish["type"] == "meta" for wish in pipeline.repairs.due_requests(record.recv_ns))
    assert asked == 3


@pytest.mark.drill
async def test_a_rotation_seals_what_it_ends_and_its_bars_are_whole(settings: Settings) -> None:
    """The bars that a rotation cuts in two are made of both halves, and the sealed recording needs no replay."""
    async with SimulatedVenue(live_market(), clock="real") as venue:
        settings = quick(settings, port_of(venue), record={"rotate_h": 4 / 3_600})
        async with running(settings) as held:
            await held.until(lambda vitals: whole(vitals, 3))
            first = held.vitals.recording
            await held.until(lambda vitals: vitals.recording != first)
            after_ns = held.vitals.now_ns
            await held.until(lambda vitals: vitals.now_ns > after_ns + 3 * NS and whole(vitals, 3))
    assert (settings.journal_dir / first / SEALED).exists()
    with Lake.open(settings, read_only=True) as lake:
        bars = lake.query(
            "SELECT status, cause FROM bars_latest QUALIFY ts_open BETWEEN"
            " min(ts_open) FILTER (status <> 'blind') OVER () AND max(ts_open) FILTER (status <> 'blind') OVER ()"
        ).to_pylist()
    assert len(bars) > 10
    assert {bar["status"] for bar in bars} <= {"printed", "quiet"}


def test_recordings_are_recovered_in_the_order_in_which_they_were_made(settings: Settings) -> None:
    """Names begin with the venue and the shard; a recording resumes from what was recorded before it."""
    Script().open(0).known(0.05).alive(0.1, 90).stop(90).write(settings.journal_dir / "z-first")
    later = Script()
    later.records = [dataclasses.replace(item, recv_ns=item.recv_ns + 90 * NS) for item in later.records]
    later.open(91, 0).alive(91.1, 200).stop(200).write(settings.journal_dir / "a-second")
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == ["z-first", "a-second"]
        bars = lake.query("SELECT status FROM bars_latest ORDER BY ts_open")["status"].to_pylist()
    assert bars == ["quiet", "blind", "quiet"]


def test_a_recording_that_cannot_be_read_keeps_no_other_from_being_recovered(settings: Settings) -> None:
    broken = Script().open(0)
    broken.records.append(Record(0, START_NS + NS, RecordKind.ANSWER, -1, b"no JSON"))
    broken.write(settings.journal_dir / "a")
    Script().open(0).alive(0.1, 90).write(settings.journal_dir / "b")
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == ["b"]
    assert not (settings.journal_dir / "a" / SEALED).exists()


async def test_a_recorder_that_fails_leaves_its_recording_to_be_replayed(settings: Settings) -> None:
    def refuse(vitals: RecorderStatus) -> None:
        if vitals.trades > 0 and vitals.state == "recording":
            raise RuntimeError("made to fail")

    async with SimulatedVenue(live_market(), clock="real") as venue:
        settings = quick(settings, port_of(venue))
        with Lake.open(settings) as lake:
            with pytest.raises(ExceptionGroup):
                await Recorder(settings, lake, name="made", on_vitals=refuse).run(asyncio.Event())
            assert not (settings.journal_dir / "made" / SEALED).exists()
            assert recover(settings, lake) == ["made"]


def test_a_relay_that_is_stale_when_a_recording_ends_is_told_and_stays_so_in_the_next(
    settings: Settings,
) -> None:
    """The relay reports it once; neither a rotation nor a restart may end the stall."""
    book = {
        "type": "orderbook",
        "symbol": "BTC",
        "bids": [["99", "1"]],
        "asks": [["101", "1"]],
        "stale": False,
    }
    first = Script().opened(0, 5, venue="gaiaex", socket="gaiaex-BTC", symbol="BTC")
    for n in range(70):
        first.frame(n + 0.7, book | {"timestamp": Script.venue_ms(n + 0.5)}, 5)
    lost = {"type": "stale", "symbol": "BTC", "reason": "upstream_disconnected"}
    first.frame(70.7, lost | {"timestamp": Script.venue_ms(70.5)}, 5)
    first.clock(80).stop(80).write(settings.journal_dir / "a")
    about = {"source": "socket", "coins": ["BTC"], "symbols": ["BTC"], "continues": "a"}
    then = Script()
    then.records = [Record(0, START_NS + 80 * NS, RecordKind.STARTED, -1, json.dumps(about).encode())]
    then.opened(80, 5, venue="gaiaex", socket="gaiaex-BTC", symbol="BTC")
    held = {"streams": [[5, "book", RELAY, START_NS + 70 * NS]], "stalls": [[RELAY, "upstream stale"]]}
    then.records.append(Record(0, START_NS + 80 * NS, RecordKind.HELD, -1, json.dumps(held).encode()))
    for n in range(81, 200):
        then.frame(n, {"type": "heartbeat", "timestamp": Script.venue_ms(n)}, 5)
    then.stop(200).write(settings.journal_dir / "b")
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == ["a", "b"]
        bars = lake.query(
            "SELECT status, cause, bid, trades FROM bars_latest WHERE instrument = ? ORDER BY ts_open",
            [RELAY],
        ).to_pylist()
        told = list_gaps(lake, channel="book")["seconds"].to_pylist()
    assert [bar["status"] for bar in bars] == ["quiet", "blind", "blind"]
    assert {bar["cause"] for bar in bars[1:]} == {"upstream stale"}
    assert [bar["bid"] for bar in bars[1:]] == [None, None]
    assert {bar["trades"] for bar in bars} == {None}, "a relay has no trades, after a restart too"
    assert sum(told) == pytest.approx(129.5), "and a rotation itself is no gap"


def test_a_twin_that_is_open_and_dead_vouches_for_nothing() -> None:
    """One socket is disconnected from 70 s to 90 s; the other one is open, but has delivered no print since 60 s."""
    script = Script().open(0, 0).open(0, 1).alive(0.1, 200, connection=1)
    made = [script.a_print(n + 0.25) for n in range(200)]
    for n, item in enumerate(made):
        if n < 70 or n >= 90:
            script.prints(n + 0.75, [item], 0 if n < 70 else 2)
        if n < 60:
            script.prints(n + 0.8, [item], 1)
    script.close(70.9, 0).open(90, 2).prints(90.4, made[80:90], 2)
    bar = latest(run(script)[1]["bars"])[1]
    assert bar["trades"] == 50
    assert (bar["status"], bar["cause"]) == ("blind", "silent stream")
