"""A store is what building everything would give, and builds no more than what changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from features.build import build_features
from features.feature import FeatureBlock
from features.panel.panel import Panel, load_panel
from features.sets import get_set
from features.store.manifest import StoreKey
from features.store.store import UpdateReport, read, update
from storage.clock import DAY_NS, NS, US_NS, ManualTime, floor_ns
from storage.contracts.tables import FUNDING
from storage.errors import ContractError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import START_NS, random_panel, stored_rows

GRACE_NS = 2 * NS
QUARTER_NS = 900 * NS
STEPS = 96
"""Quarters of an hour in a day; the sets look back a day and a half."""
DAYS = 7
MIDNIGHT_NS = floor_ns(START_NS, DAY_NS)
KEY = StoreKey("live", "15m", GRACE_NS)


def quarters(steps: int, *, seed: int = 3, first: int = 0) -> Panel:
    panel = random_panel(4, steps, seed=seed)
    clock = MIDNIGHT_NS + QUARTER_NS * np.arange(first, first + steps, dtype=np.int64)
    return replace(panel, width_ns=QUARTER_NS, ts_open_ns=clock)


WHOLE = quarters(DAYS * STEPS)


class Home:
    """A lake whose clock moves by an hour with each batch, and a store beside it."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualTime(START_NS)
        self.root = path / "features"
        self.lake = Lake.open(Settings(home=path), clock=self.clock)
        self.batches = 0

    def add(self, panel: Panel, *, lag_ms: int = 0) -> None:
        self.batches += 1
        self.clock.advance_to(self.clock.now_ns() + 3600 * NS)
        rows = stored_rows(panel, lag_ms=lag_ms)
        assert self.lake.commit({"bars": rows}, batch_id=f"batch {self.batches}").refused == 0

    def update(self, key: StoreKey = KEY, **bounds: int) -> UpdateReport:
        return update(self.root, self.lake, key, **bounds)

    def compare(self, key: StoreKey = KEY) -> int:
        """Compare the store with a build of all that the lake holds; return how many values are known."""
        held = read(self.root, key)
        since_ns, until_ns = int(held.ts_open_ns[0]), int(held.ts_open_ns[-1]) + QUARTER_NS
        panel = load_panel(self.lake, width="15m", grace_ns=GRACE_NS, since_ns=since_ns, until_ns=until_ns)
        assert_same(held, build_features(panel, key.feature_set))
        return int(held.mask.sum())


def assert_same(a: FeatureBlock, b: FeatureBlock) -> None:
    for field in ("names", "instruments", "width_ns", "fingerprint", "feature_set", "lookback_bars"):
        assert getattr(a, field) == getattr(b, field)
    assert a.ts_open_ns.tolist() == b.ts_open_ns.tolist()
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.values.view(torch.int32), b.values.view(torch.int32))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    with made.lake:
        yield made


def days(report: UpdateReport) -> list[int]:
    """Which days were built, counted from the first."""
    return [
        (np.datetime64(day) - np.datetime64(MIDNIGHT_NS, "ns").astype("M8[D]")).astype(int)
        for day in report.built
    ]


def test_a_night_builds_the_new_day_and_keeps_the_rest(home: Home) -> None:
    home.add(WHOLE.steps(0, 5 * STEPS))
    assert days(home.update()) == [0, 1, 2, 3, 4]
    home.add(WHOLE.steps(5 * STEPS, 6 * STEPS))
    report = home.update()
    assert (days(report), report.compared, report.kept) == ([5], (), 5)
    assert report.rows == 4 * STEPS
    assert home.compare() > 20_000


@examples(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(1, DAYS * STEPS - 1), min_size=1, max_size=3, unique=True))
def test_updates_at_any_cuts_equal_a_build_of_everything(cuts: list[int]) -> None:
    with TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with home.lake:
            for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), DAYS * STEPS], strict=True):
                home.add(WHOLE.steps(start, stop))
                home.update()
            assert home.compare() > 20_000


def test_nothing_new_builds_nothing(home: Home) -> None:
    home.add(WHOLE)
    home.update()
    before = sorted(path.name for path in home.root.rglob("*"))
    report = home.update()
    assert report.built == ()
    assert sorted(path.name for path in home.root.rglob("*")) == before


