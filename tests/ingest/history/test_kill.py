"""Does a backfill survive `kill -9` at any moment, and are its rows made again from its journal alone?"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.history.asked import PREFIX
from ingest.history.over_rest import Wanted
from ingest.journal import read_journal
from ingest.keep import keep_journal
from ingest.records import Kind
from ingest.recover import SEALED, recover
from ingest.replay import replay
from ingest.venues.past import Past
from storage.clock import DAY_NS, NS, WallTime
from storage.errors import LakeError
from storage.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.ingest.history.pasts import (
    NOW_NS,
    at_home,
    candles,
    fill_in,
    read,
    recorded_candles,
    recorded_fundings,
    serving,
    settings_for,
    tables,
)

ROOT = Path(__file__).resolve().parents[3]
ASKED = [
    "--from",
    "2025-05-19T18:00",
    "--to",
    "2025-05-20",
    "--coin",
    "BTC",
    "--coin",
    "ETH",
    "--coin",
    "SOL",
]
FROM_NS, TO_NS, COINS = NOW_NS - 30 * NS - 6 * 3_600 * NS, NOW_NS - 30 * NS, ("BTC", "ETH", "SOL")


class Counted(Past):
    """A past that tells of each question for candles."""

    asked = 0
    on_asked: Callable[[int], None] = staticmethod(lambda _: None)  # type: ignore[assignment]

    def candles(self, coin: str, interval: str, start_ms: int, end_ms: int) -> list[str]:
        self.asked += 1
        self.on_asked(self.asked)
        return super().candles(coin, interval, start_ms, end_ms)


def past() -> Counted:
    held = {(coin, "1m"): candles(400, flat=(150, 151), absent=(200,)) for coin in COINS}
    return Counted(NOW_NS, held, answered=50)


async def process(settings: Settings, info_url: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start the command in a process of its own."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TICKWALK_")}
    values = ("record.rest_weight_per_minute=1000000", f"record.info_url={info_url}")
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serving.cli", "--home", str(settings.home),
        *(part for value in values for part in ("--set", value)), "backfill", *arguments,
        cwd=ROOT, env=environ | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_killed_while_it_asks_it_goes_on_and_the_rows_are_those_of_an_undisturbed_run(
    settings: Settings, tmp_path: Path
) -> None:
    """Killed within the fifth of six pages; the same command goes on; then both journals alone give the same."""
    venue_past = past()
    killed: list[asyncio.subprocess.Process] = []
    venue_past.on_asked = lambda number: killed[0].kill() if number == 12 else None  # type: ignore[method-assign]
    async with serving(venue_past) as venue:
        killed.append(await process(settings, venue.info_url, "candles", *ASKED))
        await killed[0].communicate()
        assert killed[0].returncode == -signal.SIGKILL
        half = read(settings, "SELECT count(*) AS n FROM candles")["n"][0].as_py()
        assert 0 < half < 3 * 359
        last = await process(settings, venue.info_url, "candles", *ASKED)
        out, error = await last.communicate()
        assert last.returncode == 0, error.decode()
        assert "3 taken, 4 were in the lake" in out.decode()
        other = at_home(settings_for(settings, venue), tmp_path / "undisturbed")
        done = await fill_in(other, coins=COINS, from_ns=FROM_NS, to_ns=TO_NS)
    assert done.rows == {"candles": 3 * 359, "bars": 3 * 360}
    assert tables(settings) == tables(other)
    assert_replayed(settings, tmp_path / "again")


def assert_replayed(settings: Settings, home: Path) -> None:
    """Assert that the journals of a home give its rows, byte for byte, in a home without any."""
    folders = sorted(settings.journal_dir.glob(f"{PREFIX}*"))
    again = load_settings(overrides={"home": home}, environ={})
    with Lake.open(again) as lake:
        for folder in folders:
            replay(folder, again, lake)
    names = ("candles", "bars", "funding")
    for name in names:
        query = f"SELECT * EXCLUDE (ts_ingested_ns) FROM {name} ORDER BY ALL"
        assert read(again, query) == read(settings, query), name
    assert sum(read(settings, f"FROM {name}").num_rows for name in names) > 100


async def test_an_answer_is_on_disk_before_a_row_is_made_of_it_and_the_next_start_of_a_recorder_uses_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lake refuses the first page: it is in the journal, which stays unsealed, and recovery makes its rows."""

    def refuse(*_: object, **__: object) -> None:
        raise LakeError("the disk is full")

    async with serving(past()) as venue:
        chosen = settings_for(settings, venue)
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "commit", refuse)
            with pytest.raises(LakeError, match="the disk is full"):
                await fill_in(chosen)
    (folder,) = settings.journal_dir.glob(f"{PREFIX}*")
    kinds = [record.kind for record in read_journal(folder)]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == (Kind.STARTED, {Kind.ANSWER}, Kind.STOPPED)
    assert not (folder / SEALED).exists()
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == [folder.name]
        assert lake.query("FROM candles").num_rows == 119
        assert lake.query("FROM bars").num_rows == 119


