"""Task logs in S3, through Airflow's own resolution of the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANG_S
from tests.storage.servers import s3

PATH = "dag_id=a/run_id=b/task_id=c/attempt=1.log"
# In a process of its own, because Airflow reads its configuration once.
PROGRAM = f"""
import json, os
from airflow.sdk.log import load_remote_log_handler
from airflow.logging_config import get_remote_task_log
from serving.airflow.remote_logs import configured_logs
writer, reader = load_remote_log_handler(), get_remote_task_log()
before = reader.read({PATH!r}, None)
writer.upload({PATH!r}, None)
after = reader.read({PATH!r}, None)
os.environ["AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"] = ""
print(json.dumps([before, after, configured_logs()]))
"""


def run(home: Path, address: str, endpoint: str) -> list[object]:
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "serving.airflow.remote_logs.LOGGING_CONFIG",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": address,
        "TICKWALK_LAKE_S3_ENDPOINT": endpoint,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False, timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_finished_log_is_uploaded_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "logs" / PATH
    log.parent.mkdir(parents=True)
    log.write_text('{"event": "gr\u00fcn"}\n', encoding="utf-8")
    with s3(monkeypatch, "logs") as endpoint:
        before, after, without_address = run(tmp_path, "s3://logs/airflow", endpoint)
    assert before == [[], []], "there is none before the task has ended"
    assert after == [[f"s3://logs/airflow/{PATH}"], ['{"event": "gr\u00fcn"}\n']]
    assert without_address is None, "logs stay on the disk"
