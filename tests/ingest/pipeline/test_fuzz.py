"""Fuzzing of the pipeline with mutated frames: no crash, and every frame accounted for."""

from __future__ import annotations

import itertools

import pytest

from ingest.journal.captures import read_capture
from storage.logs import configure_logs
from storage.settings import load_settings
from tests.drills.fuzz import fuzz, records
from tests.ingest.pipeline.frame_accounting import KNOWN, REFUSED, STORED, TOLD
from tests.paths import SHARED

FRAMES = 20_000
FEW = 12_000
MANY = 1_000_000
TAPE = "hyperliquid/ws_20250904_4coins.ndjson.gz"


def real_frames(most: int) -> list[bytes]:
    """Return frames of a real capture if it is present, and generated frames of every channel."""
    path = SHARED / "data" / TAPE
    return [body for _, body in itertools.islice(read_capture(path), most)] if path.exists() else []


@pytest.mark.parametrize("frames", [FEW, pytest.param(FRAMES, marks=pytest.mark.drill)])
def test_every_mutated_frame_is_stored_known_told_or_in_quarantine(frames: int) -> None:
    configure_logs(level="error")
    account, pipeline, made = fuzz(load_settings(environ={}), records(7, frames, real_frames(400)))
    assert account.outcomes.total() == pipeline.counts.frames == frames + 36
    assert all(account.outcomes[outcome] > frames // 50 for outcome in (STORED, KNOWN, TOLD, REFUSED))
    for table in ("trades", "quotes", "books", "contexts", "mids", "quarantine", "bars"):
        assert made[table] > 0, table


@pytest.mark.drill
@pytest.mark.timeout(7_200)
def test_a_million_mutated_frames_are_accounted_for(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(level="error")
    account, pipeline, made = fuzz(load_settings(environ={}), records(2026, MANY, real_frames(3_000)))
    with capsys.disabled():
        print(f"\n{pipeline.counts}\n{dict(account.outcomes)}\n{dict(made)}\n{dict(pipeline.state.channels)}")
    assert account.outcomes.total() == MANY + 36