async def test_a_recording_that_the_lake_has_may_leave_the_disk(settings: Settings) -> None:
    async with serving(past()) as venue:
        await fill_in(settings_for(settings, venue))
    (folder,) = settings.journal_dir.glob(f"{PREFIX}*")
    kept = dataclasses.replace(settings, keep=dataclasses.replace(settings.keep, journal_days=1.0))
    done = keep_journal(kept, now_ns=WallTime().now_ns() + 2 * DAY_NS)
    assert (done.removed, done.failed) == ([folder.name], {})


async def test_ctrl_c_ends_between_two_steps_and_says_what_is_left(settings: Settings) -> None:
    venue_past = past()
    begun: list[asyncio.subprocess.Process] = []
    venue_past.on_asked = (  # type: ignore[method-assign]
        lambda number: begun[0].send_signal(signal.SIGINT) if number == 1 else None
    )
    async with serving(venue_past) as venue:
        begun.append(await process(settings, venue.info_url, "candles", *ASKED))
        out, error = await begun[0].communicate()
    assert begun[0].returncode == 0, error.decode()
    assert "steps are left; the same command goes on" in out.decode()
    (folder,) = settings.journal_dir.glob(f"{PREFIX}*")
    assert (folder / SEALED).exists()
    assert (
        read(settings, "SELECT count(*) AS n FROM batches WHERE batch_id LIKE 'candles:%'")["n"][0].as_py()
        == 1
    )


@pytest.mark.drill
@pytest.mark.timeout(3_600)
async def test_whole_recorded_files_over_the_socket(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that the venue would serve of the recorded files, and all funding; and again from the journals."""
    began_s = asyncio.get_running_loop().time()
    candle_rows = 0
    # One place among the newest 5,000 is the open candle's.
    for width in ("5m", "15m", "1h"):
        held = recorded_candles(
            recorded(f"hyperliquid/candles_{width}_to_20250520.parquet"), width, newest=4_999
        )
        async with serving(Past(NOW_NS, held)) as venue:
            done = await fill_in(
                settings_for(settings, venue), Wanted("candles", width), coins=("*",), from_ns=0
            )
        expected = sorted((coin, *row) for (coin, _), rows in held.items() for row in rows)
        found = read(
            settings,
            "SELECT split_part(instrument, '|', 3) AS coin, epoch_ms(ts_open) AS t, open, high, low, close, volume, "
            "trades FROM candles WHERE width = ? ORDER BY coin, t",
            width,
        )
        assert [tuple(row.values()) for row in found.to_pylist()] == expected
        candle_rows += done.rows["candles"]
    paid = recorded_fundings(recorded("hyperliquid/funding_1h_to_20250520.parquet"))
    async with serving(Past(NOW_NS, fundings=paid)) as venue:
        done = await fill_in(settings_for(settings, venue), Wanted("funding"), coins=("*",), from_ns=0)
    assert done.rows == {"funding": len(paid)}
    took_s = asyncio.get_running_loop().time() - began_s
    assert_replayed(settings, tmp_path / "again")
    with capsys.disabled():
        print(f"\n{candle_rows:,} candles and {len(paid):,} payments over a socket in {took_s:.0f} s")
