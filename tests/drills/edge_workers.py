"""Workers of an Airflow that runs here, each with a home of its own, and one that is killed at random moments.

The DAG `backfill_history` fills a lake on Postgres and S3 in chunks of days. In the end the run has succeeded without a
hand, no batch is there twice, and the rows are those of one process that filled an embedded lake without Airflow.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import psycopg2
import pytest

from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.source import BackfillRequest
from ingest.simulator.server.history_endpoint import RecordedCandle, RecordedHistory
from ingest.simulator.wire.encoder import SimulatedFunding
from serving.airflow import launcher, services
from serving.airflow.secrets import load_secrets
from storage.clock import DAY_NS, MS_NS, iso, width_ns
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.dags.small_night import TRAINING
from tests.drills.backfill_kills import ROWS
from tests.ingest.backfill.histories import served_aside
from tests.storage.servers import BUCKET, postgres, s3

DAG: Final = "backfill_history"
TRAINER: Final = "trainer"
"""The worker of the queue `gpu`; it shares the home of the night."""
FOLLOWERS: Final = ("build_features", "retrain_nightly")
_HOUR_NS: Final = DAY_NS // 24
_TABLES: Final = ("candles", "funding", "bars")
_LOOK_S: Final = 3.0
_RECORDS: Final = "airflow"
"""Database of Airflow, beside that of the lake."""
_WORKER: Final = """
import sys
from serving.airflow import services
from serving.cli import main
services.COMMON_ENV["AIRFLOW__EDGE__JOB_POLL_INTERVAL"] = "1"
main(["airflow", "worker", "--queue", sys.argv[2], "--name", sys.argv[1]])
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it: kills, attempts of the chunks, chunks by worker, rows compared, and seconds of the run."""

    kills: int
    attempts: int
    by_worker: Mapping[str, int]
    rows: Mapping[str, int]
    seconds: float

    def text(self) -> str:
        """Return the figures in a line."""
        workers = ", ".join(f"{name} {count}" for name, count in sorted(self.by_worker.items()))
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        return (
            f"{self.kills} kills of a worker; {sum(self.by_worker.values())} chunks in {self.attempts} attempts, "
            f"ended by {workers}; rows equal to those of one process: {rows}; {self.seconds:.0f} s"
        )


@dataclass
class Workers:
    """The workers, each a session of processes of its own."""

    settings: Mapping[str, Settings]
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: int = 0

    def start(self, name: str) -> None:
        """Start a worker in a home; each start has a name of its own, as by default."""
        self.starts += 1
        queue = "gpu" if name == TRAINER else "backfill"
        env = {key: value for key, value in os.environ.items() if not key.startswith("TICKWALK_")}
        env |= services.settings_env(self.settings[name])
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", _WORKER, f"{name}-{self.starts}", queue],
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a worker with its tasks, as when its machine loses power."""
        leader = psutil.Process(self.running[name].pid)
        for process in (leader, *leader.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.running.pop(name).wait()


class Api:
    """Airflow's REST API, patient with a busy machine."""

    def __init__(self, settings: Settings) -> None:
        self._url = services.base_url(settings)
        secrets, _ = load_secrets(services.airflow_home(settings) / "secrets.json")
        login = {"username": "admin", "password": secrets.admin_password}
        self._http = httpx.Client(base_url=self._url, timeout=120.0, trust_env=False)
        token = self._http.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer to a request."""
        return self._http.request(method, f"/api/v2/{path}", json=body).raise_for_status().json()


@dataclass(frozen=True, slots=True)
class Work:
    """What is filled in, in chunks of a day for each kind of history.

    Args:
        coins: names.
        days: whole days before now.
        width: of the candles.
        kinds: of history.
        recipe: a night that follows the features of the newest day, and whose folds a third worker trains (default:
            no DAG follows the backfill).
    """

    coins: tuple[str, ...]
    days: int
    width: str = "1h"
    kinds: tuple[str, ...] = ("candles", "funding")
    recipe: Path | None = None


def drill(folder: Path, work: Work, *, kills: int, seed: int, timeout_s: float) -> Report:
    """Backfill by two workers, kill the second at random moments, and compare the lakes.

    Args:
        folder: an empty one; takes the homes.
        work: what is filled in.
        kills: how often at most; the run may end before.
        seed: draws the moments.
        timeout_s: of the run.
    """
    draw = random.Random(seed)
    end_ns = time.time_ns() // DAY_NS * DAY_NS
    start_ns = end_ns - work.days * DAY_NS
    with _places(folder, work, start_ns) as (venue, shared):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        main = _settings(folder / "main", venue, shared, port=port)
        launcher.up(main, timeout_s=600)
        homes = {"first": folder / "first", "second": folder / "second"}
        if work.recipe:
            homes[TRAINER] = main.home
        settings = {name: _worker(home, folder / "jwt", venue, shared, port) for name, home in homes.items()}
        workers = Workers(settings, folder)
        try:
            secrets, _ = load_secrets(services.airflow_home(main) / "secrets.json")
            (folder / "jwt").touch(mode=0o600)
            (folder / "jwt").write_text(secrets.jwt_secret, encoding="utf-8")
            for name in workers.settings:
                workers.start(name)
            conf = {
                "dry_run": False,
                "kinds": work.kinds,
                "since": iso(start_ns)[:10],
                "until": iso(end_ns)[:10],
                "coins": work.coins,
                "width": work.width,
            }
            started_s = time.monotonic()
            api = Api(main)
            for dag in FOLLOWERS if work.recipe else ():
                api.ask("PATCH", f"dags/{dag}", {"is_paused": False})
            tasks, done = _run(api, conf, workers, kills=kills, draw=draw, timeout_s=timeout_s)
            if work.recipe:
                _await_night(
                    api, [iso(start_ns + n * DAY_NS)[:10] for n in range(work.days)], timeout_s=timeout_s
                )
            seconds = time.monotonic() - started_s
        finally:
            for name in list(workers.running):
                workers.kill(name)
            launcher.down(main, grace_s=5)
        alone = _settings(folder / "alone", venue, {}, port=port)
        _fill(alone, work, BackfillRequest(start_ns, end_ns, work.coins))
        rows = _compare(main, alone, _TABLES if "funding" in work.kinds else ("candles", "bars"))
    by_worker: dict[str, int] = {}
    for task in tasks:
        name = task["hostname"].partition("-")[0]
        by_worker[name] = by_worker.get(name, 0) + 1
    return Report(done, sum(task["try_number"] for task in tasks), by_worker, rows, seconds)


def _run(
    api: Api, conf: object, workers: Workers, *, kills: int, draw: random.Random, timeout_s: float
) -> tuple[list[dict[str, Any]], int]:
    """Trigger the DAG, kill while it runs, and return its chunks and the number of kills once it has succeeded."""
    api.ask(
        "PATCH", "pools/venue", {"pool": "venue", "slots": 2, "description": "", "include_deferred": False}
    )
    api.ask("PATCH", f"dags/{DAG}", {"is_paused": False})
    run = api.ask("POST", f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
    until_s, kill_at_s, done = time.monotonic() + timeout_s, time.monotonic() + draw.uniform(10, 30), 0
    while True:
        time.sleep(_LOOK_S)
        state = api.ask("GET", f"dags/{DAG}/dagRuns/{run}")["state"]
        found = api.ask("GET", f"dags/{DAG}/dagRuns/{run}/taskInstances?limit=200")["task_instances"]
        chunks = [task for task in found if task["task_id"] == "fetch"]
        if state in ("success", "failed"):
            assert state == "success", [(task["map_index"], task["state"]) for task in found]
            return chunks, done
        assert time.monotonic() < until_s, [(task["task_id"], task["state"]) for task in found]
        is_running = any(task["state"] == "running" for task in chunks)
        if done < kills and is_running and time.monotonic() > kill_at_s:
            workers.kill("second")
            workers.start("second")
            done += 1
            kill_at_s = time.monotonic() + draw.uniform(15, 40)


def _await_night(api: Api, days: Sequence[str], *, timeout_s: float) -> None:
    """Wait until the features of each day are built and one night has ended, and check that there is no other."""
    until_s = time.monotonic() + timeout_s
    while True:
        built, nights = (api.ask("GET", f"dags/{dag}/dagRuns?limit=200")["dag_runs"] for dag in FOLLOWERS)
        states = {run["partition_key"]: run["state"] for run in (*built, *nights)}
        assert "failed" not in states.values(), states
        if (
            sorted(run["partition_key"] for run in built if run["state"] == "success") == sorted(days)
            and nights
        ):
            assert [run["partition_key"] for run in nights] == [days[-1]], "one night, of the newest day"
            if nights[0]["state"] == "success":
                path = f"dags/{FOLLOWERS[1]}/dagRuns/{nights[0]['dag_run_id']}/taskInstances"
                tasks = api.ask("GET", path)["task_instances"]
                folds = [task["hostname"] for task in tasks if task["task_id"] == "train_fold"]
                assert folds, "the night has folds"
                assert all(host.startswith(TRAINER) for host in folds), folds
                return
        assert time.monotonic() < until_s, states
        time.sleep(_LOOK_S)


def _compare(shared: Settings, alone: Settings, tables: Sequence[str]) -> dict[str, int]:
    counts = {}
    with Lake.open(shared, read_only=True) as found, Lake.open(alone, read_only=True) as expected:
        twice = found.query("SELECT batch_id FROM batches GROUP BY ALL HAVING count(*) > 1")
        assert twice.num_rows == 0, twice.to_pylist()
        for name in tables:
            rows = expected.query(ROWS[name])
            assert rows.num_rows > 0, name
            assert found.query(ROWS[name]).equals(rows), f"{name} differ"
            counts[name] = rows.num_rows
    return counts


def _fill(settings: Settings, work: Work, request: BackfillRequest) -> None:
    async def fill(lake: Lake) -> None:
        for kind in work.kinds:
            wanted = RestRequest("funding") if kind == "funding" else RestRequest("candles", work.width)
            await backfill_over_rest(wanted, request, lake, settings)

    with Lake.open(settings) as lake:
        asyncio.run(fill(lake))


def _settings(
    home: Path, venue: Mapping[str, object], shared: Mapping[str, object], *, port: int
) -> Settings:
    airflow: dict[str, object] = {"airflow.port": port, "airflow.worker_queues": ("backfill", "gpu")}
    if shared:
        # SQLite cannot skip rows that another worker has locked, so two are given the same task (seen 2026-12-01).
        server = dict(word.split("=") for word in str(shared["lake.catalog"]).partition(":")[2].split())
        host = quote(server["host"], safe="")
        airflow["airflow.database"] = f"postgresql+psycopg2://{server['user']}@/{_RECORDS}?host={host}"
    return load_settings(overrides={**venue, **shared, **airflow, "home": home}, environ={})


def _worker(
    home: Path, secret_file: Path, venue: Mapping[str, object], shared: Mapping[str, object], port: int
) -> Settings:
    airflow = {"airflow.server": f"http://127.0.0.1:{port}", "airflow.secret_file": str(secret_file)}
    return load_settings(overrides={**venue, **shared, **airflow, "home": home}, environ={})


def random_walk(seed: int, last_ms: int, *, steps: int, width_ms: int) -> list[RecordedCandle]:
    """Return candles of a coin, the last one still open."""
    draw = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(draw.normal(0.0, 1e-3, steps)))
    open_ = np.concatenate([close[:1], close[:-1]])
    reach = 1 + np.abs(draw.normal(0.0, 5e-4, steps))
    high, low = np.maximum(open_, close) * reach, np.minimum(open_, close) / reach
    rows = zip(open_.tolist(), high.tolist(), low.tolist(), close.tolist(), strict=True)
    return [
        RecordedCandle(last_ms - (steps - 1 - n) * width_ms, *prices, 1.0 + n % 9, 1 + n % 90)
        for n, prices in enumerate(rows)
    ]


@contextmanager
def _places(folder: Path, work: Work, start_ns: int) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Serve a venue's past until now, Postgres and S3; yield the settings of the venue, and of the shared lake."""
    now_ns = time.time_ns()
    steps, hours = ((now_ns - start_ns) // unit + 2 for unit in (width_ns(work.width), _HOUR_NS))
    first_ms = now_ns // width_ns(work.width) * width_ns(work.width) // MS_NS
    held = {
        (coin, work.width): random_walk(number, first_ms, steps=steps, width_ms=width_ns(work.width) // MS_NS)
        for number, coin in enumerate(work.coins)
    }
    paid = [
        SimulatedFunding(coin, (now_ns // _HOUR_NS - back) * _HOUR_NS // MS_NS + 31, 1e-5 * (back % 9), 0.0)
        for back in range(hours, 0, -1)
        for coin in work.coins
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres(folder) as catalog,
        s3(patch) as endpoint,
        served_aside(RecordedHistory(now_ns, held, paid)) as info_url,
    ):
        venue: dict[str, object] = {
            "record.info_url": info_url,
            "record.coins": work.coins,
            "record.rest_weight_per_minute": 1_000_000,
            "bars.widths": (work.width,),
        }
        if work.recipe:
            small = {f"training.{name}": getattr(TRAINING, name) for name in ("device", "threads", "workers")}
            venue |= {**small, "training.recipe": str(work.recipe)}
        with closing(psycopg2.connect(catalog.partition(":")[2])) as connection:
            connection.set_isolation_level(0)  # no transaction: Postgres creates no database in one
            connection.cursor().execute(f"CREATE DATABASE {_RECORDS}")
        data = {"lake.catalog": catalog, "lake.data": f"s3://{BUCKET}/lake", "lake.s3_endpoint": endpoint}
        yield venue, dict(data)
