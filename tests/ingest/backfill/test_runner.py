"""Backfill driver: planned cost, one commit per step, retries of absent steps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ingest.backfill.pricing import check_cost, cost_of
from ingest.backfill.runner import check_range, make_plan, run_backfill
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from serving.cli.backfill_progress import describe_plan
from storage.contracts.tables import FUNDING
from storage.errors import RangeError, SettingsError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import ArchiveSettings
from tests.storage.rows import BTC

WISH = BackfillRequest(0, 100)


class Shelf:
    """A source with objects in memory; those named in `gone` are absent until added."""

    def __init__(self, *steps: BackfillStep) -> None:
        self.listed = list(steps)
        self.gone: set[str] = set()
        self.broken: set[str] = set()
        self.taken: list[str] = []

    async def steps(self, wish: BackfillRequest) -> Sequence[BackfillStep]:
        return self.listed

    async def fetch(self, step: BackfillStep) -> StepResult:
        self.taken.append(step.key)
        if step.key in self.broken:
            raise VenueError("it cannot be reached", hint="check the network")
        if step.key in self.gone:
            return StepResult({}, absent="not uploaded yet")
        number = int(step.key)
        row = {
            "instrument": BTC, "ts_event": number * 1_000_000, "funding_rate": 2.0 if number == 9 else 1e-5,
            "interval_h": 1, "source": "shelf", "ts_knowable_ns": number,
        }  # fmt: skip
        return StepResult({"funding": FUNDING.rows([row])}, {"object": step.key})


def objects(*numbers: int, size_bytes: int | None = 10_000_000_000) -> list[BackfillStep]:
    return [BackfillStep(str(number), f"object {number}", size_bytes=size_bytes) for number in numbers]


async def test_a_plan_has_steps_weight_minutes_bytes_and_price(settings: Settings) -> None:
    asked = [BackfillStep(f"asked {n}", "a page", weight=300, size_bytes=1_000_000) for n in range(5)]
    with Lake.open(settings) as lake:
        plan = await make_plan([Shelf(*objects(1, 2)), Shelf(*asked)], WISH, lake, settings)
    assert (len(plan.steps), plan.weight, plan.minutes, plan.cost.size_bytes) == (
        7,
        1_500,
        3.0,
        20_005_000_000,
    )
    assert plan.cost.usd == pytest.approx(20 * 0.09 + 2 * 0.0004 / 1_000)
    text = "\n".join(describe_plan(plan))
    for part in (
        "7 steps, 0 more",
        "object 1",
        "1,500 of the venue's rate-limit weight, about 3 minutes at the share for backfills",
        "20,005.0 MB",
        "about 1.80 USD",
    ):
        assert part in text


async def test_absent_steps_are_fetched_again_and_committed_ones_are_not(settings: Settings) -> None:
    shelf = Shelf(*objects(1, 2, 9))
    shelf.gone = {"2"}
    with Lake.open(settings) as lake:
        done = await run_backfill([shelf], WISH, lake, settings)
        assert (done.taken, done.refused, done.rows) == (2, 1, {"funding": 1, "quarantine": 1})
        assert [(step.key, why) for step, why in done.absent] == [("2", "not uploaded yet")]
        shelf.gone.clear()
        again = await run_backfill([shelf], WISH, lake, settings)
        assert (
            lake.query("SELECT inputs FROM batches WHERE batch_id = '2'")["inputs"][0].as_py()
            == '{"object": "2"}'
        )
    assert (again.plan.committed, again.rows) == (2, {"funding": 1})
    assert shelf.taken == ["1", "2", "9", "2"]


async def test_a_failure_keeps_committed_steps_and_names_the_failed_one(settings: Settings) -> None:
    shelf = Shelf(*objects(1, 2, 3))
    shelf.broken = {"2"}
    with Lake.open(settings) as lake:
        with pytest.raises(
            VenueError, match=r"object 2: it cannot be reached \(check the network; 1 of 3 steps are"
        ):
            await run_backfill([shelf], WISH, lake, settings)
        assert lake.query("FROM funding").num_rows == 1


async def test_a_dry_run_fetches_nothing_and_a_stop_ends_before_the_next_step(settings: Settings) -> None:
    shelf, stop = Shelf(*objects(1, 2, 3)), asyncio.Event()
    with Lake.open(settings) as lake:
        dry = await run_backfill([shelf], WISH, lake, settings, dry_run=True)
        assert (dry.taken, shelf.taken) == (0, [])
        done = await run_backfill([shelf], WISH, lake, settings, stop=stop, on_step=lambda *_: stop.set())
    assert (done.taken, done.is_stopped, done.left) == (1, True, 2)


def test_an_invalid_range_is_refused() -> None:
    for wish, text in (
        (BackfillRequest(5, 5), "is not before"),
        (BackfillRequest(200, 300), "--from .* future"),
        (BackfillRequest(0, 300), "--to .* future"),
    ):
        with pytest.raises(RangeError, match=text):
            check_range(wish, 100)


def test_a_price_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"archive.usd_per_gb is -1"):
        ArchiveSettings(usd_per_gb=-1.0)


def test_an_unknown_price_needs_agreement() -> None:
    archive = ArchiveSettings()
    cost = cost_of(
        [*objects(1, 2, size_bytes=None), BackfillStep("asked", "a page", weight=20, size_bytes=9)], archive
    )
    with pytest.raises(RangeError, match=r"nobody tells the size of 2 objects.*say --yes"):
        check_cost(cost, archive, is_agreed=False)
    check_cost(cost, archive, is_agreed=True)
    own = ArchiveSettings(requester_pays=False)
    check_cost(cost_of(objects(1, size_bytes=None), own), own, is_agreed=False)
