"""Two workers with homes of their own backfill one lake through Airflow, while one is killed at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.drill, pytest.mark.timeout(5_400)]


@pytest.fixture(autouse=True)
def _needs_edge() -> None:
    pytest.importorskip("airflow.providers.edge3", reason="not installed: make setup")


def test_30_days_of_12_coins_and_10_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.drills.edge_workers import Work, drill

    coins = tuple(f"C{number:02d}" for number in range(12))
    report = drill(tmp_path, Work(coins, days=30), kills=10, seed=7, timeout_s=4_200)
    assert report.kills == 10
    assert sum(report.by_worker.values()) == 60, "a chunk for each day and kind"
    assert report.attempts > 60, "killed chunks were tried again"
    assert report.rows["candles"] == 12 * 30 * 24
    with capsys.disabled():
        print(f"\ntwo edge workers, one lake: {report.text()}")


def test_features_follow_a_backfill_by_workers_and_one_night_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.dags.small_night import COINS, RECIPE
    from tests.drills.edge_workers import Work, drill

    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    work = Work(COINS, days=3, width="5m", kinds=("candles",), recipe=recipe)
    report = drill(tmp_path, work, kills=0, seed=3, timeout_s=1_500)
    assert sum(report.by_worker.values()) == 3
    assert report.rows["candles"] == 3 * 288 * len(COINS)
    with capsys.disabled():
        print(f"\nedge workers, features and one night: {report.text()}")
