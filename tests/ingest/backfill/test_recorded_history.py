"""Recorded candles and payments, served by a venue and backfilled, equal the files row by row."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ingest.backfill.rest.journaled_client import PREFIX
from ingest.backfill.rest.runner import RestRequest
from ingest.replay.replay import replay
from ingest.simulator.server.history_endpoint import RecordedCandle, RecordedHistory
from ingest.simulator.wire.encoder import SimulatedFunding
from storage.clock import DAY_NS, MS_NS, NS, floor_ns, parse_time_ns, width_ns
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.ingest.backfill.histories import (
    NOW_NS,
    fill_in,
    recorded_candles,
    recorded_fundings,
    serving,
    settings_for,
)
from tests.storage.rows import UNSTAMPED

Held = dict[tuple[str, str], list[RecordedCandle]]
CANDLES = "hyperliquid/candles_{}_to_20250520.parquet"
FUNDING = "hyperliquid/funding_1h_to_20250520.parquet"
# One place among the newest 5,000 is the open candle's.
REACH = 4_999
SAID = """
    SELECT split_part(instrument, '|', 3) AS coin, epoch_ms(ts_open) AS t, open, high, low, close, volume, trades
    FROM candles WHERE width = ? ORDER BY coin, t
"""
BARS = """
    SELECT split_part(instrument, '|', 3) AS coin, epoch_ms(ts_open) AS t, status FROM bars_latest
    WHERE width = ? ORDER BY coin, t
"""
PAID = """
    SELECT split_part(instrument, '|', 3) AS coin, epoch_ms(ts_event) AS t, funding_rate, interval_h FROM funding
    ORDER BY t, coin
"""
# The venue paid every 8 hours up to this hour, and every hour since.
CHANGED_MS = parse_time_ns("2023-06-08") // MS_NS
HOUR_MS = 3_600_000


def with_a_halt(held: Held, steps: int) -> Held:
    """Return candles with some steps in which no coin traded, an afternoon before the end: flat, without volume."""
    (_, width), *_ = held
    step_ms = width_ns(width) // MS_NS
    first_ms = NOW_NS // MS_NS // step_ms * step_ms - 100 * step_ms
    flat = range(first_ms, first_ms + steps * step_ms, step_ms)
    return {
        key: [
            RecordedCandle(row.open_ms, *[row.open] * 4, 0.0, 0) if row.open_ms in flat else row
            for row in rows
        ]
        for key, rows in held.items()
    }


def assert_same(found: Sequence[object], expected: Sequence[object]) -> None:
    """Assert equality without a printed difference of all rows, which takes too long."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == other


def statuses(held: Held) -> list[tuple[str, int, str]]:
    """Return the expected bars, from the candles alone: silence of all coins at once is a halt."""
    coins = {coin for coin, _ in held}
    silent = Counter(row.open_ms for rows in held.values() for row in rows if not row.volume)
    said = {0: "printed", 1: "quiet", len(coins): "halted"}
    assert set(silent.values()) <= set(range(1, 4)) | {len(coins)}
    return sorted(
        (coin, row.open_ms, said[0] if row.volume else said.get(silent[row.open_ms], "quiet"))
        for (coin, _), rows in held.items()
        for row in rows
    )


async def candles_come_back(settings: Settings, lake: Lake, width: str, *, newest: int) -> Mapping[str, int]:
    """Backfill a recorded file with a halt in it, compare every row and bar, and return how many of each status."""
    held = with_a_halt(recorded_candles(recorded(CANDLES.format(width)), width, newest=newest), steps=3)
    first_ns = min(rows[0].open_ms for rows in held.values()) * MS_NS
    async with serving(RecordedHistory(NOW_NS, held)) as venue:
        chosen = settings_for(settings, venue)
        done = await fill_in(lake, chosen, RestRequest("candles", width), coins=("*",), from_ns=first_ns)
    found = [tuple(row.values()) for row in lake.query(SAID, (width,)).to_pylist()]
    bars = [tuple(row.values()) for row in lake.query(BARS, (width,)).to_pylist()]
    assert_same(found, sorted((coin, *row) for (coin, _), rows in held.items() for row in rows))
    assert_same(bars, statuses(held))
    assert (done.rows["candles"], done.refused) == (len(found), 0)
    counts = Counter(status for _, _, status in bars)
    assert counts["halted"] == 3 * len(held) == 36
    return counts


async def funding_comes_back(
    settings: Settings, lake: Lake, paid: Sequence[SimulatedFunding], *, to_ns: int
) -> None:
    """Backfill payments, and compare every row and for how many hours it was."""
    async with serving(RecordedHistory(to_ns, fundings=paid)) as venue:
        chosen = settings_for(settings, venue)
        done = await fill_in(
            lake, chosen, RestRequest("funding"), coins=("*",), from_ns=0, to_ns=to_ns, now_ns=to_ns
        )
    assert done.rows == {"funding": len(paid)}
    found = [tuple(row.values()) for row in lake.query(PAID).to_pylist()]
    assert_same(
        found,
        [
            (row.coin, row.time_ms, row.rate, 8 if row.time_ms < CHANGED_MS + HOUR_MS // 2 else 1)
            for row in paid
        ],
    )


def replayed(settings: Settings, lake: Lake, home: Path) -> int:
    """Assert that the recordings of a home alone give its rows in another; return how many rows those are."""
    again = dataclasses.replace(settings, home=home)
    queries = [f"SELECT {UNSTAMPED} FROM {name} ORDER BY ALL" for name in ("candles", "bars", "funding")]
    expected = [lake.query(query) for query in queries]
    with Lake.open(again) as other:
        for folder in sorted(settings.journal_dir.glob(f"{PREFIX}*")):
            replay(folder, again, other)
        for query, rows in zip(queries, expected, strict=True):
            assert other.query(query).equals(rows), query
    return sum(rows.num_rows for rows in expected)


@pytest.mark.drill
async def test_some_recorded_candles_and_payments_come_back_as_they_were_and_again_from_the_journals(
    settings: Settings, lake: Lake, tmp_path: Path
) -> None:
    """The last 12 hours of 12 coins in 5 minutes, with a halt; payments of three coins over four pages.

    Among the payments are the change from 8 hours to one and a gap of two hours at all coins at once.
    """
    counts = await candles_come_back(settings, lake, "5m", newest=150)
    assert counts["printed"] > 1_700
    to_ns = parse_time_ns("2023-07-10")
    paid = recorded_fundings(recorded(FUNDING), ("BTC", "ETH", "SOL"), to="2023-07-10")
    await funding_comes_back(settings, lake, paid, to_ns=to_ns)
    assert replayed(settings, lake, tmp_path / "again") > 4_000


@pytest.mark.drill
@pytest.mark.timeout(1_800)
async def test_whole_recorded_files_over_the_socket(
    settings: Settings, lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that the venue would serve of the recorded files, and all funding; and again from the journals."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    said = []
    for width in ("5m", "15m", "1h"):
        counts = await candles_come_back(settings, lake, width, newest=REACH)
        said.append(f"{width} {dict(counts)}")
    paid = recorded_fundings(recorded(FUNDING))
    await funding_comes_back(settings, lake, paid, to_ns=floor_ns(NOW_NS, DAY_NS) + 30 * NS)
    took_s = loop.time() - began_s
    rows = replayed(settings, lake, tmp_path / "again")
    with capsys.disabled():
        print(f"\ncandles: {'; '.join(said)}; {len(paid):,} payments; over sockets in {took_s:.0f} s")
        print(f"{rows:,} rows again from the journals in {loop.time() - began_s - took_s:.0f} s")
