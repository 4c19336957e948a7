"""Command `import candles`: options and what it prints."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.serving.cli.test_cli import run


def write(folder: Path, opens: list[str]) -> Path:
    prices = {name: [10.0] * len(opens) for name in ("high", "low", "close", "volume")}
    table = pa.table({"coin": ["ETH"] * len(opens), "t": opens, "open": [99.0] * len(opens), **prices})
    pq.write_table(table, folder / "c.parquet")
    return folder / "c.parquet"


def test_an_import_says_what_it_assumed_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, ["2026-01-01 00:00", "2026-01-01 00:01", "2026-01-01 00:01", "2099-01-01 00:00"])
    arguments = ("--home", str(tmp_path / "home"), "import", "candles", str(file), "--width", "1m")
    assert run(*arguments, "--open", "previous-close") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(
        "3 candles of 1 instruments, 2026-01-01T00:00:00.000Z to 2026-01-01T00:02:00.000Z: 2 bars"
    )
    assert "column t has no time zone and was read as UTC; --timezone names another" in text
    assert "1 candle lies in the future, the first at 2099-01-01T00:00:00.000Z; it is " in text
    assert "1 candle says the same as an earlier one: skipped" in text
    assert text.endswith("new rows: candles 2, bars 2, quarantine 1")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--timezone", "Mars/Olympus"), "--timezone is 'Mars/Olympus', which is no time zone"),
        (("--open", "last"), "--open is 'last'"),
        (("--absent", "none"), "--absent is 'none'"),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], text: str
) -> None:
    file = write(tmp_path, ["2026-01-01 00:00", "2026-01-01 00:01"])
    assert run("--home", str(tmp_path / "home"), "import", "candles", str(file), *options) != 0
    assert text in capsys.readouterr().err
