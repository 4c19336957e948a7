"""The lake's commands: they say what is, do only what is asked, and what a program reads is all they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving import cli
from storage.settings import Settings
from tests.storage.lake.lakes import filled, make_old


def run(settings: Settings, *arguments: str) -> int:
    try:
        cli.main(["--home", str(settings.home), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_lake_is_looked_at_pinned_merged_expired_and_verified(
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


def test_a_lake_is_made_anew_only_when_it_is_asked_for(
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
    # Nothing in the home gives that row again: it is told, and the pin that covered it is not set again.
    assert run(settings, "lake", "rebuild", "--yes", "--format", "json") == 0
    said = capsys.readouterr()
    rows = {row["table"]: row for row in map(json.loads, said.out.splitlines())}
    assert rows["trades"] == {"table": "trades", "equal": 9, "missing": 0, "extra": 0, "files_lost": 0}
    assert (rows["funding"]["equal"], rows["funding"]["files_lost"]) == (2, 1)
    told = " ".join(said.err.split())
    assert (
        "3 x other: 14 rows carried over, 1 rows are lost with the old lake's files (no journal holds it"
        in told
    )
    assert "pin mine of snapshot 4 was not transferred: no snapshot holds the same rows" in told
    assert "the old lake is kept in" in told
    assert len(list(settings.home.glob("lake-before-*"))) == 1
    assert run(settings, "lake", "verify") == 0


READ_ONLY = (
    ("gaps",),
    ("instruments",),
    ("explain", "BTC", "2026-01-01T00:00"),
    ("reference", "fees"),
    ("quarantine", "list"),
    ("models",),
    ("lake", "status"),
    ("sql", "FROM bars_latest"),
)


def test_every_command_that_only_reads_says_that_a_lake_is_too_old_and_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_old(settings)
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