def test_history_that_comes_late_moves_its_day_and_those_that_look_back_on_it(home: Home) -> None:
    home.add(WHOLE.select([0, 1]))
    home.update()
    home.add(WHOLE.select([2]).steps(2 * STEPS + 60, 2 * STEPS + 61))
    assert days(home.update()) == [2, 3, 4], "the set looks back 151 quarters"
    assert home.compare() > 10_000


def test_a_revision_that_came_too_late_moves_nothing(home: Home) -> None:
    home.add(WHOLE)
    home.update()
    late = WHOLE.steps(STEPS, STEPS + 3)
    late.values["close"] = late.values["close"] * 1.01
    home.add(late, lag_ms=GRACE_NS // 1_000_000 + 1)
    report = home.update()
    assert (report.built, report.compared) == ((), ())
    assert home.compare() > 20_000


def test_a_revision_that_was_known_in_time_is_found_whenever_it_comes(home: Home) -> None:
    """A journal that is replayed a week later may hold what was knowable then."""
    home.add(WHOLE)
    home.update()
    revised = WHOLE.steps(3 * STEPS, 3 * STEPS + 50)
    revised.values["volume"] = revised.values["volume"] + 1.0
    home.add(revised, lag_ms=5)
    assert days(home.update()) == [3, 4, 5]
    assert home.compare() > 20_000


def test_payments_that_come_late_have_their_days_read_again(home: Home) -> None:
    """Other tables are joined to the bars; where one got rows, the days that may read them are compared."""
    home.add(WHOLE)
    home.update()
    paid_ns = MIDNIGHT_NS + 2 * DAY_NS + 3600 * NS
    row = {
        "instrument": WHOLE.instruments[0], "ts_event": paid_ns // US_NS, "funding_rate": 1e-5, "interval_h": 1,
        "source": "test", "ts_knowable_ns": paid_ns + NS,
    }  # fmt: skip
    home.clock.advance_to(home.clock.now_ns() + 3600 * NS)
    home.lake.commit({"funding": FUNDING.rows([row])}, batch_id="paid")
    report = home.update()
    assert len(report.built) + len(report.compared) == 4, (
        "the day, the next, and those that look back on them"
    )
    assert home.update().compared == ()


def test_days_before_the_first_move_the_head(home: Home) -> None:
    home.add(WHOLE.steps(3 * STEPS, 6 * STEPS))
    home.update()
    home.add(WHOLE.steps(0, STEPS + 7))
    report = home.update()
    assert days(report) == [0, 1, 2, 3, 4], "two days without bars are days too"
    assert home.compare() > 10_000


def test_a_stretch_without_bars_is_built_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.store.day_files.STRETCH_CELLS", 1)
    home.add(WHOLE.steps(0, 10))
    home.add(WHOLE.steps(4 * STEPS, 4 * STEPS + 10))
    assert days(home.update()) == [0, 1, 2, 3, 4]
    assert home.compare() > 300


def test_a_file_that_is_gone_or_damaged_is_built_again(home: Home) -> None:
    home.add(WHOLE)
    home.update()
    gone, harmed = sorted(KEY.days(home.root).folder.glob("*-*-*-*.safetensors"))[2:4]
    gone.unlink()
    assert days(home.update()) == [2]
    body = bytearray(harmed.read_bytes())
    body[-7] ^= 4
    harmed.write_bytes(body)
    with pytest.raises(ContractError, match="is damaged: its content does not match its checksums"):
        read(home.root, KEY)
    assert days(home.update()) == [3]
    assert home.compare() > 20_000


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"days": 1}', b'{"days": {"2025-09-04": 7}}', b"\xff"])
@pytest.mark.parametrize("which", [".json", ".started.json"])
def test_with_a_damaged_manifest_the_days_that_are_there_are_found(
    home: Home, body: bytes, which: str
) -> None:
    home.add(WHOLE)
    home.update()
    (KEY.days(home.root).folder / f"{KEY.name}{which}").write_bytes(body)
    report = home.update()
    assert (report.built, len(report.compared)) == ((), DAYS if which == ".json" else 0)
    assert home.compare() > 20_000


