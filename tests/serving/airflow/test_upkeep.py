"""Daily upkeep: a whole lake is kept, a damaged one is told, and old files of tasks go."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from serving.airflow.upkeep import keep_lake, remove_old_task_files
from storage.clock import DAY_NS, NS
from storage.contracts.tables import TRADES
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.storage.rows import trade

NOW_NS = 1_800_000_000 * NS


def test_a_lake_is_made_small_and_a_damaged_file_is_named(settings: Settings) -> None:
    settings.ensure_home()
    with Lake.open(settings) as lake:
        for n in range(3):
            lake.commit({"trades": TRADES.rows([trade(n)])}, batch_id=f"b{n}")
        before = lake.query("SELECT count(*) AS n FROM trades")["n"][0].as_py()
    done = keep_lake(settings, now_ns=NOW_NS)
    assert done["files_before"] > done["files_after"] >= 1
    with Lake.open(settings, read_only=True) as lake:
        assert lake.query("SELECT count(*) AS n FROM trades")["n"][0].as_py() == before == 3
    for file in settings.lake_dir.rglob("*trades*/**/*.parquet"):
        file.unlink()
    with pytest.raises(LakeError, match=r"the lake is damaged, .* findings: missing .*parquet"):
        keep_lake(settings, now_ns=NOW_NS)


@pytest.mark.parametrize("days", [90.0, 0.0])
def test_old_logs_and_attempts_are_removed_and_new_ones_stay(
    settings: Settings, tmp_path: Path, days: float
) -> None:
    kept_for = replace(settings, airflow=replace(settings.airflow, keep_logs_days=days))
    logs, jobs = tmp_path / "logs", settings.home / "airflow" / "jobs"
    folders = {
        "old": logs / "dag_id=d" / "run_id=1",
        "touched": logs / "dag_id=d" / "run_id=2",
        "job": jobs / "night-1",
        "new": jobs / "night-2",
    }
    for name, folder in folders.items():
        (folder / "task_id=t").mkdir(parents=True)
        log = folder / "task_id=t" / "log"
        log.write_text("x", encoding="utf-8")
        old_s = (NOW_NS - 91 * DAY_NS) / NS
        for path in (log, log.parent, folder) if name != "new" else ():
            os.utime(path, (old_s, old_s))
    os.utime(folders["touched"] / "task_id=t" / "log", (NOW_NS / NS, NOW_NS / NS))
    os.utime(folders["new"] / "task_id=t" / "log", (NOW_NS / NS, NOW_NS / NS))
    assert remove_old_task_files(kept_for, logs, now_ns=NOW_NS) == (2 if days else 0)
    left = {name for name, folder in folders.items() if folder.exists()}
    assert left == ({"touched", "new"} if days else set(folders))
