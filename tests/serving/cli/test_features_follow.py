"""Command `features follow` beside a running recorder, compared with a later build."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from features.build import build_features
from features.feature import FeatureBlock
from features.panel.panel import load_panel
from ingest.simulator.venue import SimulatedVenue
from serving import cli
from serving.cli import app
from storage.clock import DAY_NS, NS, US_NS, floor_ns, parse_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.command import tickwalk, until_said
from tests.drills.running import live_market, port_of, quick, running, whole
from tests.features.panels import random_panel, stored_rows

BARS: Final = 6
COINS: Final = ("BTC", "ETH")
"""Of two recorders each has one."""
SECONDS: Final = ("--width", "1s")
VALUES: Final = {"bars.widths": "1s", "bars.grace_ms": 1500}


def values_of(block: FeatureBlock, record: dict[str, Any]) -> list[tuple[float | None, float | None]]:
    """Return each value that was told of a bar beside what was built; unknown is None."""
    row = block.instruments.index(record["instrument"])
    step = block.ts_open_ns.tolist().index(parse_time_ns(record["ts_open"]))
    told = zip(block.names, block.values[row, step].tolist(), block.mask[row, step].tolist(), strict=True)
    return [(record[name], value if is_known else None) for name, value, is_known in told]


async def test_follow_beside_a_recorder_equals_a_later_build(settings: Settings) -> None:
    async with SimulatedVenue(live_market(coins=COINS), clock="real") as venue:
        settings = quick(settings, port_of(venue), record={"coins": COINS})
        async with running(settings) as run:
            await run.until(lambda vitals: whole(vitals, 3))
            chosen = [part for key, value in VALUES.items() for part in ("--set", f"{key}={value}")]
            options = (*SECONDS, "--bars", "2", "--format", "json")
            command = ["--home", str(settings.home), *chosen, "features", "follow", "live", *options]
            done = await asyncio.to_thread(CliRunner().invoke, app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = "".join(line for line in done.stdout.splitlines(keepends=True) if line.startswith("{"))
    compare(settings, said, n_bars=2, least_known=20)


@pytest.mark.drill
async def test_follow_beside_two_recorders_equals_a_later_build(settings: Settings) -> None:
    async with SimulatedVenue(live_market(coins=COINS), clock="real") as venue, AsyncExitStack() as recorders:
        for shard in ("1/2", "2/2"):
            settings = quick(settings, port_of(venue), record={"coins": COINS, "shard": shard})
            run = await recorders.enter_async_context(running(settings))
            await run.until(lambda vitals: whole(vitals, 3))
        follow = tickwalk(
            settings.home,
            VALUES,
            "features",
            "follow",
            "live",
            *SECONDS,
            "--bars",
            str(BARS),
            "--format",
            "json",
        )
        endless = tickwalk(settings.home, VALUES, "features", "follow", "candles", *SECONDS)
        said = await asyncio.to_thread(follow.communicate)
        line = await asyncio.to_thread(until_said, endless, "instruments", "known", "s after the close")
        endless.send_signal(signal.SIGINT)
        rest = await asyncio.to_thread(endless.communicate)
    assert follow.returncode == 0, said
    assert endless.returncode == 130, line + rest
    assert "Traceback" not in rest
    compare(settings, said, n_bars=BARS, least_known=50)


def compare(settings: Settings, said: str, *, n_bars: int, least_known: int) -> None:
    """Compare the bars that a command printed with a build of the lake."""
    records = [json.loads(text) for text in said.splitlines()]
    assert len({record["ts_open"] for record in records}) == n_bars
    # The second recorder may have begun a few bars after the first that are told.
    assert (
        len({record["instrument"] for record in records if record["ts_open"] == records[-1]["ts_open"]}) == 2
    )
    with Lake.open(settings, read_only=True) as lake:
        first_us = lake.query("SELECT epoch_us(min(ts_open)) AS first_us FROM bars")["first_us"][0].as_py()
        since_ns = max(floor_ns(first_us * US_NS, DAY_NS), parse_time_ns(records[0]["ts_open"]) - 1_000 * NS)
        panel = load_panel(lake, width="1s", since_ns=since_ns, grace_ns=settings.bars.grace_ns)
    block = build_features(panel, "live")
    pairs = [pair for record in records for pair in values_of(block, record)]
    assert all(told == built for told, built in pairs)
    assert sum(told is not None for told, _ in pairs) > least_known


def test_lake_whose_recorder_stopped_long_ago_is_refused(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = random_panel(3, 40, seed=1)
    with Lake.open(settings) as lake:
        lake.commit({"bars": stored_rows(panel)}, batch_id="bars")
    with pytest.raises(SystemExit) as ended:
        cli.main(["--home", str(settings.home), "features", "follow", "candles", "--width", "1m"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "the newest 1m bar opened at 2025-09-04T16:12:00" in told
    assert "tickwalk record" in told
