"""Start of a program once Airflow's API answers: `python -m serving.airflow.await_api PROGRAM [ARGUMENT ...]`.

A scheduler that starts before the API marks due tasks as failed before their code runs (measured 2026-11-30). Compose
honours `depends_on` only in `docker compose up`: after a reboot the engine starts all containers at once. So the
services that need the API wait for it themselves, however they were started.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from serving.airflow.healthcheck import problem

URL_VARIABLE: Final = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
HEALTH_PATH: Final = "/api/v2/monitor/health"
_POLL_S: Final = 1.0
# Once a minute the log says what is missing.
_POLLS_PER_REPORT: Final = 60


def health_url(environ: Mapping[str, str]) -> str:
    """Return the address of the health page of the API that tasks report to; empty if there is none."""
    parts = urlsplit(environ.get(URL_VARIABLE, ""))
    return urlunsplit((parts.scheme, parts.netloc, HEALTH_PATH, "", "")) if parts.netloc else ""


def await_healthy(
    url: str,
    *,
    check: Callable[[str, str], str] = problem,
    sleep: Callable[[float], None] = time.sleep,
    report: Callable[[str], object] = sys.stderr.write,
) -> None:
    """Return once the API answers and reaches its database; it waits as long as it takes.

    Args:
        url: of the health page.
        check: called with the address and a component, returns what is wrong or an empty string.
        sleep: called with the seconds between two checks.
        report: called with a line for the log, at first and then once a minute.
    """
    polls = 0
    while found := check(url, "metadatabase"):
        if polls % _POLLS_PER_REPORT == 0:
            report(f"waiting for Airflow's API: {found}\n")
        polls += 1
        sleep(_POLL_S)


def program_path(name: str) -> str:
    """Return the program of this Python environment, or else the name, to be looked up in `PATH`."""
    if name == "python":
        return sys.executable
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def main(arguments: Sequence[str]) -> None:
    """Wait, then replace this process by the program; exit with code 2 if the command line lacks something."""
    url = health_url(os.environ)
    if not arguments or not url:
        sys.stderr.write(
            f"usage: {URL_VARIABLE}=http://HOST:PORT/execution/ "
            "python -m serving.airflow.await_api PROGRAM [ARGUMENT ...]\n"
        )
        sys.exit(2)
    await_healthy(url)
    program = program_path(arguments[0])
    # The same process, so that signals and the exit code need no one to pass them on.
    os.execvp(program, [program, *arguments[1:]])  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
