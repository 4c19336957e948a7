"""Features followed bar by bar next to a recorder, compared with a later build."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch

from features.build import build_features
from features.feature import FeatureBlock
from features.follow import Follower
from features.leakage.point_in_time import PointInTimeLake
from features.live import LiveRow
from features.panel.panel import PRICES, PRINTED, Panel, load_panel
from features.sets import columns_of, get_set
from features.store.manifest import StoreKey
from storage.clock import DAY_NS, NS
from storage.contracts.tables import STATUSES, TRADES
from storage.errors import InstrumentError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import START_NS, random_panel, stored_rows
from tests.features.recorded_day import SET, Day


def compare(row: LiveRow, block: FeatureBlock, *, mask: bool) -> int:
    """Check that a bar equals the build's; return the number of its known values."""
    step = int(np.searchsorted(block.ts_open_ns, row.ts_open_ns))
    assert row.ts_open_ns == block.ts_open_ns[step]
    if mask:
        assert torch.equal(row.mask, block.mask[:, step])
    built = block.values[:, step].contiguous()
    assert bool(block.mask[:, step][row.mask].all())
    assert torch.equal(row.values.view(torch.int32)[row.mask], built.view(torch.int32)[row.mask])
    return int(row.mask.sum())


def key_of(settings: Settings, width: str = "1m", instruments: tuple[str, ...] | None = None) -> StoreKey:
    return StoreKey(SET, width, settings.bars.grace_ns, instruments=instruments)


@pytest.mark.parametrize(
    ("skipped", "most", "least_values"),
    [
        pytest.param(30, 8, 1_000, id="around the outage"),
        pytest.param(0, 1_000, 20_000, id="all day", marks=pytest.mark.drill),
    ],
)
def test_bars_come_in_order_and_equal_the_batch(day: Day, skipped: int, most: int, least_values: int) -> None:
    """The lake is viewed as known at every instant: later rows, such as revisions, are not visible yet."""
    first = day.block.lookback_bars + 2 + skipped
    compared, rows = 0, []
    with Lake.open(day.settings, read_only=True) as lake:

        def known_at(t_ns: int) -> Lake:
            return cast("Lake", PointInTimeLake(lake, t_ns))

        follower = Follower.begin(known_at(int(day.panel.ts_close_ns[first])), key_of(day.settings))
        assert follower.instruments == day.panel.instruments
        closes_ns = day.panel.ts_close_ns[first + 1 :][:most].tolist()
        for number, close_ns in enumerate(closes_ns):
            # Sometimes it is called too early.
            for t_ns in (close_ns + day.settings.bars.grace_ns + 10 * NS, close_ns)[
                :: -1 if number % 8 == 0 else 2
            ]:
                while (row := follower.step(known_at(t_ns))) is not None:
                    assert row.ts_open_ns + day.panel.width_ns + day.settings.bars.grace_ns < t_ns
                    compared += compare(row, day.block, mask=True)
                    rows.append(row.ts_open_ns)
    assert rows == day.block.ts_open_ns[first - 2 : first - 2 + len(rows)].tolist()
    assert len(rows) > (100 if most > 100 else most - 2)
    assert compared > least_values


def test_an_overdue_bar_is_unknown_where_rows_are_missing(day: Day) -> None:
    with Lake.open(day.settings, read_only=True) as lake:
        follower = Follower.begin(lake, key_of(day.settings))
        for ts_open_ns in day.panel.ts_open_ns[-2:].tolist():
            newest = follower.step(lake)
            assert newest is not None
            assert newest.ts_open_ns == ts_open_ns
            compare(newest, day.block, mask=True)
        assert follower.step(lake) is None
        beyond = follower.step(lake, is_overdue=True)
        assert beyond is not None
        known = {
            name for name, is_known in zip(day.block.names, beyond.mask.any(dim=0), strict=True) if is_known
        }
        assert known >= {"hour_sin", "hour_cos", "realised_volatility_120"}
        assert not known & {"log_return_1", "relative_spread", "funding_level", "log_return_60"}


def test_some_instruments_are_followed_and_one_that_is_not_there_is_refused(day: Day) -> None:
    names = day.panel.instruments
    with Lake.open(day.settings, read_only=True) as lake:
        follower = Follower.begin(lake, key_of(day.settings, instruments=names[2:4]))
        assert follower.instruments == names[2:4]
        row = follower.step(lake, is_overdue=True)
        assert row is not None
        assert row.values.shape == (2, len(day.block.names))
        with pytest.raises(InstrumentError, match=r"hyperliquid\|perp\|NONE has no bar"):
            Follower.begin(lake, key_of(day.settings, instruments=("hyperliquid|perp|NONE",)))


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake.open(settings) as opened:
        yield opened


def shards(panel: Panel) -> tuple[Panel, Panel]:
    """Split a panel between two recorders."""
    return panel.select(range(0, 4, 2)), panel.select(range(1, 4, 2))


def steady_panel(*, venue: str = "hyperliquid", steps: int = 80) -> Panel:
    """Return four instruments that print in every bar."""
    panel = random_panel(4, steps, seed=5)
    panel.status.fill_(PRINTED)
    for name in PRICES:
        panel.values[name] = torch.nan_to_num(panel.values[name], nan=1.0)
    panel.values["high"], panel.values["low"] = panel.values["open"] + 9e4, panel.values["open"] * 0.5
    panel.values["vwap"] = panel.values["open"]
    names = tuple(name.replace("hyperliquid", venue) for name in panel.instruments)
    return dataclasses.replace(panel, instruments=names)


