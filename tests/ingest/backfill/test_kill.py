"""A backfill killed at random moments ends with the rows of an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.backfill_kills import Work, drill


@pytest.mark.drill
def test_killed_at_random_moments_it_ends_with_the_rows_of_an_undisturbed_run(tmp_path: Path) -> None:
    report = drill(tmp_path, Work(minutes=250, days=3, hours=1), kills=2, seed=11)
    assert report.kills == 2
    assert report.acknowledged > 0
    assert report.steps > 10
    assert all(report.rows[name] > 60 for name in ("candles", "funding", "bars", "trades"))


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_40_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = drill(tmp_path, Work(minutes=2_400, days=60, hours=8), kills=40, seed=29)
    with capsys.disabled():
        print(f"\nkill -9 of backfills: {report.text()}")
