"""Command `import funding`: options and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.cli.test_cli import run


def test_an_import_counts_new_rows_and_says_what_it_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "paid.csv"
    file.write_text("coin,time,rate\nBTC,2025-01-01 00:00,1e-5\nBTC,2025-01-01 01:00,7\n", encoding="utf-8")
    arguments = ("--home", str(tmp_path / "home"), "import", "funding", str(file))
    assert run(*arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text == (
        "2 payments of 1 instruments, 2025-01-01T00:00:00.000Z to 2025-01-01T01:00:00.000Z "
        "the times have no zone and were read as UTC; --timezone names another "
        "new rows: 1, quarantined 1"
    )
    assert run(*arguments) == 0
    assert capsys.readouterr().out.strip().endswith("new rows: 0, quarantined 0")
    assert run(*arguments, "--timezone", "Mars/Olympus") != 0
    assert "--timezone is 'Mars/Olympus', which is no time zone" in capsys.readouterr().err
