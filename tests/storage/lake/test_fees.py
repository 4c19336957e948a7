"""The fee schedule: which row is in force at an instant, and the errors without one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from storage.clock import parse_time_ns
from storage.errors import SettingsError
from storage.lake.fees import FeeRow, FeeSchedule, read_fees, seed_fees
from storage.lake.lake import Lake
from storage.settings import Settings

BTC = "hyperliquid|perp|BTC"
CHANGE_NS = parse_time_ns("2025-05-05T03:00")
JAN_NS = parse_time_ns("2026-01-20")
ALL_NS = parse_time_ns("2030-01-01")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Return a lake with the published fees; only to be read."""
    with Lake.open(Settings(home=tmp_path_factory.mktemp("seeded"))) as lake:
        seed_fees(lake)
        yield lake


def test_fee_is_the_one_in_force_at_the_instant(seeded: Lake) -> None:
    at = np.array([parse_time_ns("2023-02-26"), CHANGE_NS - 1, CHANGE_NS, ALL_NS])
    schedule = read_fees(seeded, "taker", until_ns=ALL_NS)
    assert schedule.bps(BTC, at).tolist() == [3.5, 3.5, 4.5, 4.5]
    assert schedule.bps("gaiaex|perp|BTC", at[-1:]).tolist() == [3.5]


@pytest.mark.parametrize("name", ["gaiaex|perp|BTC", "hyperliquid|perp|xyz:AAPL", "hyperliquid|spot|@1"])
def test_unknown_fee_is_refused(seeded: Lake, name: str) -> None:
    schedule = read_fees(seeded, "taker", until_ns=ALL_NS)
    with pytest.raises(SettingsError, match=r"no taker fee of .* at 2025-01-01.*tickwalk reference seed"):
        schedule.bps(name, np.array([parse_time_ns("2025-01-01")]))


def test_snapshot_before_the_seed_has_no_fees(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        before = lake.snapshot()
        seed_fees(lake)
        assert read_fees(lake, "taker", until_ns=ALL_NS, at=before).rows == ()
        assert len(read_fees(lake, "taker", until_ns=ALL_NS).rows) == 4
        assert len(read_fees(lake, "taker", until_ns=CHANGE_NS - 1).rows) == 1


def test_only_rows_in_force_are_used(seeded: Lake) -> None:
    schedule = read_fees(seeded, "taker", until_ns=ALL_NS)
    for at, bps in (([CHANGE_NS - 1], [3.5]), ([CHANGE_NS - 1, CHANGE_NS], [3.5, 4.5]), ([JAN_NS], [4.5])):
        used = schedule.used([BTC], np.array(at))
        assert [row.bps for row in used.rows] == bps
        assert used.bps(BTC, np.array(at)).tolist() == bps


def test_correction_applies_from_the_instant_it_became_known() -> None:
    first = FeeRow("x", "perp", "", 2.0, from_ns=0, to_ns=None, knowable_ns=0)
    correction = FeeRow("x", "perp", "", 3.0, from_ns=0, to_ns=100, knowable_ns=50)
    schedule = FeeSchedule("taker", "base", (correction, first))
    at = np.array([0, 49, 50, 99, 100])
    assert schedule.bps("x|perp|A", at).tolist() == [2.0, 2.0, 3.0, 3.0, 2.0]
    assert schedule.bps("x|perp|A", at, known_ns=60).tolist() == [3.0, 3.0, 3.0, 3.0, 2.0]
