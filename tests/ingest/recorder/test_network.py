"""Silent network failures: detection, and complete trades through the twin socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import (
    assert_bars_hold_trades,
    assert_equal,
    fresh,
    read_tables,
    replay_all,
    stored_prints,
)
from tests.drills.proxy import FaultProxy
from tests.drills.running import Running, live_market, port_of, quick, running, whole

SOCKETS: Final = 2
PONG_S: Final = 2.5
# Two pulses to notice, and what a busy machine takes.
NOTICE_S: Final = 2 * PONG_S + 5.0
# What takes as long hangs.
HANGS_S: Final = 120.0
LIMITS: Final[dict[str, Any]] = {
    "ping_s": 0.4, "pong_timeout_s": PONG_S, "socket_silence_s": 6.0, "connect_timeout_s": 2.5
}  # fmt: skip

Fault = Callable[[FaultProxy, int | None], None]

# What a fault does, and which cause its gap has.
FAULTS: Final[dict[str, tuple[Fault, str]]] = {
    "cut": (lambda proxy, only: proxy.cut(only=only), "connection lost"),
    "stalled": (lambda proxy, only: proxy.stall(only=only), "pong missing for 2.5 s"),
    "slow": (lambda proxy, only: proxy.slow(40, only=only), "pong missing for 2.5 s"),
    "half open": (lambda proxy, only: proxy.half_open(only=only), "pong missing for 2.5 s"),
}


@asynccontextmanager
async def recording_through_a_proxy(settings: Settings) -> AsyncIterator[tuple[Running, FaultProxy]]:
    """Yield a recorder behind a proxy, once it runs; beside it an undisturbed one records the same venue."""
    async with (
        SimulatedVenue(live_market(activity=8.0), clock="real") as venue,
        FaultProxy("127.0.0.1", port_of(venue)) as proxy,
    ):
        through = f"ws://127.0.0.1:{proxy.port}/ws"
        disturbed = quick(settings, port_of(venue), record={**LIMITS, "ws_url": through})
        undisturbed = quick(fresh(settings.home.parent / "undisturbed"), port_of(venue))
        async with running(undisturbed), running(disturbed) as run:
            await run.until(lambda vitals: whole(vitals, 1) and vitals.subscriptions_missing == 0)
            yield run, proxy


async def strike(run: Running, proxy: FaultProxy, fault: Fault, only: int | None, *, notice_s: float) -> None:
    """Cause a fault, and wait until it is detected and repaired."""
    before = run.vitals.reconnects
    fault(proxy, only)
    assert await run.until(lambda vitals: vitals.reconnects > before) < notice_s
    proxy.resume()
    await run.until(
        lambda vitals: (
            vitals.connections_open == vitals.connections_wanted and vitals.subscriptions_missing == 0
        )
    )


async def go_on(run: Running) -> None:
    """Let some fully watched bars close: a new socket proves only what happened after its subscription."""
    bars = run.vitals.bars
    await run.until(lambda vitals: vitals.bars >= bars + 9 and whole(vitals, 1))


def bars_of(settings: Settings) -> dict[tuple[str, datetime], dict[str, Any]]:
    """Return the last revision of each bar."""
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query(
            """SELECT instrument, ts_open, status, cause, trades, open, high, low, close, volume, vwap
               FROM bars_latest ORDER BY ALL"""
        ).to_pylist()
    return {(row.pop("instrument"), row.pop("ts_open")): row for row in rows}


def assert_as_undisturbed(run: Running) -> int:
    """Check that each bar that is not blind equals the undisturbed recorder's; return their number."""
    theirs = bars_of(fresh(run.settings.home.parent / "undisturbed"))
    pairs = [
        (key, bar, theirs[key])
        for key, bar in bars_of(run.settings).items()
        if key in theirs and "blind" not in (bar["status"], theirs[key]["status"])
    ]
    for key, bar, twin in pairs:
        assert bar == twin, key
    return len(pairs)


def causes(settings: Settings, kind: str) -> set[str]:
    """Return the causes that ended trade coverage on a socket (`watched`) or on all sockets (`gap`)."""
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query(
            "SELECT DISTINCT cause FROM coverage WHERE channel = 'trades' AND kind = ? AND cause <> ''",
            [kind],
        )
    # What the chain did meanwhile may stand behind it.
    return {str(cause).partition(";")[0] for cause in rows["cause"].to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "notice_s"),
    [
        pytest.param(["stalled"], HANGS_S, id="stalled"),
        pytest.param([*FAULTS], NOTICE_S, id="each in turn", marks=pytest.mark.drill),
    ],
)
async def test_whatever_befalls_one_socket_its_twin_keeps_every_bar_whole(
    settings: Settings, tmp_path: Path, faults: list[str], notice_s: float
) -> None:
    async with recording_through_a_proxy(settings) as (run, proxy):
        began = datetime.now(UTC)
        for fault in faults:
            # The older of the two, which is each of them in turn.
            await strike(run, proxy, FAULTS[fault][0], sorted(proxy.numbers)[-SOCKETS], notice_s=notice_s)
            await go_on(run)
        ended = datetime.now(UTC) - timedelta(seconds=3)
    bars = bars_of(run.settings)
    disturbed = [bar for (_, at), bar in bars.items() if began <= at <= ended]
    assert [bar for bar in disturbed if bar["status"] == "blind"] == []
    assert assert_as_undisturbed(run) >= len(disturbed) > 4
    assert {FAULTS[fault][1] for fault in faults} < causes(run.settings, "watched")
    assert causes(run.settings, "gap") <= {"recorder down"}
    assert len(stored_prints(run.settings)) == len(set(stored_prints(run.settings)))
    assert assert_bars_hold_trades(run.settings) > 0
    assert_equal(read_tables(run.settings), read_tables(replay_all(run.settings, tmp_path / "replayed")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "notice_s"),
    [
        pytest.param(["cut"], HANGS_S, id="cut", marks=pytest.mark.drill),
        pytest.param(["cut", "stalled"], NOTICE_S, id="cut and stalled", marks=pytest.mark.drill),
    ],
)
async def test_when_all_sockets_fail_the_gap_is_bridged_or_declared_with_its_cause(
    settings: Settings, tmp_path: Path, faults: list[str], notice_s: float
) -> None:
    async with recording_through_a_proxy(settings) as (run, proxy):
        for name in faults:
            await strike(run, proxy, FAULTS[name][0], None, notice_s=notice_s)
            await go_on(run)
    assert causes(run.settings, "gap") == {FAULTS[name][1] for name in faults}
    blind = {
        bar["cause"].partition(";")[0] for bar in bars_of(run.settings).values() if bar["status"] == "blind"
    }
    assert blind <= {"connection lost", "pong missing for 2.5 s", "recorder down", "stopped"}
    assert assert_as_undisturbed(run) > 4 * len(faults)
    assert assert_bars_hold_trades(run.settings) > 0
    assert_equal(read_tables(run.settings), read_tables(replay_all(run.settings, tmp_path / "replayed")))
