"""Task logs in S3, so that they outlive the machine or the worker that wrote them.

Airflow reads this module by `[logging] logging_config_class = serving.airflow.remote_logs.LOGGING_CONFIG`; the setting
`[logging] remote_base_log_folder` (`s3://bucket/prefix`) says where. Airflow's own S3 logs need its Amazon provider
and 14 packages more; boto3 is here anyway (docs/adr/0021). `[logging] remote_logging` stays off, because
Airflow would import that provider.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG
from airflow.configuration import conf

from storage.logs import get_logger
from storage.object_store import ObjectStore, ObjectStoreError, content_of, split_address
from storage.settings import load_settings

logger = get_logger(__name__)

LOGGING_CONFIG: Final[dict[str, Any]] = DEFAULT_LOGGING_CONFIG


class S3TaskLogs:
    """The logs of finished tasks in a bucket, in the form that Airflow expects of `REMOTE_TASK_LOG`.

    Args:
        bucket: of the logs.
        prefix: prepended to every path, with a slash.
        folder: Airflow's local folder of task logs, to which paths are relative.
    """

    processors: tuple[Any, ...] = ()
    """Processors of log lines; none: a log is uploaded when its task has ended."""

    def __init__(self, bucket: str, prefix: str, folder: Path) -> None:
        self._bucket, self._prefix, self._folder = bucket, prefix, folder

    @cached_property
    def _store(self) -> ObjectStore:
        # Made when it is needed: every start of a task imports this module, and boto3 takes 0.3 s.
        lake = load_settings().lake
        return ObjectStore(self._bucket, self._prefix, endpoint=lake.s3_endpoint, region=lake.s3_region)

    def upload(self, path: os.PathLike[str] | str, ti: object = None) -> None:  # noqa: ARG002
        """Upload a log; the local file stays. A failure is a warning, since the task itself has ended well or not.

        Args:
            path: of the log, relative to the local folder.
            ti: the task, which the path names already.
        """
        local = self._folder / path
        try:
            self._store.put(os.fspath(path), local, content_of(local))
        except OSError as error:
            logger.warning("task log not uploaded", log=str(local), reason=str(error))

    def read(self, relative_path: str, ti: object) -> tuple[list[str], list[str]]:  # noqa: ARG002
        """Return where a log was read from, and its text in a list, which is empty if there is none."""
        try:
            text = self._store.reader(relative_path).read().decode("utf-8", "backslashreplace")
        except ObjectStoreError as error:
            if error.failure == "absent":
                return [], []
            return [f"{self._store.where}/{relative_path} cannot be read: {error.reason}"], []
        return [f"{self._store.where}/{relative_path}"], [text]


def configured_logs() -> S3TaskLogs | None:
    """Return the logs in the bucket of `remote_base_log_folder`, or None: logs stay on the disk."""
    parts = split_address(conf.get("logging", "remote_base_log_folder", fallback="") or "")
    return parts and S3TaskLogs(*parts, Path(conf.get("logging", "base_log_folder")))


REMOTE_TASK_LOG: Final = configured_logs()
"""Read by Airflow."""
