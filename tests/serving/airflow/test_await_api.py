"""Services that wait for Airflow's API before they start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serving.airflow.await_api import URL_VARIABLE, await_healthy, health_url
from tests.patience import HANG_S


@contextmanager
def api(*bodies: str) -> Iterator[tuple[str, list[str]]]:
    """Serve health pages, one per request and then the last; yield the address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = bodies[min(len(asked), len(bodies)) - 1].encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/execution/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_waits_until_the_database_is_healthy_and_reports_once_a_minute() -> None:
    answers = iter(["refused"] * 61 + ["unhealthy", ""])
    waited: list[float] = []
    lines: list[str] = []
    await_healthy("http://api", check=lambda *_: next(answers), sleep=waited.append, report=lines.append)
    assert len(waited) == 62
    assert lines == ["waiting for Airflow's API: refused\n", "waiting for Airflow's API: refused\n"]


def test_the_program_replaces_the_process_after_the_api_became_healthy() -> None:
    unhealthy, healthy = (
        f'{{"metadatabase": {{"status": "{state}"}}}}' for state in ("unhealthy", "healthy")
    )
    with api(unhealthy, healthy) as (url, asked):
        done = subprocess.run(
            [sys.executable, "-m", "serving.airflow.await_api", "python", "-c", "raise SystemExit(7)"],
            env={**os.environ, URL_VARIABLE: url},
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_S,
        )
    assert done.returncode == 7, done.stderr
    assert asked == ["/api/v2/monitor/health"] * 2
    assert "waiting for Airflow's API: metadatabase is unhealthy" in done.stderr


@pytest.mark.parametrize("environ", [{}, {URL_VARIABLE: ""}, {URL_VARIABLE: "api-server"}])
def test_without_an_address_there_is_no_health_page(environ: dict[str, str]) -> None:
    assert health_url(environ) == ""


def test_health_page_is_on_the_host_that_tasks_report_to() -> None:
    url = health_url({URL_VARIABLE: "http://api-server:8080/execution/"})
    assert url == "http://api-server:8080/api/v2/monitor/health"
