"""Sockets that close, fall silent, or ignore requests."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ingest.coverage.silence import SILENT_TRADES, VOLUME_ROSE
from ingest.journal.reader import read_journal
from ingest.journal.records import RecordKind
from ingest.simulator.faults.faults import ClaimSubscribed, Disconnect, LoseAck, NoPongs, SilentStream
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import BTC, SOL, live, since_s, statuses, taped, until

# Seconds of the tape; waits of the connection itself (pings, acknowledgements) are seconds of the loop.
ALERT: dict[str, Any] = {
    "silence_least_s": 5.0,
    "silence_factor": 2.0,
    "coin_silence_s": 10.0,
    "ping_s": 0.2,
    "pong_timeout_s": 10.0,
    "ack_timeout_s": 0.3,
}


# A stream that is asked for again before its coin counts as silent was given up by us.
SILENT = re.compile(r"silent stream$|unsubscribed$|(trades|bbo) (BTC|SOL) silent for \d+ s$")


def asked(run: Any, method: str) -> list[tuple[int, str, str]]:
    """Return (connection, channel, coin) of the acknowledgements in the journal, in order."""
    found = []
    for record in read_journal(run.settings.journal_dir / "live"):
        if record.kind is RecordKind.FRAME and b'"subscriptionResponse"' in record.body[:40]:
            data = json.loads(record.body)["data"]
            if data["method"] == method:
                what = data["subscription"]
                found.append((record.connection, what["type"], what["coin"]))
    return found


@pytest.mark.parametrize(("ping_s", "connections"), [(0.1, 1), (60.0, 2)])
async def test_pings_keep_a_quiet_socket_which_the_venue_would_close(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ping_s: float, connections: int
) -> None:
    """Nothing is sent of either coin; the venue drops a connection that it sent nothing for 5 s."""
    quiet = (SilentStream(coin="BTC"), SilentStream(coin="SOL"))
    record = {"ping_s": ping_s, "pong_timeout_s": 1.0, "silence_least_s": 900.0, "silence_most_s": 900.0}
    async with live(settings, monkeypatch, *quiet, venue={"idle_close_s": 5.0}, record=record) as run:
        if connections == 1:
            await run.heard("pong", 15)
        await until(lambda: run.venue.stats.by_feed["hyperliquid"] >= connections)
    assert run.venue.stats.by_feed["hyperliquid"] == connections
    causes = {row["cause"] for row in run.of("coverage", BTC, kind="watched")}
    assert causes == ({"stopped"} if connections == 1 else {"connection lost", "stopped"})


async def test_a_socket_that_answers_pings_and_carries_nothing_is_renewed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [SilentStream(coin=coin, at_s=20.0, for_s=80.0) for coin in ("BTC", "SOL")]
    async with live(settings, monkeypatch, *dead, record=ALERT) as run:
        await until(lambda: run.venue.stats.by_feed["hyperliquid"] >= 2)
        pongs = run.venue.stats.frames["pong"]
        await run.until_s(125.0)
    assert pongs > 0, "it answered pings all the while"
    ended = {row["cause"] for row in run.of("coverage", kind="watched")}
    assert any("silent for" in cause for cause in ended), ended
    for coin in (BTC, SOL):
        silent = run.bars(coin, 30.0, 90.0)
        assert set(statuses(silent)) == {"blind"}
        assert all(SILENT.match(row["cause"]) for row in silent)
        assert set(statuses(run.bars(coin, 110.0, 120.0))) <= {"printed", "quiet"}
    assert run.is_each_print_stored_once()


async def test_a_socket_without_pongs_is_renewed_though_data_flows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"ping_s": 0.2, "pong_timeout_s": 0.5}
    async with live(settings, monkeypatch, NoPongs(for_s=20.0), record=record) as run:
        await until(lambda: run.venue.stats.by_feed["hyperliquid"] >= 2)
        await run.until_s(30.0)
    assert "pong missing for 0.5 s" in {row["cause"] for row in run.of("coverage", kind="watched")}
    assert run.is_each_print_stored_once()


async def test_one_silent_coin_is_asked_for_again_and_its_bars_are_blind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = SilentStream(coin="SOL", at_s=40.0, for_s=60.0)
    async with live(settings, monkeypatch, dead, record=ALERT) as run:
        await run.until_s(140.0)
    given_up = asked(run, "unsubscribe")
    assert given_up
    assert {coin for _, _, coin in given_up} == {"SOL"}, "nobody gave BTC up"
    silent = run.bars(SOL, 50.0, 90.0)
    assert set(statuses(silent)) == {"blind"}
    assert all(SILENT.match(row["cause"]) for row in silent)
    assert set(statuses(run.bars(SOL, 120.0, 130.0))) <= {"printed", "quiet"}
    assert set(statuses(run.bars(BTC, 10.0, 130.0))) <= {"printed", "quiet"}
    assert run.is_each_print_stored_once()


async def test_trades_that_stop_while_quotes_and_volume_go_on_are_doubted_and_asked_for_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdogs are off; the stream that is subscribed again is still dead until 100 s."""
    dead = SilentStream(coin="BTC", channels=("trades",), at_s=20.0, for_s=80.0)
    record = {
        "silence_least_s": 900.0,
        "silence_most_s": 900.0,
        "channels": ("trades", "bbo", "activeAssetCtx"),
        "certify": False,
    }
    async with live(settings, monkeypatch, dead, record=record, streams=6) as run:
        await run.until_s(130.0)
    inside = run.bars(BTC, 20.0, 90.0)
    assert len(inside) == 7
    assert set(statuses(inside)) == {"blind"}
    assert {row["cause"] for row in inside} <= {VOLUME_ROSE, SILENT_TRADES, "unsubscribed"}
    assert VOLUME_ROSE in {row["cause"] for row in inside}
    assert set(statuses(run.bars(BTC, 110.0, 120.0))) <= {"printed", "quiet"}
    assert [coin for _, channel, coin in asked(run, "unsubscribe") if channel == "trades"] == ["BTC"]
    assert "blind" not in statuses(run.bars(SOL, 30.0, 120.0))


