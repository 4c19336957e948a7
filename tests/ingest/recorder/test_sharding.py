"""Sharded recorders: the same tables as one recorder of all instruments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingest.recorder.recorder import Recorder
from ingest.sharding import shard_of
from ingest.simulator.faults.faults import Disconnect, Fault
from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import assert_equal, fresh, read_tables, replay_all
from tests.drills.running import port_of, quick
from tests.ingest.simulator.clients import BY_NAME, market

COINS: Final = ("BTC", "ETH", "SOL", "HYPE", "DOGE", "AVAX")
CHANNELS: Final = ("trades", "bbo", "l2Book", "activeAssetCtx")
PARTS: Final = 3
# Where a row came from is each recorder's own; `coverage` and `lags` are kept by recording, not by instrument.
OWN: Final = ("journal", "frame")
COMPARED: Final = ("trades", "bars", "quotes", "books", "contexts", "quarantine")


async def record(settings: Settings, *, shard: str, faults: list[Fault], span_s: float) -> None:
    """Record one new market from its first frame to its end; all of it or one shard."""
    part = int(shard[0]) if shard else 0
    mine = [coin for coin in COINS if not part or shard_of(coin, PARTS) == part]
    source = market(coins=tuple(BY_NAME[name] for name in COINS), span_s=span_s)
    async with SimulatedVenue(
        source, wait_for_subscriptions=len(mine) * len(CHANNELS), faults=faults
    ) as venue:
        feed = {"coins": COINS, "channels": CHANNELS, "clock": "venue", "shard": shard}
        settings = quick(settings, port_of(venue), record=feed, bars={"widths": ("10s", "1m")})
        with Lake.open(settings) as lake:
            name = f"part-{part}"
            await Recorder(settings, lake, name=name, ends_with_venue=True).run(asyncio.Event())


def comparable(settings: Settings) -> dict[str, pa.Table]:
    """Return the columns that do not depend on which coins share a socket.

    How far a lost connection had proven an instrument is told by its neighbours too. So of a bar that the loss has cut
    everything is compared but `observed_ms`: whether it is blind or repaired, why, and what printed in it.
    """
    tables = read_tables(settings, names=COMPARED, without=OWN)
    bars = tables["bars"]
    is_cut = pc.or_(pc.equal(bars["status"], pa.scalar("blind")), bars["repaired"])
    at = bars.schema.get_field_index("observed_ms")
    observed = pc.if_else(is_cut, pa.scalar(None, pa.int64()), bars["observed_ms"])
    tables["bars"] = bars.set_column(at, "observed_ms", observed)
    return tables


@pytest.mark.parametrize(
    ("faults", "span_s"),
    [
        pytest.param([Disconnect(at_s=30.0, outage_s=20.0)], 90.0, id="with a short outage"),
        pytest.param([], 240.0, id="undisturbed", marks=pytest.mark.drill),
        pytest.param(
            [Disconnect(at_s=70.0, outage_s=20.0)], 240.0, id="with an outage", marks=pytest.mark.drill
        ),
    ],
)
async def test_three_shards_are_one_recording(tmp_path: Path, faults: list[Fault], span_s: float) -> None:
    one, three = fresh(tmp_path / "one"), fresh(tmp_path / "three")
    await record(one, shard="", faults=faults, span_s=span_s)
    for part in range(1, PARTS + 1):
        await record(three, shard=f"{part}/{PARTS}", faults=faults, span_s=span_s)
    rows = assert_equal(comparable(one), comparable(three))
    assert rows["trades"] > 200 * span_s / 240.0
    assert rows["bars"] >= len(COINS) * (span_s // 10)
    replayed = replay_all(three, tmp_path / "replayed")
    assert_equal(read_tables(three), read_tables(replayed))
    assert_equal(comparable(one), comparable(replayed))


def test_each_of_the_shards_has_some_of_the_coins() -> None:
    assert {shard_of(coin, PARTS) for coin in COINS} == set(range(1, PARTS + 1))
