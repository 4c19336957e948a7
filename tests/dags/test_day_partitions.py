"""Days through a real Airflow: seal_day, build_features and retrain_nightly follow each other by partition."""

from __future__ import annotations

import datetime as dt
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pytest

from ingest.simulator.server.history_endpoint import RecordedCandle, RecordedHistory
from serving.airflow import launcher
from serving.airflow.client import AirflowClient
from storage.clock import MS_NS
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import AirflowSettings
from tests.dags.small_night import COINS, RECIPE, TRAINING
from tests.ingest.backfill.histories import served_aside
from tests.ingest.feed.listeners import quick

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1_800)]
STEPS: Final = 1_200
"""Five-minute candles of the venue: more than four days."""
PATIENCE_S: Final = 900.0
_ENDED: Final = ("success", "failed")


@dataclass(frozen=True)
class Stack:
    """A running Airflow, and the day on which it was started."""

    settings: Settings
    client: AirflowClient
    today: dt.date

    @property
    def days(self) -> list[str]:
        """The last three days that are over."""
        return [str(self.today - dt.timedelta(days=back)) for back in (3, 2, 1)]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get(f"dags/{dag}/dagRuns", limit="100")["dag_runs"]
        return sorted(found, key=lambda run: run["queued_at"])

    def states(self, dag: str) -> dict[str, str]:
        """Return the state of each run by partition key; the newest run of a key counts."""
        return {run["partition_key"]: run["state"] for run in self.runs(dag)}

    def tasks(self, dag: str, run: str) -> dict[str, str]:
        found = self.client.get(f"dags/{dag}/dagRuns/{run}/taskInstances", limit="200")["task_instances"]
        return {task["rendered_map_index"] or task["task_id"]: task["state"] for task in found}

    def trigger(self, dag: str, **body: Any) -> str:
        run = self.client.post(f"dags/{dag}/dagRuns", {"logical_date": None, **body})["dag_run_id"]
        self.until(lambda: self.state(dag, run) in _ENDED)
        return str(run)

    def state(self, dag: str, run: str) -> str:
        return str(self.client.get(f"dags/{dag}/dagRuns/{run}")["state"])

    def backfill(self, dag: str, first: str, last: str, **conf: Any) -> None:
        """Run the partitions from one midnight to another."""
        body = {"dag_id": dag, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"}
        more = {
            "max_active_runs": 1,
            "run_backwards": False,
            "reprocess_behavior": "none",
            "dag_run_conf": conf,
        }
        self.client.post("backfills", body | more)

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline_s, {
                dag: self.states(dag)
                for dag in ("seal_day", "build_features", "retrain_nightly", "backfill_history")
            }
            time.sleep(2)


def random_walk(seed: int, until_ms: int) -> list[RecordedCandle]:
    """Return five-minute candles of a coin, the last one still open."""
    draw = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(draw.normal(0.0, 1e-3, STEPS)))
    open_ = np.concatenate([close[:1], close[:-1]])
    reach = 1 + np.abs(draw.normal(0.0, 5e-4, STEPS))
    high, low = np.maximum(open_, close) * reach, np.minimum(open_, close) / reach
    first_ms = until_ms // 300_000 * 300_000 - (STEPS - 1) * 300_000
    rows = zip(open_.tolist(), high.tolist(), low.tolist(), close.tolist(), strict=True)
    return [
        RecordedCandle(first_ms + 300_000 * n, *prices, 1.0 + n % 9, 1 + n % 90)
        for n, prices in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    now_ns = time.time_ns()
    past = {(coin, "5m"): random_walk(n, now_ns // MS_NS) for n, coin in enumerate(COINS)}
    settings = Settings(
        home=tmp_path_factory.mktemp("days"), airflow=AirflowSettings(port=port, parallelism=3)
    )
    settings.ensure_home()
    recipe = settings.home / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    settings = replace(
        settings,
        training=replace(TRAINING, recipe=str(recipe)),
        bars=replace(settings.bars, widths=("5m",)),
    )
    with served_aside(RecordedHistory(now_ns, past)) as url:
        settings = quick(settings, info_url=url, coins=COINS, rest_weight_per_minute=1_000_000)
        started = launcher.up(settings, timeout_s=900)
        try:
            assert started.new_password
            with AirflowClient(started.url, password=started.new_password) as client:
                # An enabled schedule starts the newest day at once, so seal_day waits until there are bars.
                for dag in ("backfill_history", "build_features", "retrain_nightly"):
                    client.unpause(dag)
                yield Stack(settings, client, dt.datetime.fromtimestamp(now_ns / 1e9, dt.UTC).date())
        finally:
            launcher.down(settings, grace_s=10)


def test_a_backfill_ends_at_features_and_trains_once(stack: Stack) -> None:
    assert stack.runs("backfill_history") == [], "enabled, and never run by itself"
    form = {"kinds": ["candles"], "width": "5m", "coins": list(COINS)}
    dry = stack.trigger("backfill_history", conf=form | {"since": stack.days[0], "until": str(stack.today)})
    assert stack.tasks("backfill_history", dry) == {
        "plan": "success", "fetch": "skipped", "publish_bars": "skipped",
    }  # fmt: skip
    stack.backfill("backfill_history", stack.days[0], stack.days[-1], **form, dry_run=False)
    stack.until(lambda: stack.states("backfill_history").keys() >= set(stack.days))
    stack.until(lambda: set(stack.states("backfill_history").values()) <= set(_ENDED))
    stack.until(lambda: all(stack.states("build_features").get(day) in _ENDED for day in stack.days))
    stack.until(lambda: stack.states("retrain_nightly").get(stack.days[-1]) in _ENDED)
    assert [stack.states("backfill_history")[day] for day in stack.days] == ["success"] * 3
    run = next(run for run in stack.runs("backfill_history") if run["partition_key"] == stack.days[0])
    assert stack.tasks("backfill_history", run["dag_run_id"])[f"candles {stack.days[0]}"] == "success"
    assert stack.states("build_features") == dict.fromkeys(stack.days, "success")
    assert stack.states("retrain_nightly") == {stack.days[-1]: "success"}


def test_sealed_days_build_features_in_order_and_only_the_newest_trains(stack: Stack) -> None:
    """The enabled schedule seals yesterday too, so its night may run twice: the second finds its work done."""
    before = {dag: len(stack.runs(dag)) for dag in ("build_features", "retrain_nightly")}
    stack.client.unpause("seal_day")
    stack.backfill("seal_day", stack.days[0], str(stack.today))
    stack.until(lambda: stack.states("seal_day").keys() == set(stack.days))
    stack.until(lambda: set(stack.states("seal_day").values()) <= set(_ENDED))
    stack.until(lambda: len(stack.runs("build_features")) >= before["build_features"] + 3)
    stack.until(lambda: set(stack.states("build_features").values()) <= set(_ENDED))
    stack.until(lambda: len(stack.runs("retrain_nightly")) > before["retrain_nightly"])
    stack.until(lambda: {run["state"] for run in stack.runs("retrain_nightly")} <= set(_ENDED))
    assert stack.states("seal_day") == dict.fromkeys(stack.days, "success")
    assert stack.states("build_features") == dict.fromkeys(stack.days, "success")
    assert stack.states("retrain_nightly") == {stack.days[-1]: "success"}
    built = stack.runs("build_features")[before["build_features"] :]
    published = {
        run["partition_key"]: stack.tasks("build_features", run["dag_run_id"])["publish_features"]
        for run in built
    }
    assert published == dict.fromkeys(stack.days[:-1], "skipped") | {stack.days[-1]: "success"}
    for day in stack.days:
        sealed = next(run for run in stack.runs("seal_day") if run["partition_key"] == day)
        follower = next(run for run in built if run["partition_key"] == day)
        assert sealed["start_date"] < follower["start_date"]
    assert len(list((stack.settings.models_dir / "nights").iterdir())) == 1
    with Lake.open(stack.settings, read_only=True) as lake:
        rows = lake.query(
            "SELECT day, state, count(*) AS n FROM coverage_days_latest GROUP BY ALL ORDER BY day"
        )
    assert [tuple(row.values()) for row in rows.to_pylist()] == [(day, "repaired", 3) for day in stack.days]


def test_a_run_by_hand_is_given_a_day_or_refused(stack: Stack) -> None:
    refused = stack.trigger("seal_day", conf={})
    assert stack.state("seal_day", refused) == "failed"
    assert stack.tasks("seal_day", refused)["find_day"] == "failed", "at once, without a retry"
    before = len(stack.runs("build_features"))
    done = stack.trigger("seal_day", conf={"day": stack.days[0]})
    assert stack.state("seal_day", done) == "success"
    stack.until(lambda: len(stack.runs("build_features")) == before + 1)
    assert stack.runs("build_features")[-1]["partition_key"] == stack.days[0]
