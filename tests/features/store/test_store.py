"""The feature store: equal to a full build, and rebuilding only what changed."""

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
"""Quarters of an hour in a day; the sets have a lookback of a day and a half."""
DAYS = 7
MIDNIGHT_NS = floor_ns(START_NS, DAY_NS)
KEY = StoreKey("live", "15m", GRACE_NS)


def quarters(steps: int, *, seed: int = 3, first: int = 0) -> Panel:
    panel = random_panel(4, steps, seed=seed)
    clock = MIDNIGHT_NS + QUARTER_NS * np.arange(first, first + steps, dtype=np.int64)
    return replace(panel, width_ns=QUARTER_NS, ts_open_ns=clock)


WHOLE = quarters(DAYS * STEPS)


class Home:
    """A lake whose clock advances by an hour with each batch, and a store."""

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
        """Compare the store with a build of the whole lake; return the number of known values."""
        stored = read(self.root, key)
        since_ns, until_ns = int(stored.ts_open_ns[0]), int(stored.ts_open_ns[-1]) + QUARTER_NS
        panel = load_panel(self.lake, width="15m", grace_ns=GRACE_NS, since_ns=since_ns, until_ns=until_ns)
        assert_same(stored, build_features(panel, key.feature_set))
        return int(stored.mask.sum())


def assert_same(a: FeatureBlock, b: FeatureBlock) -> None:
    for field in ("names", "instruments", "width_ns", "fingerprint", "feature_set", "lookback_bars"):
        assert getattr(a, field) == getattr(b, field)
    assert a.ts_open_ns.tolist() == b.ts_open_ns.tolist()
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.values.view(torch.int32), b.values.view(torch.int32))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    new = Home(tmp_path)
    with new.lake:
        yield new


def days(report: UpdateReport) -> list[int]:
    """Return the built days, counted from the first."""
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


@examples(max_examples=3, deadline=None)
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


def test_late_history_rebuilds_its_day_and_those_that_look_back_on_it(home: Home) -> None:
    home.add(WHOLE.select([0, 1]))
    home.update()
    home.add(WHOLE.select([2]).steps(2 * STEPS + 60, 2 * STEPS + 61))
    assert days(home.update()) == [2, 3, 4], "the set has a lookback of 151 quarters"
    assert home.compare() > 10_000


def test_a_revision_after_the_grace_changes_nothing(home: Home) -> None:
    home.add(WHOLE)
    home.update()
    late = WHOLE.steps(STEPS, STEPS + 3)
    late.values["close"] = late.values["close"] * 1.01
    home.add(late, lag_ms=GRACE_NS // 1_000_000 + 1)
    report = home.update()
    assert (report.built, report.compared) == ((), ())
    assert home.compare() > 20_000


def test_a_revision_knowable_in_time_is_found_whenever_it_arrives(home: Home) -> None:
    """A journal replayed a week later may contain rows that were knowable then."""
    home.add(WHOLE)
    home.update()
    revised = WHOLE.steps(3 * STEPS, 3 * STEPS + 50)
    revised.values["volume"] = revised.values["volume"] + 1.0
    home.add(revised, lag_ms=5)
    assert days(home.update()) == [3, 4, 5]
    assert home.compare() > 20_000


def test_late_payments_cause_their_days_to_be_read_again(home: Home) -> None:
    """Other tables are joined to the bars; if one received rows, the days that may read them are compared."""
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
        "the day, the next, and those whose lookback reaches them"
    )
    assert home.update().compared == ()


def test_earlier_days_rebuild_the_masked_head(home: Home) -> None:
    home.add(WHOLE.steps(3 * STEPS, 6 * STEPS))
    home.update()
    home.add(WHOLE.steps(0, STEPS + 7))
    report = home.update()
    assert days(report) == [0, 1, 2, 3, 4], "days without bars are built too"
    assert home.compare() > 10_000


