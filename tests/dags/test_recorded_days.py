"""Three days of both venues on virtual time beside a real Airflow: each is sealed, built and trained in turn."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from ingest.simulator.faults.faults import Disconnect
from ingest.simulator.venue import SimulatedVenue
from serving.airflow import launcher
from serving.airflow.client import AirflowClient
from storage.clock import MS_NS, parse_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.dags.small_night import RECIPE, TRAINING
from tests.dags.test_day_partitions import Stack
from tests.drills import recorder_process
from tests.drills.venue_process import addresses
from tests.ingest.simulator.clients import BY_NAME, market
from tests.patience import HANG_S

pytestmark = [pytest.mark.drill, pytest.mark.timeout(2_400)]
START: Final = dt.date(2026, 3, 2)
N_DAYS: Final = 3
OUTAGES_H: Final = ((2.0, 1 / 6), (5.0, 1.0), (9.0, 48.0), (58.0, 3.0), (62.0, 0.5))
"""Start and length of five outages of both venues; the third covers the whole second day."""
COINS: Final = ("BTC", "SOL")
NIGHT: Final = (
    RECIPE.replace("test_units = 6", "test_units = 3")
    .replace("valid_units = 6", "valid_units = 3")
    .replace('name = "small"', 'name = "small"\nvenues = ["hyperliquid"]')
)
"""A night judges rows as served, so it needs a day of which a part was recorded."""
SEALED_MS: Final = 20 * 60_000
_ENDED: Final = ("success", "failed")


@contextmanager
def virtual_venue() -> Iterator[int]:
    """Serve the market from a thread, on a clock that stands still while nobody records; yield the port."""
    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        source = market(
            start_ns=parse_time_ns(str(START)),
            span_s=N_DAYS * 86_400.0 + 3_600.0,
            coins=tuple(BY_NAME[name] for name in COINS),
            activity=0.25,
            context_s=20,
            book_s=20,
        )
        faults = [Disconnect(at_s=at * 3_600, outage_s=length * 3_600) for at, length in OUTAGES_H]
        async with SimulatedVenue(source, wait_for_subscriptions=7, faults=faults) as venue:
            stop = asyncio.Event()
            port = int(venue.info_url.split(":")[-1].partition("/")[0])
            ready.set_result((port, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, loop, stop = ready.result(timeout=HANG_S)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30.0)


def venue_ms(settings: Settings) -> int:
    """Return the venue's clock; 0 while it is down."""
    answer = httpx.post(
        settings.record.info_url, json={"type": "exchangeStatus"}, trust_env=False, timeout=60.0
    )
    return int(answer.json()["time"]) if answer.is_success else 0


def record_until(settings: Settings, values: dict[str, object], name: str, at_ms: int) -> None:
    """Let a recorder of its own process record until the venue's clock has passed an instant."""
    if venue_ms(settings) >= at_ms:
        return
    process = recorder_process.start(settings.home, values, name=name)
    try:
        deadline_s = time.monotonic() + HANG_S * 5
        while venue_ms(settings) < at_ms:
            assert process.is_alive(), "the recorder ended"
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
    finally:
        process.terminate()
        process.join(HANG_S)
    assert process.exitcode == 0


def test_each_day_is_sealed_built_and_trained_before_the_next(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        airflow_port = free.getsockname()[1]
    with virtual_venue() as port:
        values: dict[str, object] = addresses(port) | {
            "record.clock": "venue", "record.coins": COINS, "record.channels": ("trades", "bbo", "activeAssetCtx"),
            "record.explorer_url": "", "record.ntp_server": "", "record.twins": 1, "record.backoff_first_s": 0.01,
            "record.rest_weight_per_minute": 1_000_000, "gaiaex.symbols": ("BTC",), "gaiaex.handshakes_per_s": 50.0,
            "bars.widths": ("5m",), "metrics.port": 0, "airflow.port": airflow_port, "airflow.parallelism": 3,
        }  # fmt: skip
        settings = load_settings(overrides={"home": tmp_path / "home", **values}, environ={})
        settings.ensure_home()
        recipe = settings.home / "small.toml"
        recipe.write_text(NIGHT, encoding="utf-8")
        settings = replace(settings, training=replace(TRAINING, recipe=str(recipe)))
        started = launcher.up(settings, timeout_s=900)
        try:
            assert started.new_password
            with AirflowClient(started.url, password=started.new_password) as client:
                run_days(Stack(settings, client, START), values)
        finally:
            launcher.down(settings, grace_s=10)


def run_days(stack: Stack, values: dict[str, object]) -> None:
    for dag in ("build_features", "retrain_nightly", "repair_gaps", "seal_day"):
        stack.client.unpause(dag)
    days = [str(START + dt.timedelta(days=number)) for number in range(N_DAYS)]
    nights: list[dict[str, Any]] = []
    for number, day in enumerate(days):
        end_ms = parse_time_ns(day) // MS_NS + 86_400_000
        record_until(stack.settings, values, f"day-{number}", end_ms + SEALED_MS)
        stack.client.post("dags/seal_day/dagRuns", {"logical_date": None, "partition_key": day})
        stack.until(lambda day=day: stack.states("build_features").get(day) in _ENDED)  # type: ignore[misc]
        if (
            number
        ):  # virtual time jumps over an outage, so the second day was complete when the first was sealed
            stack.until(lambda day=day: stack.states("retrain_nightly").get(day) in _ENDED)  # type: ignore[misc]
            nights.append(next(run for run in stack.runs("retrain_nightly") if run["partition_key"] == day))
        stack.trigger("repair_gaps", conf={})
        assert stack.states("seal_day")[day] == "success"
        assert stack.states("build_features")[day] == "success"
        for name, row in newest(stack.settings, day).items():
            assert row["covered_h"] + row["missing_h"] == pytest.approx(24.0)
            if name.startswith("gaiaex"):
                assert row["repairable_h"] == 0.0, "GaiaEx has no archive"
            else:
                assert row["repairable_h"] == row["missing_h"] <= 1.0, "what is younger than an hour follows"
        for name, row in newest(stack.settings, days[max(number - 1, 0)]).items() if number else ():
            assert name.startswith("gaiaex") or (row["state"], row["missing_h"]) == ("repaired", 0.0), row
    states = stack.states("retrain_nightly")
    assert states[days[-1]] == "success"
    assert set(states) == set(days[1:])
    assert all(one["end_date"] <= other["start_date"] for one, other in pairwise(nights))
    assert newest(stack.settings, days[1])["gaiaex|perp|BTC"]["state"] == "missing"


def newest(settings: Settings, day: str) -> dict[str, dict[str, Any]]:
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query("FROM coverage_days_latest WHERE day = ?", [day]).to_pylist()
    assert len(rows) == 3
    return {row["instrument"]: row for row in rows}
