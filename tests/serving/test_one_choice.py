"""All readers of bars choose the same row of a bar: views, panels, features, the report and the explanations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.panel.panel import COLUMNS, load_panel
from features.store.panel_cache import cached_panel
from ingest.instruments.reference_data import universe
from serving.explain.bars import explain
from serving.explain.features import _SERVED
from serving.report.lake_queries import _BARS as REPORTED
from storage.contracts.contract import ORIGINS
from storage.contracts.tables import BARS, STATUSES
from storage.errors import RangeError
from storage.lake.lake import Lake
from storage.lake.point_in_time import CLOCKS, Basis
from storage.settings import Settings, load_settings
from tests.storage.lake.known_bars import MINUTE_NS, Row, histories, winners
from tests.storage.rows import LAG_NS

GRACE_NS = 2 * LAG_NS
ALL_US = (0, 10**12)
Key = tuple[str, int]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes")


@hypothesis_settings(
    deadline=None, max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn=st.lists(histories(), min_size=12, max_size=20), name=st.uuids())
def test_every_reader_chooses_the_same_row(homes: Path, drawn: list[list[Row]], name: object) -> None:
    settings = load_settings(overrides={"home": homes / str(name)}, environ={})
    with Lake.open(settings) as lake:
        rows = [
            row | {"instrument": f"hyperliquid|perp|I{number:02d}", "home": "one"}
            for number, history in enumerate(drawn)
            for row in history
        ]
        plain = [{column: value for column, value in row.items() if column != "home"} for row in rows]
        lake.commit({"bars": BARS.rows(plain)}, batch_id="drawn")
        _compare(settings, lake, rows)


def _compare(settings: Settings, lake: Lake, rows: list[Row]) -> None:
    latest = winners(rows, clock="ts_knowable_ns", is_known=lambda _: True)
    assert _latest(lake) == {key: row["revision"] for key, row in latest.items()}
    for lag_ns in (0, LAG_NS, 5 * LAG_NS):
        at_ns = MINUTE_NS + lag_ns
        known = winners(
            rows, clock="ts_knowable_ns", is_known=lambda row, at=at_ns: row["ts_knowable_ns"] <= at
        )
        assert _latest(lake, known_at_ns=at_ns) == {key: row["revision"] for key, row in known.items()}
        traded = {key[0] for key, row in known.items() if key[1] == 0 and _notional(row) > 0}
        assert _traded(lake, at_ns) == traded
    for basis, clock in CLOCKS.items():
        in_time = winners(rows, clock=clock, is_known=lambda row, c=clock: _is_in_time(row, c))
        for found in _panels(settings, lake, basis):
            assert found == {key: _shown(row) for key, row in in_time.items()}
    served = winners(rows, clock="ts_knowable_ns", is_known=lambda row: _is_in_time(row, "ts_knowable_ns"))
    names = sorted({row["instrument"] for row in rows})
    counted = lake.query(REPORTED, (60_000_000, "1m", *ALL_US, list(ORIGINS), names, GRACE_NS)).to_pylist()
    assert {
        (row["instrument"], row["bin"]): (row["status"], row["origin"], row["prints"]) for row in counted
    } == {key: (row["status"], row["origin"], row["trades"]) for key, row in served.items()}
    for name in names[:3]:
        found = lake.query(_SERVED, (name, "1m", list(ORIGINS), *ALL_US, GRACE_NS)).to_pylist()
        assert {(name, row["open_ns"] // MINUTE_NS): row["revision"] for row in found} == {
            key: row["revision"] for key, row in served.items() if key[0] == name
        }
    (name, minute), row = next(iter(latest.items()))
    lines = explain(lake, settings, name=name, at_ns=minute * MINUTE_NS, width="1m")
    (counting,) = [line for line in lines if line.endswith("; counts")]
    assert counting.strip().startswith(f"{row['revision']}: {row['status']}")


def _is_in_time(row: Row, clock: str) -> bool:
    return bool(row[clock] <= row["ts_close"] * 1000 + GRACE_NS)


def _latest(lake: Lake, **more: Any) -> dict[Key, int]:
    rows = lake.query("SELECT instrument, ts_open, revision FROM bars_latest", **more).to_pylist()
    return {(row["instrument"], row["ts_open"].minute): row["revision"] for row in rows}


def _notional(row: Row) -> float:
    amount = row.get("notional")
    return float(amount if amount is not None else (row["volume"] or 0.0) * (row["close"] or 0.0))


def _traded(lake: Lake, at_ns: int) -> set[str]:
    try:
        return set(universe(lake, at_ns, days=1, top=99)["instrument"].to_pylist())
    except RangeError:
        return set()


def _panels(settings: Settings, lake: Lake, basis: Basis) -> list[dict[Key, tuple[object, ...]]]:
    query: dict[str, Any] = {"width": "1m", "grace_ns": GRACE_NS, "rows": basis, "since_ns": 0}
    found = []
    try:
        for panel in (load_panel(lake, **query), cached_panel(settings.features_dir, lake, **query)[0]):
            cells = {}
            for place, instrument in enumerate(panel.instruments):
                for step in range(panel.n_steps):
                    values = {name: float(panel.column(name)[place, step]) for name in COLUMNS}
                    cell = {"status": STATUSES[int(panel.status[place, step])]} | {
                        name: None if math.isnan(value) else value for name, value in values.items()
                    }
                    if not math.isnan(values["observed_ms"]):  # a row
                        cells[instrument, step] = _shown(cell)
            found.append(cells)
    except RangeError:
        found.append({})
    return found


def _shown(row: Row) -> tuple[object, ...]:
    names = (
        "status",
        "volume",
        "trades",
        "buy_volume",
        "notional",
        "bid",
        "ask",
        "oracle",
        "mark",
        "observed_ms",
    )
    return tuple(row.get(name) for name in names)
