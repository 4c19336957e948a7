"""Prints that the venue resends after every subscription."""

from __future__ import annotations

from ingest.simulator.faults.faults import Disconnect
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import BTC, SOL, market, since_s, statuses, taped


async def test_resent_prints_are_counted_and_stored_once(settings: Settings) -> None:
    """Two reconnects, with 30 prints resent for each coin three times: every print is stored once."""
    run = await taped(settings, Disconnect(at_s=30.0, outage_s=1.0), Disconnect(at_s=60.0, outage_s=1.0))
    assert run.done is not None
    assert run.venue.stats.by_feed["hyperliquid"] == 3
    assert run.is_each_print_stored_once()
    sent = sum(run.venue.stats.prints.values())
    assert run.done.counts.seen == sent - len(run.of("trades")) > 60
    assert run.tables["quarantine"] == []


async def test_the_first_batch_holds_prints_of_the_outage_and_they_are_kept(settings: Settings) -> None:
    run = await taped(settings, Disconnect(at_s=30.0, outage_s=8.0))
    missed = [row for row in run.of("trades") if 30.0 < since_s(row["ts_event"]) < 38.0]
    assert {row["instrument"] for row in missed} == {BTC, SOL}
    assert {row["origin"] for row in missed} == {"venue_replay"}
    assert run.is_each_print_stored_once()
    for coin in (BTC, SOL):
        (gap,) = run.gaps(coin)
        assert (gap["cause"], gap["bridged"], gap["evidence"]) == ("connection lost", True, "overlap")
        touched = run.bars(coin, 20.0, 40.0)
        assert set(statuses(touched)) <= {"printed", "quiet"}
        assert any(row["repaired"] for row in touched)


async def test_a_gap_longer_than_the_replay_stays_a_gap(settings: Settings) -> None:
    """30 of the many BTC prints of the outage are resent: the rest is lost, and every bar of the outage is blind."""
    run = await taped(settings, Disconnect(at_s=20.0, outage_s=60.0), source=market(activity=3.0))
    stored = [row for row in run.of("trades", BTC) if since_s(row["ts_event"]) >= 0.0]
    assert 30 < len(stored) < run.venue.stats.made["BTC"] - 30
    assert run.is_each_print_stored_once()
    (gap,) = run.gaps(BTC)
    assert (gap["cause"], gap["bridged"]) == ("connection lost", False)
    assert 18.0 < since_s(gap["ts_from"]) <= 20.0
    assert since_s(gap["ts_to"]) >= 80.0
    touched = run.bars(BTC, 20.0, 80.0)
    assert statuses(touched) == ["blind"] * 6
    assert {row["cause"] for row in touched} == {"connection lost"}