def test_a_stretch_without_bars_is_built_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.store.day_files.STRETCH_CELLS", 1)
    home.add(WHOLE.steps(0, 10))
    home.add(WHOLE.steps(4 * STEPS, 4 * STEPS + 10))
    assert days(home.update()) == [0, 1, 2, 3, 4]
    assert home.compare() > 300


def test_a_missing_or_damaged_file_is_rebuilt(home: Home) -> None:
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


BODIES = (b"", b"{", b"[1]", b'{"days": 1}', b'{"days": {"2025-09-04": 7}}', b"\xff")


@pytest.mark.parametrize(
    ("which", "body"),
    [
        *((".json", body) for body in BODIES),
        (".started.json", b"{"),
        *(pytest.param(".started.json", body, marks=pytest.mark.drill) for body in BODIES if body != b"{"),
    ],
)
def test_with_a_damaged_manifest_existing_days_are_found(home: Home, body: bytes, which: str) -> None:
    home.add(WHOLE)
    home.update()
    (KEY.days(home.root).folder / f"{KEY.name}{which}").write_bytes(body)
    report = home.update()
    assert (report.built, len(report.compared)) == ((), DAYS if which == ".json" else 0)
    assert home.compare() > 20_000


def test_rows_stamped_by_a_clock_set_back_by_days_are_found(home: Home) -> None:
    home.add(WHOLE.steps(0, 5 * STEPS))
    home.update()
    home.clock = ManualTime(START_NS - 3 * DAY_NS)
    with Lake.open(Settings(home=home.root.parent), clock=home.clock) as lake:
        lake.commit({"bars": stored_rows(WHOLE.steps(5 * STEPS, 6 * STEPS))}, batch_id="of the past")
    assert days(home.update()) == [5]
    assert home.compare() > 15_000
    assert home.update().built == ()


def test_an_interrupted_update_continues_after_its_finished_days(
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
    assert read(home.root, KEY).values.shape[1] == STEPS, "concurrent readers see the earlier state"
    progress: list[tuple[int, int, int]] = []
    report = update(home.root, home.lake, KEY, on_day=lambda *figures: progress.append(figures))
    assert len(days(report)) + len(report.compared) == progress[-1][0] == progress[-1][1] < DAYS
    assert home.compare() > 20_000
    files = sorted(path.name for path in KEY.days(home.root).folder.iterdir())
    assert len(files) == DAYS + 2, "the days, the manifest and the collected block"


def test_a_new_instrument_leaves_older_days_alone(home: Home) -> None:
    home.add(WHOLE.select([0, 1, 2]).steps(0, 5 * STEPS))
    home.update()
    home.add(WHOLE.steps(5 * STEPS, 6 * STEPS))
    assert days(home.update()) == [5]
    block = read(home.root, KEY)
    assert len(block.instruments) == 4
    # Without bars, only clock features are known.
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


def test_bounds_limit_what_is_built_and_read(home: Home) -> None:
    home.add(WHOLE)
    report = home.update(since_ns=MIDNIGHT_NS + DAY_NS + 5, until_ns=MIDNIGHT_NS + 3 * DAY_NS)
    assert days(report) == [1, 2]
    stored = read(home.root, KEY)
    piece = read(
        home.root, KEY, instruments=stored.instruments[2:0:-1],
        since_ns=MIDNIGHT_NS + DAY_NS + QUARTER_NS - 1, until_ns=MIDNIGHT_NS + 3 * DAY_NS - QUARTER_NS,
    )  # fmt: skip
    assert piece.instruments == stored.instruments[2:0:-1]
    assert torch.equal(piece.values, stored.values[[2, 1], 1:-1])
    with pytest.raises(RangeError, match="holds no bar from"):
        read(home.root, KEY, since_ns=MIDNIGHT_NS + 5 * DAY_NS)
    with pytest.raises(RangeError, match="no 1h bar opens"):
        home.update(replace(KEY, width="1h"))


def test_sets_have_separate_folders_without_stale_files(home: Home) -> None:
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
