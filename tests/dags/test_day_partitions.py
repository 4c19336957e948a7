"""Days through a real Airflow: seal_day, build_features and retrain_nightly follow each other by partition."""

from __future__ import annotations

import datetime as dt
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from ingest.simulator.server.history_endpoint import RecordedHistory
from serving.airflow import launcher
from serving.airflow.client import AirflowClient
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import AirflowSettings
from tests.dags.small_night import COINS, TRAINING, furnish
from tests.ingest.backfill.histories import candles, served_aside
from tests.ingest.feed.listeners import quick

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1_800)]
DAYS: Final = ("2025-10-20", "2025-10-21", "2025-10-22")
"""Days of the small night's candles; those of the 23rd end at 03:00."""
PATIENCE_S: Final = 900.0
_ENDED: Final = ("success", "failed")


@dataclass(frozen=True)
class Stack:
    """A running Airflow, and the time at which its venue stands."""

    settings: Settings
    client: AirflowClient
    now: dt.datetime

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
        """Run days, both included."""
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


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    now_ns = time.time_ns() // 10**9 * 10**9
    past = {(coin, "5m"): candles(900, until_ns=now_ns, width="5m") for coin in COINS}
    settings = Settings(
        home=tmp_path_factory.mktemp("days"), airflow=AirflowSettings(port=port, parallelism=3)
    )
    recipe = furnish(settings)
    settings = replace(
        settings,
        training=replace(TRAINING, recipe=str(recipe)),
        bars=replace(settings.bars, widths=("5m",)),
    )
    with served_aside(RecordedHistory(now_ns, past)) as url:
        settings = quick(settings, info_url=url, coins=COINS, rest_weight_per_minute=1_000_000)
        started = launcher.up(settings, timeout_s=900, unpause=True)
        try:
            assert started.new_password
            with AirflowClient(started.url, password=started.new_password) as client:
                yield Stack(settings, client, dt.datetime.fromtimestamp(now_ns / 1e9, dt.UTC))
        finally:
            launcher.down(settings, grace_s=10)


def test_sealed_days_build_features_in_order_and_only_the_newest_trains(stack: Stack) -> None:
    stack.backfill("seal_day", DAYS[0], DAYS[-1])
    stack.until(lambda: stack.states("retrain_nightly").get(DAYS[-1]) in _ENDED)
    stack.until(lambda: set(stack.states("build_features").values()) <= set(_ENDED))
    assert stack.states("seal_day") == dict.fromkeys(DAYS, "success")
    assert stack.states("build_features") == dict.fromkeys(DAYS, "success")
    assert stack.states("retrain_nightly") == {DAYS[-1]: "success"}
    published = {
        run["partition_key"]: stack.tasks("build_features", run["dag_run_id"])["publish_features"]
        for run in stack.runs("build_features")
    }
    assert published == {DAYS[0]: "skipped", DAYS[1]: "skipped", DAYS[2]: "success"}
    for day in DAYS:
        sealed, built = (
            next(run for run in stack.runs(dag) if run["partition_key"] == day)
            for dag in ("seal_day", "build_features")
        )
        assert sealed["end_date"] <= built["start_date"]
    with Lake.open(stack.settings, read_only=True) as lake:
        rows = lake.query(
            "SELECT day, state, count(*) AS n FROM coverage_days_latest GROUP BY ALL ORDER BY day"
        )
    assert [tuple(row.values()) for row in rows.to_pylist()] == [(day, "repaired", 3) for day in DAYS]


def test_a_run_by_hand_is_given_a_day_or_refused(stack: Stack) -> None:
    refused = stack.trigger("seal_day", conf={})
    assert stack.state("seal_day", refused) == "failed"
    assert stack.tasks("seal_day", refused)["find_day"] == "failed", "at once, without a retry"
    before = len(stack.runs("build_features"))
    done = stack.trigger("seal_day", conf={"day": DAYS[0]})
    assert stack.state("seal_day", done) == "success"
    stack.until(lambda: len(stack.runs("build_features")) == before + 1)
    assert stack.runs("build_features")[-1]["partition_key"] == DAYS[0]


def test_a_backfill_ends_at_features_and_trains_once(stack: Stack) -> None:
    assert stack.runs("backfill_history") == [], "unpaused, and never run by itself"
    newest = stack.now.date() - dt.timedelta(days=1)
    days = [f"{newest - dt.timedelta(days=back)}" for back in (1, 0)]
    form = {"kinds": ["candles"], "width": "5m", "coins": list(COINS)}
    dry = stack.trigger("backfill_history", conf=form | {"since": days[0], "until": str(stack.now.date())})
    assert stack.tasks("backfill_history", dry) == {
        "plan": "success",
        "fetch": "skipped",
        "publish_bars": "skipped",
    }
    nights = len(stack.runs("retrain_nightly"))
    stack.backfill("backfill_history", days[0], days[1], **form, dry_run=False)
    stack.until(lambda: len(stack.states("backfill_history")) == 3)
    stack.until(lambda: set(stack.states("backfill_history").values()) <= set(_ENDED))
    stack.until(lambda: all(stack.states("build_features").get(day) in _ENDED for day in days))
    assert [stack.states("backfill_history")[day] for day in days] == ["success"] * 2
    run = next(run for run in stack.runs("backfill_history") if run["partition_key"] == days[0])
    assert stack.tasks("backfill_history", run["dag_run_id"])[f"candles {days[0]}"] == "success"
    stack.until(lambda: stack.states("retrain_nightly").get(days[1]) in _ENDED)
    assert len(stack.runs("retrain_nightly")) == nights + 1
