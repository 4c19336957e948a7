"""Sealed holdouts: their events, the bars that may be read beside them, and that nothing within changes a night."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest

from features.panel.asof_join import PAID_COLUMNS
from features.panel.panel import content_hash, load_panel
from storage.clock import iso
from storage.contracts.tables import BARS, FUNDING
from storage.errors import HoldoutError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.storage.rows import bar, funding
from tests.training.builders import GRACE_NS, MINUTE_NS, SMALL_RECIPE, START_NS, fill_lake, settings_in, walk
from tests.training.night.test_steps import tree
from training.night.artifacts import NightArtifacts
from training.night.holdout_list import describe_holdouts, find_use, list_holdouts
from training.night.holdouts import (
    HoldoutEvent,
    open_holdout,
    opened_before,
    read_holdouts,
    seal_holdout,
    sealed_now,
)
from training.night.pinned_inputs import read_funding
from training.night.readable_range import ReadableRange, cut_of, enforce_holdouts
from training.night.recipe_choice import check_recipes
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold
from training.recipe import RECIPES

STEPS: Final = 1200
SEALED: Final = (START_NS + 500 * MINUTE_NS, START_NS + 640 * MINUTE_NS)


def seal(lake: Lake, span: tuple[int, int] = SEALED, *, now_ns: int = 7, **more: Any) -> HoldoutEvent:
    return seal_holdout(lake, *span, **{"reason": "for the end", "who": "ann@desk"} | more, now_ns=now_ns)


def reopen(lake: Lake, *, now_ns: int = 9, **more: Any) -> HoldoutEvent:
    return open_holdout(lake, **{"reason": "it is final", "who": "bob@desk"} | more, now_ns=now_ns)


# Events.


def test_a_seal_ends_when_it_is_opened_and_the_next_one_remembers(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        first = seal(lake, (10, 20))
        assert sealed_now(read_holdouts(lake)) == [first]
        reopen(lake)
        assert sealed_now(read_holdouts(lake)) == []
        # One that only touches it, at a clock that is behind.
        again = seal(lake, (19, 40), now_ns=1)
        events = read_holdouts(lake)
        assert sealed_now(events) == [again]
        assert [(event.event, event.who, event.ts_knowable_ns) for event in events] == [
            ("sealed", "ann@desk", 7),
            ("opened", "bob@desk", 9),
            ("sealed", "ann@desk", 10),
        ]
        assert opened_before(events, first) == []
        assert [event.ts_knowable_ns for event in opened_before(events, again)] == [9]
        said = describe_holdouts(events)
        assert "It had been open before, since 1970-01-01T00:00:00.000Z (bob@desk: it is final)" in said[1]


def test_seals_must_not_overlap_and_changes_need_a_reason(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        seal(lake, (10, 20))
        with pytest.raises(HoldoutError, match=r"overlaps the holdout 1970.*which is sealed.*holdout status"):
            seal(lake, (19, 30))
        seal(lake, (20, 30))
        with pytest.raises(HoldoutError, match="is empty"):
            seal(lake, (40, 40))
        with pytest.raises(HoldoutError, match="needs a reason"):
            seal(lake, (50, 60), reason=" ")
        with pytest.raises(HoldoutError, match=r"2 holdouts are sealed.*name one by its start: --since"):
            reopen(lake)
        with pytest.raises(HoldoutError, match=r"no holdout that begins at .* is sealed"):
            reopen(lake, since_ns=11)
        assert reopen(lake, since_ns=20).until_ns == 30
        assert reopen(lake).since_ns == 10
        with pytest.raises(HoldoutError, match=r"no holdout is sealed.*seal one with"):
            reopen(lake)


# Bounds.


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with minutes before, in and after a sealed range."""
    settings = settings_in(Path(tmp_path_factory.mktemp("bounds")))
    fill_lake(settings, walk(instruments=1, steps=800, seed=1))
    with Lake.open(settings) as lake:
        seal(lake)
        yield lake


def minute(number: float) -> int:
    return START_NS + int(number * MINUTE_NS)


def enforce(lake: Lake, since: float | None, until: float | None, *, width: str = "1m") -> ReadableRange:
    bounds = {
        "since_ns": None if since is None else minute(since),
        "until_ns": None if until is None else minute(until),
    }
    return enforce_holdouts(lake, replace(RECIPES["demo"], width=width), grace_ns=GRACE_NS, **bounds)


@pytest.mark.parametrize(
    ("since", "until", "stop", "is_cut"),
    [
        (None, None, 500, True),
        (100, None, 500, True),
        (499, None, 500, True),
        (None, 300, 300, False),
        (100, 500, 500, False),
        (100, 499.5, 499.5, False),
        (640, None, None, False),
        (650, 2000, 2000, False),
    ],
)
def test_bars_are_read_up_to_the_seal_or_from_its_end_on(
    bars: Lake, since: float | None, until: float | None, stop: float | None, is_cut: bool
) -> None:
    found = enforce(bars, since, until)
    assert found.since_ns == (None if since is None else minute(since))
    assert found.until_ns == (None if stop is None else minute(stop))
    assert found.cut == (SEALED if is_cut else None)
    assert found.withheld == bars.withheld == (SEALED,)


