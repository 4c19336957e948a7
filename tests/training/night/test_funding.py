"""Funding read from the lake into the bars that pay it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from storage.clock import parse_time_ns
from storage.contracts.tables import FUNDING
from storage.lake.lake import Lake
from tests.storage.rows import funding
from tests.training.builders import panel_of, settings_in
from training.evaluation.funding_charges import due_times
from training.night.pinned_inputs import read_funding

DAY = "2025-05-05T"
ON_TIME = ("02:00:00", "02:00:00.200", "01:59:59.800", "02:13:07", "02:24:00")
NEVER_SO_LATE = {"02:25:00": "02:25:00", "02:50:00": "02:50:00", "01:59:10": "01:59:00"}


def test_late_stamp_belongs_to_its_hour() -> None:
    stamps = np.array([parse_time_ns(DAY + text) for text in (*ON_TIME, *NEVER_SO_LATE)])
    due = [parse_time_ns(DAY + text) for text in (*["02:00:00"] * len(ON_TIME), *NEVER_SO_LATE.values())]
    assert due_times(stamps).tolist() == due


def test_payment_is_charged_once_in_the_bar_of_its_hour(tmp_path: Path) -> None:
    panel = panel_of(np.ones((3, 6 * 60)), start_ns=parse_time_ns(f"{DAY}00:00"))
    payments = (
        ("C0", "00:00:00", 1e-4),  # paid by who held before the first bar
        ("C0", "00:20:00", 1e-4),  # and again with a delay
        ("C0", "02:00:00", 2e-4),
        ("C0", "02:00:00.120", 2.5e-4),  # stored with and without its delay
        ("C0", "03:12:00", 3e-4),
        ("C1", "03:00:00.010", 4e-4),
        ("C1", "06:00:00", 5e-4),  # due at the last close
        ("C2", "06:00:00.100", 6e-4),  # known only after the range
    )
    rows = [
        funding(
            0,
            instrument=f"hyperliquid|perp|{name}",
            ts_event=parse_time_ns(DAY + stamp) // 1000,
            funding_rate=rate,
        )
        for name, stamp, rate in payments
    ]
    with Lake.open(settings_in(tmp_path)) as lake:
        assert lake.commit({"funding": FUNDING.rows(rows)}, batch_id="paid").refused == 0
        paid = read_funding(lake, panel, at=lake.snapshot())
    assert paid is not None
    found = {(int(i), int(step)): float(paid[i, step]) for i, step in zip(*np.nonzero(paid), strict=True)}
    assert found == {(0, 119): 2e-4, (0, 179): 3e-4, (1, 179): 4e-4, (1, 359): 5e-4}
