"""Command line: help, output formats, error messages and exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main

from serving import cli
from serving.cli.lazy import COMMANDS, CommandEntry
from storage.errors import SettingsError
from tests.paths import ROOT

HEAVY_MODULES: Final = frozenset(
    {"torch", "pyarrow", "pandera", "duckdb", "pandas", "numba", "polars", "lightgbm", "airflow", "numpy"}
)
PRINT = '{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"%d","sz":"1","time":%d,"tid":%d}]}'


def run(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def capture(folder: Path) -> Path:
    file = folder / "made.ndjson"
    start = 1_757_015_200
    lines = [
        f'{{"recv_ns":{(start + n) * 10**9 + 500_000_000},"msg":{PRINT % (100 + n % 7, (start + n) * 1000, n)}}}'
        for n in range(200)
    ]
    file.write_text("\n".join(lines))
    return file


def test_help_names_every_command_and_loads_no_heavy_module() -> None:
    """In a fresh process, since this one has loaded them all."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "serving.cli", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert len(COMMANDS) >= 29
    for name in (entry.name for entry in COMMANDS):
        assert f" {name} " in done.stdout
    for panel in ("Record", "Lake", "Features", "Train", "Operate"):
        assert f"─ {panel} ─" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "serving.cli" in loaded
    assert loaded & HEAVY_MODULES == set()


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_summary_in_the_top_level_help_is_the_first_line_of_the_command(entry: CommandEntry) -> None:
    command = typer.main.get_command(cli.app).get_command(None, entry.name)  # type: ignore[attr-defined]
    assert command.help.partition("\n\n")[0].replace("\n", " ") == entry.summary


def test_misspelt_command_suggests_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reprot") == 2
    assert "Did you mean 'report'" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == version("tickwalk")


def test_replay_then_sql_in_every_format(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = capture(here)
    assert run("replay", str(file)) == 0
    assert "200 distinct" in capsys.readouterr().out
    query = "SELECT instrument, count(*) AS n FROM trades GROUP BY ALL"
    assert run("sql", query, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"instrument": "hyperliquid|perp|BTC", "n": 200}
    assert run("sql", query, "--format", "csv") == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["instrument", "n"],
        ["hyperliquid|perp|BTC", "200"],
    ]
    assert run("sql", query) == 0
    assert "1 row" in capsys.readouterr().out
    assert run("sql", "SELECT count(*) AS n FROM trades", "--at", "1", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"n": 0}
    assert run("replay", str(file)) == 0
    assert "nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["sql", "SELECT 1"], "there is no lake", "tickwalk replay FILE"),
        (["replay", "nowhere"], "nowhere does not exist", "name a capture file"),
        (["--set", "bars.grace=1", "settings"], "'bars.grace' does not exist", "bars.grace_ms"),
        (["--set", "bars.grace_ms", "settings"], "has no value", "--set bars.grace_ms=2000"),
        (["--config", "none.toml", "settings"], "none.toml cannot be read", ""),
        (["nightly", "--recipe", "lunch"], "lunch", "candles"),
        (["nightly", "--recipe", "demo", "--runner", "dask"], "runner is 'dask'", "pool, sequential or ray"),
        (["nightly", "--recipe", "demo", "--workers", "-1"], "workers is -1", "0, as many as fit"),
        (["nightly", "--recipe", "demo", "--workers", "9999"], "workers is 9999", "as many as fit"),
        (["import", "candles", "nowhere.parquet"], "is not a Parquet file", ""),
        (["--home", "/proc/none", "replay", "x"], "cannot be made", "TICKWALK_HOME"),
    ],
)
def test_known_error_prints_its_message_and_the_next_step(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    assert run(*arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error:" in said
    assert message in said
    assert hint in said
    assert "Traceback" not in said


def test_sql_cannot_write(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("replay", str(capture(here))) == 0
    assert run("sql", "DELETE FROM trades") == 2
    assert "read-only" in capsys.readouterr().err


def test_absent_candles_get_the_requested_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minutes = [0, 1, 3, 4]
    table = pa.table(
        {
            "coin": ["BTC"] * 4,
            "t": pa.array([1_757_015_160_000 + m * 60_000 for m in minutes], pa.int64()),
            **{name: [100.0] * 4 for name in ("open", "high", "low", "close")},
            "volume": [1.0, 0.0, 2.0, 3.0],
        }
    )
    pq.write_table(table, here / "c.parquet")
    assert run("import", "candles", "c.parquet") == 0
    assert "4 candles of 1 instruments" in capsys.readouterr().out
    assert run("sql", "SELECT status FROM bars ORDER BY ts_open", "--format", "csv") == 0
    assert capsys.readouterr().out.split() == ["status", "printed", "quiet", "unknown", "printed", "printed"]
    assert run("--home", "other", "import", "candles", "c.parquet", "--absent", "quiet") == 0
    assert (
        run("--home", "other", "sql", "SELECT status, volume FROM bars ORDER BY ts_open", "--format", "csv")
        == 0
    )
    assert capsys.readouterr().out.split()[-5:] == [
        "printed,1.0",
        "quiet,0.0",
        "quiet,0.0",
        "printed,2.0",
        "printed,3.0",
    ]


def test_packages_of_another_distribution_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = here / "features"
    foreign.mkdir()
    (foreign / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "features", raising=False)
    monkeypatch.syspath_prepend(str(here))
    with pytest.raises(SettingsError, match=r"'features' belongs to something else.*environment of its own"):
        cli.refuse_foreign_packages()


def test_values_that_json_or_terminals_cannot_show_are_converted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", str(capture(here))) == 0
    capsys.readouterr()
    query = (
        "SELECT sum(tid) AS s, 1.5::DECIMAL(4, 2) AS d, 'nan'::DOUBLE AS n, '[/b] [red]x' AS t FROM trades"
    )
    assert run("sql", query, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"s": 19_900, "d": 1.5, "n": "nan", "t": "[/b] [red]x"}
    assert run("sql", query) == 0
    assert "[/b] [red]x" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["sql", ""], ["--log-level", "loud", "settings"]])
def test_empty_query_and_unknown_log_level_are_known_errors(here: Path, arguments: list[str]) -> None:
    assert run("replay", str(capture(here))) == 0
    assert run(*arguments) == 2


def test_interrupt_reported_by_duckdb_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise RuntimeError("Query interrupted") from KeyboardInterrupt()

    def defect(**_: object) -> None:
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr(cli, "app", interrupted)
    assert run("sql", "SELECT 1") == 130
    monkeypatch.setattr(cli, "app", defect)
    with pytest.raises(RuntimeError, match="Query interrupted"):
        run("sql", "SELECT 1")
