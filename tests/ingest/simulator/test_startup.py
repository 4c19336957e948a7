"""Start and end of the simulated venue: announced addresses, errors, no leftovers."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.simulator.venue import SimulatedVenue
from storage.errors import SettingsError, VenueError
from tests.ingest.simulator.clients import answer, client, market, subscribe, waiting_venue
from tests.paths import ROOT
from tests.patience import HANG_S


async def test_a_port_in_use_is_reported() -> None:
    async with waiting_venue() as venue:
        port = int(venue.ws_url.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(VenueError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with SimulatedVenue(market(), port=port):
                pass


async def test_impossible_replay_is_refused() -> None:
    with pytest.raises(SettingsError, match="replayed 31"):
        SimulatedVenue(market(), replayed=31)


async def test_leaving_the_venue_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with SimulatedVenue(market(), wait_for_subscriptions=2) as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        await answer(socket)
    left = {task for task in asyncio.all_tasks() - before if "venue" in task.get_name()}
    assert not left


def test_serving_prints_addresses_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.cli", "--home", str(tmp_path), "serve-venue", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            said = list(itertools.takewhile(lambda line: "Ctrl-C" not in line, process.stdout))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert process.returncode == 0
    told = {words[0]: words[1] for line in said if (words := line.split())[0].count(".") == 1}
    assert {key: url.split("/", 3)[3] for key, url in told.items()} == {
        "record.ws_url": "ws",
        "record.info_url": "info",
        "record.explorer_url": "explorer",
        "gaiaex.ws_url": "gaia/ws/market",
        "gaiaex.rest_url": "gaia/v1/trade",
    }
