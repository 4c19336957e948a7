"""What a night stands on: paid funding, by the bar in which it falls due."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from storage.clock import NS
from storage.contracts import FUNDING
from storage.lake import Lake
from storage.settings import Settings
from tests.training.builders import MINUTE_NS, START_NS, panel_of
from training.pinned import read_funding

HOUR_NS = 60 * MINUTE_NS
FIRST_HOUR_NS = -(-START_NS // HOUR_NS) * HOUR_NS


def paid(instrument: str, at_ns: int, rate: float) -> dict[str, object]:
    return {
        "instrument": instrument,
        "ts_event": datetime.fromtimestamp(at_ns / NS, UTC),
        "funding_rate": rate,
        "premium": None,
        "interval_h": 1,
        "source": "test",
        "ts_knowable_ns": at_ns,
    }


def test_funding_falls_due_in_the_bar_that_closes_on_the_hour(tmp_path: Path) -> None:
    panel = panel_of(np.full((2, 200), 100.0))
    rows = [
        # The venue stamps some milliseconds after the hour, or before it.
        paid("hyperliquid|perp|C1", FIRST_HOUR_NS + 158_000_000, 1e-4),
        paid("hyperliquid|perp|C1", FIRST_HOUR_NS + HOUR_NS - 5_000_000, -2e-4),
        paid("hyperliquid|perp|C1", FIRST_HOUR_NS + 100 * HOUR_NS, 9.0e-1),
        paid("hyperliquid|perp|other", FIRST_HOUR_NS, 9.0e-1),
    ]
    with Lake.open(Settings(home=tmp_path)) as lake:
        before = lake.snapshot()
        done = lake.commit({"funding": FUNDING.rows(rows)}, batch_id="f", inputs={})
        assert done.rows["funding"] == 4
        found = read_funding(lake, panel, at=done.snapshot)
        assert read_funding(lake, panel, at=before) is None
    assert found is not None
    step = int(np.flatnonzero(panel.ts_close_ns == FIRST_HOUR_NS)[0])
    assert [tuple(place) for place in np.argwhere(found)] == [(1, step), (1, step + 60)]
    assert found[1, step] == 1e-4
    assert found[1, step + 60] == -2e-4
