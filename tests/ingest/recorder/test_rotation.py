"""Rotation of recordings without a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pytest

from ingest.journal.recording import SEALED
from ingest.simulator.venue import SimulatedVenue
from storage.contracts.tables import TRADES
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import (
    assert_bars_hold_trades,
    assert_equal,
    read_tables,
    recordings,
    replay_all,
    stored_prints,
)
from tests.drills.running import live_market, port_of, quick, running, whole
from tests.storage.rows import trade

ROTATE_S: Final = 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "rotations", [pytest.param(1, id="one"), pytest.param(2, id="two", marks=pytest.mark.drill)]
)
async def test_over_rotations_no_bar_is_blind_and_no_print_is_missing(
    settings: Settings, tmp_path: Path, rotations: int
) -> None:
    async with SimulatedVenue(live_market(), clock="real") as venue:
        settings = quick(settings, port_of(venue), record={"rotate_h": ROTATE_S / 3_600})
        async with running(settings) as run:
            await run.until(lambda vitals: whole(vitals, 1))
            seen = {run.vitals.recording}
            for _ in range(rotations):
                await run.until(lambda vitals: vitals.recording not in seen)
                seen.add(run.vitals.recording)
            await run.until(lambda vitals: whole(vitals, 3))
            assert run.vitals.reconnects == 0
        sent = sum(venue.stats.distinct.values())
    assert run.recording is not None
    assert run.recording.counts.trades == sent > 50
    assert len(stored_prints(settings)) == len(set(stored_prints(settings))) == sent
    folders = recordings(settings)
    assert len(folders) > rotations
    assert all((folder / SEALED).exists() for folder in folders)
    with Lake.open(settings, read_only=True) as lake:
        gaps = lake.query("SELECT * FROM coverage WHERE kind = 'gap'").to_pylist()
        blind = lake.query(_BLIND_INSIDE).to_pylist()
        grid = lake.query(_GRID).to_pylist()
        registered = lake.query(_REGISTERED).to_pylist()
    assert [row["recording"] for row in registered] == [folder.name for folder in folders]
    assert all(row["batch"] == f"live:{row['recording']}:start" for row in registered), "before any frame"
    assert all(row["is_ended"] for row in registered)
    assert gaps == []
    assert blind == []
    assert all(row["bars"] == row["seconds"] for row in grid), "one bar a second, over the rotations too"
    assert assert_bars_hold_trades(settings) > 0
    assert_equal(read_tables(settings), read_tables(replay_all(settings, tmp_path / "replayed")))


# Blind between the first instant that was watched and the last two bars, whose end nothing proves.
_BLIND_INSIDE: Final = """
    WITH watched AS (
        SELECT instrument, min(ts_from) AS ts_first FROM coverage WHERE channel = 'trades' GROUP BY instrument
    )
    SELECT instrument, ts_open, cause, observed_ms FROM bars_latest JOIN watched USING (instrument)
    QUALIFY status = 'blind' AND ts_open >= ts_first
        AND row_number() OVER (PARTITION BY instrument ORDER BY ts_open DESC) > 2
"""
_REGISTERED: Final = """
    SELECT recording, arg_min(batch, ts_knowable_ns) AS batch, max(ts_last_ns) IS NOT NULL AS is_ended
    FROM recordings GROUP BY recording ORDER BY min(ts_started_ns)
"""
_GRID: Final = """
    SELECT count(*) AS bars, date_diff('second', min(ts_open), max(ts_open)) + 1 AS seconds
    FROM bars_latest GROUP BY instrument
"""


def at_once(tids: list[int]) -> pa.Table:
    """Return prints of one instant, in the order of their frame."""
    return TRADES.rows([trade(1, tid=tid) for tid in tids])


def test_prints_of_one_instant_keep_the_order_in_which_they_came(settings: Settings) -> None:
    """A resumed bar is aggregated from the rows of the table, and closes at the last print of the last instant."""
    drawn = np.random.default_rng(1).permutation(3_000).tolist()
    with Lake.open(settings) as lake:
        lake.commit({"trades": at_once([*range(10_000, 20_000)])}, batch_id="more than comes after")
        lake.commit({"trades": at_once(drawn)}, batch_id="drawn")
        stored = lake.query("SELECT tid FROM trades WHERE tid < 10000 ORDER BY rowid")["tid"].to_pylist()
    assert stored == drawn
