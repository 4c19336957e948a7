"""Daily upkeep of a home: its lake, and the files that Airflow's tasks leave behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from storage.clock import DAY_NS, NS
from storage.errors import LakeError
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.maintenance import compact, expire
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_SHOWN: Final = 3


def keep_lake(settings: Settings, *, now_ns: int) -> dict[str, int]:
    """Merge small files, expire snapshots that nothing keeps, and check every file; return counts.

    Raises:
        LakeError: a file is missing or damaged; nothing was repaired.
    """
    with Lake.open(settings) as lake:
        merged = compact(lake, now_ns=now_ns)
        expired = expire(lake, now_ns=now_ns, dry_run=False)
        report = verify(lake, now_ns=now_ns)
    if not report.is_whole:
        bad = [item for item in report.findings if item.kind != "orphan"]
        shown = "; ".join(f"{item.kind} {item.name}: {item.detail}" for item in bad[:_SHOWN])
        raise LakeError(
            f"the lake is damaged, {len(bad)} findings: {shown}",
            hint="see all with: tickwalk lake verify, and make it whole with: tickwalk lake rebuild",
        )
    before, after = (sum(pair[side] for pair in merged.values()) for side in (0, 1))
    return {"files_before": before, "files_after": after, "expired": len(expired)}


def remove_old_task_files(settings: Settings, log_folder: Path, *, now_ns: int) -> int:
    """Remove task logs and folders of training attempts older than `airflow.keep_logs_days`; return how many.

    Args:
        settings: the home.
        log_folder: base of Airflow's task logs.
        now_ns: the current time.
    """
    days = settings.airflow.keep_logs_days
    if not days:
        return 0
    before_s = (now_ns - days * DAY_NS) / NS
    jobs = settings.home.resolve() / "airflow" / "jobs"
    old = [
        path
        for path in (*log_folder.glob("dag_id=*/run_id=*"), *jobs.glob("*"))
        if _newest_s(path) < before_s
    ]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    logger.info("old task files removed", folders=len(old), older_than_days=days)
    return len(old)


def upkeep_of_run(settings: Settings, *, now_ns: int) -> dict[str, Any]:
    """Remove old files of the Airflow that runs this task."""
    from airflow.configuration import conf

    folder = Path(conf.get("logging", "base_log_folder"))
    return {"removed": remove_old_task_files(settings, folder, now_ns=now_ns)}


def _newest_s(folder: Path) -> float:
    """Return when anything in a folder changed last, seconds since the epoch."""
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
