"""Two homes backfill one lake on Postgres and S3 while one is killed; it ends with the rows of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.many_homes import Work, drill


@pytest.mark.drill
def test_two_homes_and_kills_end_with_the_rows_of_one_process(tmp_path: Path) -> None:
    report = drill(tmp_path, Work(coins=2, days=4, chunk_days=2), kills=1, seed=5, longest_s=1.0)
    assert report.kills == 1
    assert report.rows["candles"] == 2 * 4 * 24


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_30_days_of_12_coins_and_10_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = drill(tmp_path, Work(coins=12, days=30, chunk_days=1), kills=10, seed=23)
    assert report.kills == 10
    assert min(report.by_home.values()) > 5, "both homes have worked"
    assert report.rows["candles"] == 12 * 30 * 24
    with capsys.disabled():
        print(f"\ntwo homes, one lake: {report.text()}")
