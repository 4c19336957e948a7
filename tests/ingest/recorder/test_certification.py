"""Certification of bars by a running recorder, which requests the venue's candles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.journal.reader import read_journal
from ingest.journal.records import RecordKind
from storage.clock import NS
from storage.settings import Settings
from tests.drills.homes import assert_equal, read_tables, replay_all
from tests.ingest.recorder.faults.rig import BY_NAME, live, market, since_s

COINS = ("BTC", "SOL")


@pytest.mark.drill
async def test_a_recorder_certifies_what_it_watched_and_its_replay_the_same(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hour after which candles are requested lasts 240 s here; the venue aggregates its own prints into candles."""
    monkeypatch.setattr("ingest.pipeline.certification.DUE_NS", 240 * NS)
    source = market(coins=tuple(BY_NAME[name] for name in COINS), span_s=None)
    widths = {"widths": ("1m",), "grace_ms": 500}
    more: dict[str, Any] = {"source": source, "streams": 2 * len(COINS), "tables": ("discrepancies",)}
    async with live(settings, monkeypatch, record={"coins": COINS}, bars=widths, **more) as run:
        await run.until_s(296.0)
        # Questions are asked once a second of the loop: leave time for some.
        for step_ns, until_s in ((NS // 50, 312.0), (NS, 370.0)):
            run.time.step_ns = step_ns
            await run.until_s(until_s)
    records = [r for r in read_journal(run.settings.journal_dir / "live") if r.kind is RecordKind.ANSWER]
    answers = [
        answer for r in records if (answer := json.loads(r.body))["request"]["type"] == "candleSnapshot"
    ]
    assert {answer["request"]["req"]["coin"] for answer in answers} == set(COINS)
    for coin in COINS:
        bars = run.bars(f"hyperliquid|perp|{coin}")
        certified = [since_s(bar["ts_open"]) for bar in bars if bar["certified"]]
        assert certified == [0.0, 60.0, 120.0], "those that had settled when it asked"
    assert not run.of("discrepancies")
    replayed = replay_all(run.settings, tmp_path / "replayed")
    assert assert_equal(read_tables(run.settings), read_tables(replayed))["bars"] > 10