@pytest.mark.parametrize(
    ("since", "until"),
    [(None, 500.1), (None, 800), (100, 501), (500, None), (639.9, None), (520, 530), (0, 5000)],
)
def test_bounds_that_reach_into_a_seal_are_refused(
    bars: Lake, since: float | None, until: float | None
) -> None:
    with pytest.raises(
        HoldoutError, match=r"reaches into the sealed holdout .*for the end.*use --until"
    ) as caught:
        enforce(bars, since, until)
    assert iso(SEALED[0]) in str(caught.value)
    if since is not None:
        assert iso(minute(since)) in caught.value.message


def test_a_bar_that_closes_within_a_seal_belongs_to_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    fill_lake(settings, walk(instruments=1, steps=40, seed=1), width="1h")
    with Lake.open(settings) as lake:
        seal(lake, (minute(10 * 60 + 30), minute(20 * 60 + 30)))
        last = minute(10 * 60)
        assert enforce(lake, None, None, width="1h").until_ns == last
        assert enforce(lake, None, 10 * 60 + 20, width="1h").until_ns == last - last % (60 * MINUTE_NS)


def test_a_home_without_bars_beside_the_seal_has_nothing_to_read(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    fill_lake(settings, walk(instruments=1, steps=50, seed=1))
    with Lake.open(settings) as lake:
        seal(lake, (minute(0), minute(100)))
        with pytest.raises(HoldoutError, match="no 1m bar in the range lies outside of the sealed holdout"):
            enforce(lake, None, None)
        reopen(lake)
        assert enforce(lake, None, None) == ReadableRange(None, None, None, ())
        seal(lake, (minute(200), minute(300)))
        assert enforce(lake, None, None).until_ns == minute(50)


# The law: nothing within a sealed range changes a night.


@dataclass(frozen=True)
class Homes:
    """Two homes with one sealed range, which differ in its rows."""

    plain: Settings
    planted: Settings


def garbage(seed: int) -> dict[str, pa.Table]:
    """Return bars and payments within the seal, at its edges, and payments that became known after it."""
    rng = np.random.default_rng(seed)
    start_us, stop_us = SEALED[0] // 1000, SEALED[1] // 1000
    minute_us = MINUTE_NS // 1000
    rows = [
        bar(0, instrument=f"hyperliquid|perp|{name}", ts_open=at_us, ts_close=at_us + minute_us)
        | dict.fromkeys(("open", "high", "low", "close", "vwap"), 1e3 * rng.random() + 1)
        | {"ts_knowable_ns": at_us * 1000 + MINUTE_NS, "ts_available_ns": at_us * 1000 + MINUTE_NS}
        for name in ("C0", "C1", "NEW")
        for at_us in range(start_us - start_us % minute_us, stop_us, minute_us)
    ]
    stamps = (start_us, start_us + 1, stop_us - 1, *rng.integers(start_us, stop_us, 20).tolist())
    paid = [
        funding(
            0,
            instrument=f"hyperliquid|perp|{name}",
            ts_event=at_us,
            funding_rate=rng.random(),
            ts_knowable_ns=SEALED[1] + 5 * MINUTE_NS if late else at_us * 1000,
        )
        for late, name in enumerate(("C0", "C1"))
        for at_us in dict.fromkeys(stamps)
    ]
    return {"bars": BARS.rows(rows), "funding": FUNDING.rows(paid)}


def outer_funding() -> pa.Table:
    """Return a payment an hour outside of the seal."""
    hours = [number for number in range(20) if not SEALED[0] <= minute(60 * number) < SEALED[1]]
    return FUNDING.rows(
        [
            funding(0, instrument=f"hyperliquid|perp|{name}", ts_event=minute(60 * number) // 1000)
            | {"funding_rate": 1e-5 * number, "ts_knowable_ns": minute(60 * number)}
            for name in ("C0", "C1")
            for number in hours
        ]
    )


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    found = []
    log_price = walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3)
    within = range((SEALED[0] - START_NS) // MINUTE_NS, (SEALED[1] - START_NS) // MINUTE_NS)
    for seed in (1, 2):
        settings = settings_in(Path(tmp_path_factory.mktemp("law")))
        fill_lake(settings, log_price, but={0: within, 1: within})
        with Lake.open(settings) as lake:
            assert lake.commit(garbage(seed), batch_id="garbage").refused == 0
            lake.commit({"funding": outer_funding()}, batch_id="funding")
            seal(lake)
        found.append(settings)
    return Homes(*found)


def night_of(settings: Settings, since: str | None, *, is_whole: bool) -> tuple[str, dict[str, bytes]]:
    """Open a night, or run it to its end, and return its id and files.

    The id is a hash of all rows that it reads, of those that teach as well.
    """
    recipe = settings.home / "small.toml"
    recipe.write_text(SMALL_RECIPE.format(name="small", rows="available"), encoding="utf-8")
    night = open_night(settings, recipe=str(recipe), since=since)
    if is_whole:
        build_panel(settings, night)
        for fold in plan_folds(settings, night):
            train_fold(settings, night, fold)
        judge_night(settings, night)
    return night, tree(NightArtifacts.find(settings, night).path)


@pytest.mark.parametrize("since", [None, iso(SEALED[1])], ids=["before", "after"])
@pytest.mark.parametrize(
    "is_whole", [False, pytest.param(True, marks=pytest.mark.drill)], ids=["opened", "judged"]
)
def test_nothing_within_a_sealed_range_changes_a_night(
    homes: Homes, since: str | None, is_whole: bool
) -> None:
    night, files = night_of(homes.plain, since, is_whole=is_whole)
    assert night_of(homes.planted, since, is_whole=is_whole) == (night, files)
    folder = NightArtifacts.find(homes.plain, night)
    assert cut_of(folder) == (SEALED if since is None else None)
    assert folder.facts["instruments"] == ["hyperliquid|perp|C0", "hyperliquid|perp|C1"]
    if since is None:
        assert folder.facts["until_ns"] == SEALED[0]
    else:
        assert folder.facts["since_ns"] == SEALED[1]
    assert len(files) > (20 if is_whole else 2)


def panels(settings: Settings, *, is_sealed: bool) -> list[str]:
    """Return hashes of what is read on both sides of the range: bars, joined columns, and funding."""
    found = []
    with Lake.open(settings, read_only=True) as lake:
        for since_ns, until_ns in (
            (SEALED[0] - 60 * MINUTE_NS, SEALED[0]),
            (SEALED[1], SEALED[1] + 60 * MINUTE_NS),
        ):
            if is_sealed:
                enforce_holdouts(
                    lake, RECIPES["demo"], since_ns=since_ns, until_ns=until_ns, grace_ns=GRACE_NS
                )
            panel = load_panel(
                lake, width="1m", since_ns=since_ns, until_ns=until_ns, joined=PAID_COLUMNS, grace_ns=GRACE_NS
            )
            paid = read_funding(lake, panel, at=lake.snapshot())
            found.append(content_hash(panel) + str(None if paid is None else paid.tobytes()))
    return found


def test_features_and_charges_do_not_look_back_into_a_sealed_range(homes: Homes) -> None:
    sealed = panels(homes.plain, is_sealed=True)
    assert panels(homes.planted, is_sealed=True) == sealed
    unsealed = panels(homes.planted, is_sealed=False)
    assert all(left != right for left, right in zip(sealed, unsealed, strict=True))


def test_the_choice_of_a_recipe_does_not_depend_on_a_sealed_range(homes: Homes) -> None:
    found = []
    for settings in (homes.plain, homes.planted):
        with Lake.open(settings, read_only=True) as lake:
            found.append(check_recipes(settings, lake, ["demo", "candles"]))
            with pytest.raises(HoldoutError, match="reaches into the sealed holdout"):
                check_recipes(settings, lake, ["demo"], until_ns=SEALED[1])
    assert found[0] == found[1]
    assert (found[0][0].until_ns, len(found[0][0].instruments)) == (SEALED[0], 2)


def test_a_range_that_a_seal_makes_too_short_names_it(homes: Homes) -> None:
    recipe = homes.plain.home / "long.toml"
    recipe.write_text(
        SMALL_RECIPE.format(name="long", rows="served") + "\n[label]\nvolatility_bars = 700\n",
        encoding="utf-8",
    )
    with pytest.raises(
        RangeError, match=rf"too few .* sealed holdout {iso(SEALED[0])} .*--since {iso(SEALED[1])}"
    ):
        open_night(homes.plain, recipe=str(recipe))


def test_a_night_whose_range_is_sealed_meanwhile_goes_no_further(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    fill_lake(settings, walk(instruments=1, steps=500, seed=3))
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE.format(name="small", rows="served"), encoding="utf-8")
    night = open_night(settings, recipe=str(recipe))
    spans = {"train": (0, 180), "valid": (180, 300), "test": (300, 420)}
    fold = {name: [minute(at) for at in span] for name, span in spans.items()}
    NightArtifacts.find(settings, night).write(
        "folds.json", {"folds": [{"index": 0, "embargo_ns": 0} | fold], "leaks": 0}
    )
    with Lake.open(settings) as lake:
        seal(lake, (minute(350), minute(5000)))
        uses = [find_use(settings, lake, minute(since), minute(5000)) for since in (350, 420, 500)]
        assert [(use.tested, use.read) for use in uses] == [((night,), ()), ((), (night,)), ((), ())]
        [row] = list_holdouts(settings, lake)
    assert (row["state"], row["tested_by"], row["who"]) == ("sealed", [night], "ann@desk")
    for step in (
        lambda: build_panel(settings, night),
        lambda: train_fold(settings, night, 0),
        lambda: judge_night(settings, night),
    ):
        with pytest.raises(HoldoutError, match=r"was sealed on .*open a new night, which ends before it"):
            step()
