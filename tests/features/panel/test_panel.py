"""Dense, point-in-time panels of bars."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from features.panel.panel import Panel, content_hash, load_panel, panel_from_table, served_instruments
from storage.clock import ManualTime
from storage.errors import ContractError, InstrumentError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import CODE, MINUTE_NS, START_NS, bar_rows, random_panel, table_of

GRACE_NS = 2_000_000_000


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS)) as opened:
        yield opened


def load(lake: Lake, **options: object) -> Panel:
    return load_panel(lake, **({"width": "1m", "grace_ns": GRACE_NS} | options))  # type: ignore[arg-type]


def close_of(panel: Panel, row: int = 0) -> list[float]:
    return panel.column("close")[row].tolist()


def test_rows_land_on_a_dense_grid_and_absent_steps_are_unknown() -> None:
    panel = panel_from_table(
        bar_rows(
            [
                {"instrument": "venue|perp|B", "step": 3, "close": 8.0},
                {"step": 0, "close": 5.0},
                {"step": 2, "close": None, "status": "quiet"},
            ]
        ),
        width="1m",
    )
    assert panel.instruments == ("venue|perp|A", "venue|perp|B")
    assert panel.ts_open_ns.tolist() == [START_NS + step * MINUTE_NS for step in range(4)]
    assert panel.status.tolist() == [
        [CODE["printed"], CODE["unknown"], CODE["quiet"], CODE["unknown"]],
        [CODE["unknown"], CODE["unknown"], CODE["unknown"], CODE["printed"]],
    ]
    assert close_of(panel) == pytest.approx([5.0, math.nan, math.nan, math.nan], nan_ok=True)
    assert close_of(panel, 1) == pytest.approx([math.nan] * 3 + [8.0], nan_ok=True)
    assert panel.printed.tolist() == [[True, False, False, False], [False, False, False, True]]


def test_bounds_make_the_grid_longer_than_the_rows() -> None:
    panel = panel_from_table(
        bar_rows([{"step": 1}]), width="1m", since_ns=START_NS - 1, until_ns=START_NS + 3 * MINUTE_NS
    )
    assert panel.ts_open_ns.tolist() == [START_NS + step * MINUTE_NS for step in range(3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}, {}], "two rows stand for one bar"),
        ([{"ts_open": START_NS // 1000 + 1}, {}], "does not open on the 1m grid"),
        ([{"status": "asleep"}], "'asleep' is none of"),
    ],
)
def test_rows_that_make_no_panel_are_refused(rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        panel_from_table(bar_rows(rows), width="1m")


def test_the_last_revision_knowable_in_time_is_chosen(lake: Lake) -> None:
    rows = bar_rows(
        [
            {"step": 0, "revision": 0, "close": 1.0, "lag_ms": 100},
            {"step": 0, "revision": 1, "close": 2.0, "lag_ms": 2000},
            {"step": 0, "revision": 2, "close": 3.0, "lag_ms": 2001},
            {"step": 1, "revision": 0, "close": 4.0, "lag_ms": 90_000},
            {"step": 2, "revision": 0, "close": 5.0},
        ]
    )
    lake.commit({"bars": rows}, batch_id="one")
    panel = load(lake)
    assert close_of(panel) == pytest.approx([2.0, math.nan, 5.0], nan_ok=True)
    assert panel.status[0, 1] == CODE["unknown"], "what was known too late was never served"
    assert close_of(load(lake, grace_ns=90_000_000_000)) == [3.0, 4.0, 5.0]


def test_every_origin_is_read_unless_others_are_named(lake: Lake) -> None:
    rows = bar_rows([{"step": 0}, {"step": 1, "origin": "archive"}])
    lake.commit({"bars": rows}, batch_id="one")
    assert load(lake, grace_ns=2_000_000_000).n_steps == 2
    assert load(lake, origins=("live",)).n_steps == 1


def test_the_instruments_of_a_query_are_those_of_its_panel(lake: Lake) -> None:
    rows = bar_rows([{"step": 0}, {"step": 1, "instrument": "hyperliquid|perp|OTHER", "origin": "archive"}])
    lake.commit({"bars": rows}, batch_id="one")
    for origins in (("live",), ("archive",), ("live", "archive")):
        names = served_instruments(lake, width="1m", grace_ns=GRACE_NS, origins=origins)
        assert tuple(names) == load(lake, origins=origins).instruments


def test_a_snapshot_is_read_as_it_was(lake: Lake) -> None:
    first = lake.commit({"bars": bar_rows([{"step": 0}])}, batch_id="one").snapshot
    lake.commit({"bars": bar_rows([{"step": 1}])}, batch_id="two")
    assert load(lake, at=first).n_steps == 1
    assert load(lake).n_steps == 2


def test_range_width_and_instruments_select(lake: Lake) -> None:
    rows = [{"step": step, "instrument": f"venue|perp|{name}"} for step in range(6) for name in "ABC"]
    lake.commit(
        {"bars": bar_rows([*rows, {"step": 0, "width": "5m", "instrument": "venue|perp|Z"}])}, batch_id="one"
    )
    panel = load(
        lake,
        since_ns=START_NS + MINUTE_NS,
        until_ns=START_NS + 4 * MINUTE_NS,
        instruments=["venue|perp|C", "venue|perp|A"],
    )
    assert panel.instruments == ("venue|perp|A", "venue|perp|C")
    assert panel.ts_open_ns.tolist() == [START_NS + step * MINUTE_NS for step in (1, 2, 3)]
    assert panel.printed.all()


def test_an_empty_range_names_the_query(lake: Lake) -> None:
    lake.commit({"bars": bar_rows([{"step": 0}])}, batch_id="one")
    with pytest.raises(RangeError, match=r"no 1m bar opens from 20"):
        load(lake, since_ns=START_NS + MINUTE_NS)


def test_an_instrument_without_bars_is_named(lake: Lake) -> None:
    lake.commit({"bars": bar_rows([{"step": 0}])}, batch_id="one")
    with pytest.raises(InstrumentError, match=r"venue\|perp\|DOGE has no bar"):
        load(lake, instruments=["venue|perp|A", "venue|perp|DOGE"])


def test_the_same_rows_hash_the_same_in_another_lake(tmp_path: Path) -> None:
    rows = [
        {"step": step, "instrument": f"venue|perp|{name}", "close": 100.0 + step}
        for step in range(5)
        for name in "AB"
    ]
    hashes = []
    for number, batches in enumerate(([rows], [rows[7:], rows[:7][::-1]])):
        with Lake.open(Settings(home=tmp_path / str(number)), clock=ManualTime(START_NS + number)) as lake:
            for place, batch in enumerate(batches):
                lake.commit({"bars": bar_rows(batch)}, batch_id=f"{number}-{place}")
            hashes.append(content_hash(load(lake)))
    assert hashes[0] == hashes[1]


def test_any_changed_number_status_or_clock_changes_the_hash() -> None:
    rows = [{"step": 0}, {"step": 1}]
    changed = [
        [{"step": 0}, {"step": 1, "close": 100.0000001}],
        [{"step": 0}, {"step": 1, "volume": None}],
        [{"step": 0}, {"step": 1, "status": "blind"}],
        [{"step": 5}, {"step": 6}],
        [{"step": 0, "instrument": "x"}, {"step": 1, "instrument": "x"}],
    ]
    hashes = [content_hash(panel_from_table(bar_rows(item), width="1m")) for item in (rows, *changed)]
    assert len(set(hashes)) == len(hashes)


def test_steps_and_slices_cut_every_part() -> None:
    panel = random_panel(3, 100)
    cut = panel.slice(START_NS + 10 * MINUTE_NS, START_NS + 15 * MINUTE_NS + 1)
    assert cut.ts_open_ns.tolist() == panel.ts_open_ns[10:16].tolist()
    assert torch.equal(cut.status, panel.status[:, 10:16])
    assert torch.equal(cut.values["volume"], panel.values["volume"][:, 10:16])
    assert panel.steps(-7).n_steps == 7


def test_a_panel_that_does_not_fit_together_is_refused() -> None:
    panel = random_panel(2, 10)
    parts = {
        "instruments": panel.instruments,
        "width_ns": panel.width_ns,
        "ts_open_ns": panel.ts_open_ns,
        "values": panel.values,
        "status": panel.status,
    }
    with pytest.raises(ContractError, match="does not rise"):
        Panel(**(parts | {"ts_open_ns": panel.ts_open_ns[::-1]}))  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="panel status is"):
        Panel(**(parts | {"status": panel.status[:, 1:]}))  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="'price' is none of"):
        Panel(**(parts | {"values": {"price": panel.values["close"]}}))  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"'close' is .* it must be"):
        Panel(**(parts | {"values": {"close": panel.values["close"].float()}}))  # type: ignore[arg-type]


def test_rows_in_any_order_land_where_they_belong() -> None:
    panel = random_panel(12, 20_000)
    order = np.random.default_rng(0).permutation(12 * 20_000)
    again = panel_from_table(table_of(panel).take(order), width="1m")
    assert content_hash(again) == content_hash(panel)
