"""Repair of all gaps that the venue still serves: requests, dry run, and the command. Over a real socket."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ingest.simulator.server.history_endpoint import RecordedHistory
from serving import cli
from serving.day_jobs.repair import plan_requests, repair_gaps
from storage.clock import DAY_NS, HOUR_NS, NS, ManualTime, floor_ns
from storage.contracts.tables import BARS, RECORDINGS
from storage.lake.lake import Lake
from tests.ingest.backfill.histories import candles, served_aside
from tests.serving.day_jobs.conftest import BLIND, DAY_START_NS, MINUTE, NOW_NS, at, fill, gappy_day
from tests.storage.rows import BTC, bar

ETH = "hyperliquid|perp|ETH"
MINUTE_NS = 60 * NS


def test_gaps_near_each_other_share_a_request_and_nothing_older_than_the_instrument_is_asked(
    tmp_path: Path, url: str
) -> None:
    settings = at(tmp_path / "home", url)
    gaps = {BTC: (range(100, 110), range(1_000, 1_001)), ETH: (range(300, 305), range(1_430, 1_440))}
    rows = [
        bar(MINUTE + minute, instrument=name, **(BLIND if any(minute in gap for gap in lost) else {}))
        for name, lost in gaps.items()
        for minute in range(1_440)
    ]
    fill(settings, rows)
    with Lake.open(settings) as lake:
        now_ns = NOW_NS + HOUR_NS
        found = plan_requests(lake, settings, "1m", DAY_START_NS, DAY_START_NS + DAY_NS, now_ns)
        late = plan_requests(
            lake, settings, "1m", DAY_START_NS, DAY_START_NS + DAY_NS, NOW_NS + 5_000 * MINUTE_NS
        )
    assert [
        (
            (item.request.from_ns - DAY_START_NS) // MINUTE_NS,
            (item.request.to_ns - DAY_START_NS) // MINUTE_NS,
            item.request.coins,
            item.missing_ns // MINUTE_NS,
        )
        for item in found
    ] == [(0, 545, ("BTC", "ETH"), 15), (760, 1_459, ("BTC", "ETH"), 11)]
    assert late == [], "the venue has forgotten it"


def test_a_dry_run_changes_nothing_and_a_repair_leaves_what_the_relay_missed(
    tmp_path: Path, url: str, clock: ManualTime
) -> None:
    settings = at(tmp_path / "home", url)
    fill(settings, gappy_day())
    plans = []
    dry = repair_gaps(
        settings, dry_run=True, clock=clock, on_plan=lambda item, plan: plans.append((item, plan))
    )
    assert [item.about for item in dry.requests] == [
        "1m candles of BTC, 2025-05-19T06:00:00.000Z to 2025-05-19T15:00:00.000Z: 1.00 h missing (connection_lost)"
    ]
    assert [len(plan.steps) for _, plan in plans] == [2]
    assert not list(settings.journal_dir.glob("backfill-*"))
    done = repair_gaps(settings, clock=clock)
    assert done.rows == {"candles": 540, "bars": 540}
    assert [
        (gap.instrument, gap.to_ns - gap.from_ns, gap.is_repairable)
        for gap in done.left
        if gap.cause == "connection_lost"
    ] == [("gaiaex|perp|BTC", 90 * MINUTE_NS, False)]
    assert repair_gaps(settings, clock=clock).requests == (), "what was filled is not asked for again"


def test_a_gap_is_asked_for_when_the_answer_is_final_and_then_never_again(tmp_path: Path) -> None:
    """Within an hour of a bar's close the venue may still send a candle that it left out."""
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(200, until_ns=NOW_NS, absent=(150,))})
    absent_ns = floor_ns(NOW_NS, MINUTE_NS) - 49 * MINUTE_NS
    with served_aside(past) as url:
        settings = at(tmp_path / "home", url)
        first = absent_ns // MINUTE_NS - 20
        fill(settings, [bar(first + n, **(BLIND if n == 20 else {})) for n in range(60)])
        assert repair_gaps(settings, clock=ManualTime(NOW_NS)).requests == ()
        late = ManualTime(NOW_NS + 15 * MINUTE_NS)
        assert repair_gaps(settings, clock=late).rows["candles"] > 0
        again = repair_gaps(settings, clock=late)
        assert again.requests == ()
        assert [gap.cause for gap in again.left if gap.from_ns == absent_ns] == ["candle_absent"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(url: str, *arguments: str) -> int:
    values = (f"record.info_url={url}", "record.coins=BTC", "record.rest_timeout_s=0.5")
    try:
        cli.main([*(part for value in values for part in ("--set", value)), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_plans_fills_and_lists_what_is_left(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now_ns = floor_ns(time.time_ns(), MINUTE_NS)
    with served_aside(RecordedHistory(now_ns, {("BTC", "1m"): candles(600, until_ns=now_ns)})) as url:
        settings = at(here / "var", url)
        first = now_ns // MINUTE_NS - 300
        lost = {"instrument": "gaiaex|perp|BTC", "trades_applicable": False, **BLIND}
        rows = [bar(first + n, **(BLIND if 60 <= n < 90 else {})) for n in range(299)]
        rows += [bar(first + n, **lost) for n in range(30)]
        with Lake.open(settings) as lake:
            listed = {
                "recording": "r", "home": "h", "venue": "hyperliquid", "instruments": f'["{BTC}"]',
                "ts_started_ns": now_ns - 5 * HOUR_NS, "ts_last_ns": now_ns, "ts_knowable_ns": now_ns - 5 * HOUR_NS,
            }  # fmt: skip
            tables = {"bars": BARS.rows(rows), "recordings": RECORDINGS.rows([listed])}
            lake.commit(tables, batch_id="recorded")
        assert run(url, "backfill", "gaps", "--dry-run") == 0
        planned = capsys.readouterr().out
        assert "0.50 h missing (connection_lost)" in planned
        assert "of the venue's rate-limit weight" in planned
        assert run(url, "backfill", "gaps") == 0
        said = capsys.readouterr().out
        assert "new rows  bars 2" in said
        assert (
            "left      0.50 instrument-hours (connection_lost 0.50) of the last 5 days; see docs/gaps.md"
            in said
        )
        assert run(url, "backfill", "gaps") == 0
        assert "no gap that the venue's API can fill" in capsys.readouterr().out
