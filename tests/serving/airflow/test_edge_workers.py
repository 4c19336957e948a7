"""Two workers with homes of their own backfill one lake through Airflow, while one is killed at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.drill, pytest.mark.timeout(3_600)]


@pytest.fixture(autouse=True)
def _needs_edge() -> None:
    pytest.importorskip("airflow.providers.edge3", reason="not installed: make setup")


def test_30_days_of_12_coins_and_10_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.drills.edge_workers import drill

    report = drill(tmp_path, coins=12, days=30, kills=10, seed=7, timeout_s=2_400)
    assert report.kills == 10
    assert sum(report.by_worker.values()) == 60, "a chunk for each day and kind"
    assert report.attempts > 60, "killed chunks were tried again"
    assert report.rows["candles"] == 12 * 30 * 24
    with capsys.disabled():
        print(f"\ntwo edge workers, one lake: {report.text()}")


def test_short_form(tmp_path: Path) -> None:
    from tests.drills.edge_workers import drill

    report = drill(tmp_path, coins=2, days=3, kills=1, seed=3, timeout_s=600)
    assert sum(report.by_worker.values()) == 6