def commit(lake: Lake, *parts: Panel, trades: str = "") -> None:
    """Commit bars to the lake like a recorder whose trades continue beyond the grace."""
    for part in parts:
        close_ns = int(part.ts_close_ns[-1])
        tables = {"bars": stored_rows(part, lag_ms=2_000)}
        if trades:
            late_ns = close_ns + 3 * NS
            tables["trades"] = TRADES.rows(
                [
                    {
                        "instrument": trades, "ts_event": late_ns // 1_000, "tid": close_ns, "side": "buy",
                        "price": 1.0, "size": 1.0, "is_twap": False, "origin": "live", "ts_recv_ns": late_ns,
                        "journal": "one", "frame": 0, "ts_knowable_ns": late_ns,
                    }
                ]
            )  # fmt: skip
        lake.commit(tables, batch_id=f"{part.instruments}{close_ns}")


def built(lake: Lake, settings: Settings) -> FeatureBlock:
    """Build everything that the lake holds, from the start of the day on, as a store does."""
    since_ns = START_NS - START_NS % DAY_NS
    panel = load_panel(
        lake,
        width="1m",
        since_ns=since_ns,
        joined=columns_of(get_set(SET)),
        grace_ns=settings.bars.grace_ns,
    )
    return build_features(panel, SET)


@pytest.mark.parametrize("venue", ["hyperliquid", pytest.param("gaiaex", marks=pytest.mark.drill)])
def test_a_bar_waits_for_each_of_several_recorders(lake: Lake, settings: Settings, venue: str) -> None:
    """One recorder commits beyond the grace, on the same venue, while the other's commit is still pending."""
    panel = steady_panel(venue=venue)
    one, other = shards(panel)
    commit(lake, one.steps(0, 70), other.steps(0, 70))
    follower = Follower.begin(lake, key_of(settings))
    rows = []
    for step in range(70, 80):
        commit(lake, one.steps(step, step + 1), trades=one.instruments[0])
        while (row := follower.step(lake)) is not None:
            rows.append(row)
        assert follower.next_ns == panel.ts_open_ns[step]
        commit(lake, other.steps(step, step + 1))
    assert len(rows) == 11
    block = built(lake, settings)
    assert sum(compare(row, block, mask=True) for row in rows) > 1_000


def test_an_instrument_that_is_delisted_is_not_waited_for(lake: Lake, settings: Settings) -> None:
    panel = steady_panel()
    panel.status[3, 70] = STATUSES.index("unlisted")
    commit(lake, panel.steps(0, 71), panel.select(range(3)).steps(71, 73))
    follower = Follower.begin(lake, key_of(settings))
    rows = []
    while (row := follower.step(lake)) is not None:
        rows.append(row)
    assert [row.ts_open_ns for row in rows] == panel.ts_open_ns[71:73].tolist()
    assert all(compare(row, built(lake, settings), mask=True) for row in rows)


def test_a_new_listing_affects_others_as_in_a_build(lake: Lake, settings: Settings) -> None:
    """Ranks and market returns are computed over all instruments."""
    panel = steady_panel()
    commit(lake, panel.select(range(3)).steps(0, 72))
    follower = Follower.begin(lake, key_of(settings))
    assert len(follower.instruments) == 3
    commit(lake, panel.steps(72, 80))
    rows = []
    while (row := follower.step(lake)) is not None:
        rows.append(row)
    assert follower.instruments == panel.instruments
    assert rows[-1].ts_open_ns == panel.ts_open_ns[-1]
    block = built(lake, settings)
    assert sum(compare(row, block, mask=True) for row in rows if len(row.mask) == 4) > 500


def test_rows_missed_by_a_stopped_recorder_count_after_its_return(lake: Lake, settings: Settings) -> None:
    panel = steady_panel()
    one, other = shards(panel)
    commit(lake, one.steps(0, 70), other.steps(0, 70))
    follower = Follower.begin(lake, key_of(settings))
    while follower.step(lake) is not None:
        pass
    commit(lake, one.steps(70, 71))
    assert follower.step(lake) is None
    blind = follower.step(lake, is_overdue=True)
    assert blind is not None
    assert not blind.mask[1].all()
    commit(lake, one.steps(71, 72))
    assert follower.step(lake) is not None, "an absent instrument is waited for once"
    commit(lake, other.steps(70, 73), one.steps(72, 73))
    back = follower.step(lake)
    assert back is not None
    assert compare(back, built(lake, settings), mask=True) > 100
    commit(lake, one.steps(73, 74))
    assert follower.step(lake) is None, "a returned instrument is waited for again"


def test_no_snapshot_stays_attached_after_reading(lake: Lake, settings: Settings) -> None:
    """A named snapshot stays attached for as long as a connection lasts: 86,400 of them a day at bars of a second."""
    panel = steady_panel()
    commit(lake, panel.steps(0, 70))
    follower = Follower.begin(lake, key_of(settings))
    attached = []
    for step in range(70, 75):
        commit(lake, panel.steps(step, step + 1))
        assert follower.step(lake) is not None
        attached.append(lake.query("SELECT count(*) AS found FROM duckdb_databases()")["found"][0].as_py())
    assert set(attached) == {attached[0]}


def test_a_lake_with_one_bar_is_refused(lake: Lake, settings: Settings) -> None:
    commit(lake, steady_panel().steps(0, 1))
    with pytest.raises(RangeError, match="one 1m bar so far") as caught:
        Follower.begin(lake, key_of(settings))
    assert "run this again" in caught.value.hint


def test_an_empty_lake_is_refused(settings: Settings) -> None:
    with Lake.open(settings) as lake, pytest.raises(RangeError, match="no 1m bar"):
        Follower.begin(lake, key_of(settings))