async def test_what_is_not_acknowledged_is_asked_for_until_it_is_and_again_after_a_reconnect(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = LoseAck(channel="trades", coin="BTC", takes_effect=False, times=2)
    mute = LoseAck(channel="bbo", coin="SOL")
    lost = Disconnect(at_s=15.0, outage_s=2.0)
    async with live(settings, monkeypatch, deaf, mute, lost, record=ALERT) as run:
        await until(lambda: run.venue.stats.by_feed["hyperliquid"] >= 2)
        await run.until_s(35.0)
    every = {(channel, coin) for channel in ("trades", "bbo") for coin in ("BTC", "SOL")}
    confirmed = asked(run, "subscribe")
    assert {what[1:] for what in confirmed if what[0] == 1} == every
    spans = run.of("coverage", kind="watched", connection=0)
    assert {(row["channel"], row["instrument"].rpartition("|")[2]) for row in spans} == every
    assert run.venue.stats.frames["error"] >= 1, "the stream whose acknowledgement was lost was there already"
    assert run.is_each_print_stored_once()


async def test_already_subscribed_is_an_acknowledgement(settings: Settings) -> None:
    claims = [ClaimSubscribed(channel=channel, coin="SOL") for channel in ("trades", "bbo")]
    run = await taped(settings, *claims)
    assert run.venue.stats.frames["error"] == 2
    assert {row["channel"] for row in run.of("coverage", SOL, kind="watched")} == {"trades", "bbo"}
    assert set(statuses(run.bars(SOL, 10.0, 80.0))) <= {"printed", "quiet"}
    assert run.tables["quarantine"] == []
    assert run.is_each_print_stored_once()


async def test_a_clean_close_is_a_loss_like_any_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of the venue closes every socket with code 1000, twice."""
    upgrades = [Disconnect(at_s=at_s, outage_s=2.0, clean=True) for at_s in (15.0, 40.0)]
    async with live(settings, monkeypatch, *upgrades, streams=6, record={"twins": 2}) as run:
        await run.until_s(30.0)
        await until(lambda: run.venue.stats.by_feed["hyperliquid"] == 6)
        await run.until_s(65.0)
    causes = [row["cause"] for row in run.of("coverage", BTC, kind="watched", channel="trades")]
    assert causes.count("venue closed with 1000") == 4
    gaps = run.gaps(BTC)
    assert [since_s(row["ts_from"]) for row in gaps] == pytest.approx([15.0, 40.0], abs=2.0)
    assert all(row["bridged"] for row in gaps)
    assert set(statuses(run.bars(BTC, 10.0, 60.0))) <= {"printed", "quiet"}
    assert run.is_each_print_stored_once()
