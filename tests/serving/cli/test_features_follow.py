"""Command `features follow` beside a running recorder, compared with a later build."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from features.build import build_features
from features.feature import FeatureBlock
from features.panel.panel import load_panel
from ingest.simulator.venue import SimulatedVenue
from serving import cli
from storage.clock import DAY_NS, NS, US_NS, floor_ns, iso, parse_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.command import tickwalk, until_said
from tests.drills.running import live_market, port_of, quick, running, whole
from tests.features.panels import MINUTE_NS, random_panel, stored_rows
from tests.patience import HANG_S

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


@pytest.mark.parametrize("form", ["json", "line"])
def test_bars_are_printed_until_the_number_wanted(
    settings: Settings, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """The short form of the next test: bars that are overdue at once, beside a recorder that just stopped."""
    steps, wanted = 200, 4
    start_ns = floor_ns(time.time_ns(), MINUTE_NS) - (steps + 10) * MINUTE_NS
    panel = random_panel(3, steps, seed=1, start_ns=start_ns)
    with Lake.open(settings) as lake:
        lake.commit({"bars": stored_rows(panel)}, batch_id="bars")
    words = ["candles", "--width", "1m", "--patience", "0", "--bars", str(wanted), "--format", form]
    cli.main(["--home", str(settings.home), "features", "follow", *words])
    lines = capsys.readouterr().out.splitlines()
    # The newest two bars of the lake, and two that nobody recorded.
    expected = [iso(int(panel.ts_open_ns[-2]) + number * MINUTE_NS) for number in range(wanted)]
    if form == "line":
        assert [line.split()[0] for line in lines] == expected
        assert all("3 instruments" in line and "s after the close" in line for line in lines)
        return
    records = [json.loads(line) for line in lines]
    assert [record["ts_open"] for record in records] == [opened for opened in expected for _ in range(3)]
    assert [record["instrument"] for record in records] == [*panel.instruments] * wanted
    assert all(record["log_return_1"] is None for record in records[6:]), "what nobody recorded is unknown"
    with Lake.open(settings, read_only=True) as lake:
        block = build_features(load_panel(lake, width="1m", grace_ns=settings.bars.grace_ns), "candles")
    pairs = [pair for record in records[:6] for pair in values_of(block, record)]
    assert all(told == built for told, built in pairs)
    assert sum(told is not None for told, _ in pairs) > 50


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
        said, _ = await asyncio.to_thread(follow.communicate, timeout=HANG_S)
        line = await asyncio.to_thread(until_said, endless, "instruments", "known", "s after the close")
        endless.send_signal(signal.SIGINT)
        rest, _ = await asyncio.to_thread(endless.communicate, timeout=HANG_S)
    assert follow.returncode == 0, said
    assert endless.returncode == 130, line + rest
    assert "Traceback" not in rest
    records = [json.loads(text) for text in said.splitlines()]
    assert len({record["ts_open"] for record in records}) == BARS
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
    assert sum(told is not None for told, _ in pairs) > 50


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
