"""A pytest option, `--cpu-report`, that lists the tests that need the most processor time.

Processor time is user and system time of the process that runs the test and of every child that it waited for.
A child that a fixture of a wider scope ends is charged to the test whose teardown ends it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "cpu_s"
_WORKER_KEY = "cpu_overhead_s"


def processor_seconds() -> float:
    """Return the processor time of this process and of the children it waited for, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + _forked_seconds()


def _forked_seconds() -> float:
    """Return the processor time of the server of forked processes and of those that have ended, in seconds."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is None or not (stat := Path(f"/proc/{pid}/stat")).exists():
        return 0.0
    # utime, stime, cutime and cstime are the 14th to 17th fields; the 2nd, in parentheses, may hold spaces.
    fields = stat.read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--cpu-report`."""
    parser.addoption(
        "--cpu-report",
        metavar="FILE",
        default=None,
        help="write the processor time of every test to FILE (JSON) and list the 20 slowest tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder where the option was given; xdist's workers get it too."""
    if config.getoption("--cpu-report"):
        config.pluginmanager.register(CpuReport(config), "cpu-report-recorder")


class CpuReport:
    """The processor time of each test, collected in the controlling process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._in_tests_s = 0.0
        self._seconds: dict[str, float] = {}
        self._overheads: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure one test, with its setup and teardown."""
        self._started = processor_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[Any]:
        """Attach the time to the report of the teardown, the last one of a test."""
        if call.when == "teardown":
            spent = processor_seconds() - self._started
            self._in_tests_s += spent
            item.user_properties.append((_PROPERTY, spent))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the time of a test from its last report."""
        if report.when == "teardown" and not self._is_worker:
            self._seconds[report.nodeid] = dict(report.user_properties)[_PROPERTY]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand a worker's overhead (imports, collection) to the controlling process."""
        overhead = processor_seconds() - self._in_tests_s
        if self._is_worker:
            self._config.workeroutput[_WORKER_KEY] = overhead  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Note the overhead of a worker that has ended."""
        self._overheads[node.gateway.id] = getattr(node, "workeroutput", {}).get(_WORKER_KEY, 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the file and list the slowest files and tests."""
        if self._is_worker:
            return
        files: dict[str, float] = defaultdict(float)
        for test, seconds in self._seconds.items():
            files[test.partition("::")[0]] += seconds
        total = processor_seconds()
        Path(self._config.getoption("--cpu-report")).write_text(
            json.dumps(
                {"total_s": total, "overheads_s": self._overheads, "tests": self._seconds, "files": files},
                indent=1,
            )
        )
        write = terminalreporter.write_line
        terminalreporter.section("processor time")
        write(
            f"{sum(self._seconds.values()):.0f} s in {len(self._seconds)} tests; outside of tests: "
            + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(self._overheads.items()))
        )
        for title, table in (("files", files), ("tests", self._seconds)):
            write(f"slowest {title}:")
            for name, seconds in sorted(table.items(), key=lambda one: -one[1])[:20]:
                write(f"{seconds:8.2f} s  {name}")