def test_rows_of_a_clock_that_was_set_back_by_days_are_found(home: Home) -> None:
    home.add(WHOLE.steps(0, 5 * STEPS))
    home.update()
    home.clock = ManualTime(START_NS - 3 * DAY_NS)
    with Lake.open(Settings(home=home.root.parent), clock=home.clock) as lake:
        lake.commit({"bars": stored_rows(WHOLE.steps(5 * STEPS, 6 * STEPS))}, batch_id="of the past")
    assert days(home.update()) == [5]
    assert home.compare() > 15_000
    assert home.update().built == ()


def test_cut_short_it_goes_on_behind_the_days_that_it_finished(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.store.day_files.STRETCH_CELLS", 2 * 4 * STEPS)  # two days at a time
    home.add(WHOLE.steps(0, STEPS))
    home.update()
    home.add(WHOLE.steps(STEPS, None))

    def stop(done: int, _total: int, _rows: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(home.root, home.lake, KEY, on_day=stop)
    assert read(home.root, KEY).values.shape[1] == STEPS, "who reads meanwhile sees what was there before"
    told: list[tuple[int, int, int]] = []
    report = update(home.root, home.lake, KEY, on_day=lambda *figures: told.append(figures))
    assert len(days(report)) + len(report.compared) == told[-1][0] == told[-1][1] < DAYS
    assert home.compare() > 20_000
    files = sorted(path.name for path in KEY.days(home.root).folder.iterdir())
    assert len(files) == DAYS + 2, "the days, the manifest and what was gathered"


def test_a_new_instrument_leaves_older_days_alone(home: Home) -> None:
    home.add(WHOLE.select([0, 1, 2]).steps(0, 5 * STEPS))
    home.update()
    home.add(WHOLE.steps(5 * STEPS, 6 * STEPS))
    assert days(home.update()) == [5]
    block = read(home.root, KEY)
    assert len(block.instruments) == 4
    # The calendar is known of what has no bars; nothing else is.
    known = block.mask[3, : 5 * STEPS].any(dim=0).tolist()
    assert known == [item.is_clock for item in get_set("live")]
    assert any(known)
    assert home.compare() > 10_000


def test_an_older_snapshot_is_compared_day_by_day(home: Home) -> None:
    home.add(WHOLE.steps(0, 4 * STEPS))
    first = home.update().snapshot
    home.add(WHOLE.steps(4 * STEPS, 5 * STEPS))
    home.update()
    report = home.update(at=first)
    assert (report.built, len(report.compared)) == ((), 4)
    assert read(home.root, KEY).values.shape[1] == 4 * STEPS


def test_bounds_cut_what_is_built_and_what_is_read(home: Home) -> None:
    home.add(WHOLE)
    report = home.update(since_ns=MIDNIGHT_NS + DAY_NS + 5, until_ns=MIDNIGHT_NS + 3 * DAY_NS)
    assert days(report) == [1, 2]
    held = read(home.root, KEY)
    piece = read(
        home.root, KEY, instruments=held.instruments[2:0:-1],
        since_ns=MIDNIGHT_NS + DAY_NS + QUARTER_NS - 1, until_ns=MIDNIGHT_NS + 3 * DAY_NS - QUARTER_NS,
    )  # fmt: skip
    assert piece.instruments == held.instruments[2:0:-1]
    assert torch.equal(piece.values, held.values[[2, 1], 1:-1])
    with pytest.raises(RangeError, match="holds no bar from"):
        read(home.root, KEY, since_ns=MIDNIGHT_NS + 5 * DAY_NS)
    with pytest.raises(RangeError, match="no 1h bar of origin"):
        home.update(replace(KEY, width="1h"))


def test_other_features_lie_apart_and_nothing_is_left_over(home: Home) -> None:
    home.add(WHOLE.steps(0, 2 * STEPS))
    names = {home.update(replace(KEY, feature_set=name)).folder.name for name in ("live", "candles")}
    assert len(names) == 2
    home.add(WHOLE.steps(2 * STEPS, 2 * STEPS + 10))
    home.add(WHOLE.steps(2 * STEPS + 10, 2 * STEPS + 20))
    home.update()
    files = sorted(path.name[:10] for path in KEY.days(home.root).folder.glob("*-*-*-*.safetensors"))
    assert len(files) == len(set(files)) == 3
    with pytest.raises(ContractError, match="nothing was built"):
        read(home.root, replace(KEY, grace_ns=5))
