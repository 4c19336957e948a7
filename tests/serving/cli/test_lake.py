"""Commands `lake ...`: output for people and programs, and nothing done without consent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving import cli
from storage.settings import Settings
from tests.paths import ROOT
from tests.serving.cli.test_cli import HEAVY_MODULES
from tests.storage.lake.lakes import filled, make_old


def run(settings: Settings, *arguments: str) -> int:
    try:
        cli.main(["--home", str(settings.home), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_status_pin_compact_expire_and_verify(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(settings)

    def said(*arguments: str) -> str:
        assert run(settings, *arguments) == 0
        return capsys.readouterr().out

    status = said("lake", "status")
    assert "would remove 0 snapshots" in status
    rows = [json.loads(line) for line in said("lake", "status", "--format", "json").splitlines()]
    assert {row["table"]: row["rows"] for row in rows}["trades"] == 9
    assert "mine pins snapshot" in said("lake", "pin", "mine")
    assert "trades: merged 3 files into 1" in said("lake", "compact")
    assert said("--set", "lake.keep_snapshots_days=0", "lake", "expire").startswith(
        "8 snapshots would expire"
    )
    assert "8 snapshots expired" in said("--set", "lake.keep_snapshots_days=0", "lake", "expire", "--yes")
    assert said("lake", "verify") == ""
    assert "known" not in said("sql", "SELECT count(*) AS n FROM trades", "--known-at", "1970-01-01")
    assert "no longer pins snapshot" in said("lake", "unpin", "mine")
    assert run(settings, "lake", "pin", "gone", "--at", "0") == 2
    assert "snapshot 0 does not exist or has expired" in capsys.readouterr().err


def test_status_loads_no_heavy_module_but_arrow_and_duckdb(settings: Settings) -> None:
    """In a fresh process. DuckDB imports pandas to bind a parameter, and Arrow does to convert a list."""
    filled(settings)
    command = ["-X", "importtime", "-m", "serving.cli", "--home", str(settings.home), "lake", "status"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert " trades " in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert loaded & HEAVY_MODULES == {"pyarrow", "duckdb", "numpy"}


def test_rebuild_runs_only_with_yes_or_to(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(settings)
    before = sorted(path.name for path in settings.home.iterdir())
    assert run(settings, "lake", "rebuild") == 0
    said = capsys.readouterr()
    assert "copied: no journal holds it" in " ".join(said.out.split())
    assert "nothing was done; to do it: tickwalk lake rebuild --yes" in said.err
    assert sorted(path.name for path in settings.home.iterdir()) == before
    assert run(settings, "lake", "pin", "mine") == 0
    gone = sorted((settings.lake_dir / "data").rglob("funding/*.parquet"))[0]
    gone.unlink()
    capsys.readouterr()
    assert run(settings, "lake", "verify") == 1
    assert "its 1 rows are gone" in capsys.readouterr().out
    # That row cannot be rebuilt: it is reported, and the pin that covered it is not transferred.
    assert run(settings, "lake", "rebuild", "--yes", "--format", "json") == 0
    said = capsys.readouterr()
    rows = {row["table"]: row for row in map(json.loads, said.out.splitlines())}
    assert rows["trades"] == {"table": "trades", "equal": 9, "missing": 0, "extra": 0, "files_lost": 0}
    assert (rows["funding"]["equal"], rows["funding"]["files_lost"]) == (2, 1)
    told = " ".join(said.err.split())
    assert (
        "3 x other: 14 rows copied, 1 rows are lost with files missing from the old lake (no journal holds it"
        in told
    )
    assert "pin mine of snapshot 4 was not transferred: no snapshot holds the same rows" in told
    assert "the old lake is kept in" in told
    assert len(list(settings.home.glob("lake-before-*"))) == 1
    assert run(settings, "lake", "verify") == 0


READ_ONLY = (
    ("gaps",),
    ("instruments",),
    ("reference", "fees"),
    ("quarantine", "list"),
    ("models",),
    ("lake", "status"),
    ("sql", "FROM pins_held"),
)


def test_read_only_commands_refuse_an_old_layout_with_the_next_step(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_old(settings)
    assert run(settings, "sql", "FROM bars_latest") == 0, "bars are read in any layout"
    for command in READ_ONLY:
        assert run(settings, *command) == 2, command
        said = " ".join(capsys.readouterr().err.split())
        assert "the lake is of an older layout: it has no " in said, (command, said)
        assert "such as: tickwalk lake compact" in said
        assert "Traceback" not in said
    assert run(settings, "lake", "compact") == 0
    capsys.readouterr()
    assert run(settings, "gaps") == 0
    assert run(settings, "lake", "status") == 0
