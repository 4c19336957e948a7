"""A pytest plugin that gives tests to worker processes file by file, and files that share a costly fixture together.

Long files are collected first, so that none of them is left to one worker at the end: `--no-loadscope-reorder` keeps
that order.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

_RECORDED_DAY: Final = "the recorded day"
_JUDGED_NIGHT: Final = "the judged night"
_GROUPS: Final = {
    "tests/features/test_follow.py": _RECORDED_DAY,
    "tests/features/test_live_equals_batch.py": _RECORDED_DAY,
    "tests/serving/cli/test_features.py": _JUDGED_NIGHT,
    "tests/serving/report/test_browser.py": _JUDGED_NIGHT,
    "tests/serving/report/test_gate_section.py": _JUDGED_NIGHT,
    "tests/serving/report/test_report.py": _JUDGED_NIGHT,
}
_LONG: Final = (
    "tests/dags/test_airflow_stack.py",
    "tests/features/test_follow.py",
    "tests/features/test_live_equals_batch.py",
    "tests/ingest/recorder/",
    "tests/ingest/replay/",
    "tests/features/",
)


class _GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hand out groups of files whole."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _GROUPS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Replace the scheduler of `--dist loadfile`."""
    return _GroupScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    return next((place for place, name in enumerate(_LONG) if nodeid.startswith(name)), len(_LONG))
