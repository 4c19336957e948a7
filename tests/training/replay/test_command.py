"""Command `nights replay`: the plan, a finished replay with its page, and errors that name the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving import cli
from tests.training.replay.small_replay import recipe_of
from training.replay.policy import FinishedReplay

TIMES = ("--from", "2025-02-21T04:30", "--to", "2025-02-21T06:30")


@pytest.fixture
def run(
    replayed: FinishedReplay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    monkeypatch.chdir(tmp_path)
    home = replayed.folder.home
    common = ["--home", str(home.home), "--set", "training.threads=1", "--set", "training.device=cpu"]

    def call(*words: str) -> tuple[int, str, str]:
        recipe = str(recipe_of(home))
        try:
            cli.main([*common, "--set", "training.seed=7", "nights", "replay", "--recipe", recipe, *words])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return call


def test_a_finished_replay_is_printed_with_its_page(run: Any, replayed: FinishedReplay) -> None:
    code, out, _ = run(*TIMES, "--every", "1h", "--format", "json")
    row = json.loads(out)
    assert (code, row["replay"], row["promoted"], row["renewed"]) == (0, replayed.replay, 1, 1)
    assert [item["path"] for item in row["figures"]] == ["served", "newest refit", "gate path"]
    page = replayed.folder.home.reports_dir / f"replay-{replayed.replay}.html"
    text = page.read_text(encoding="utf-8")
    night = replayed.nights[0].night
    link = f"../models/replays/{replayed.replay}/records/models/nights/{night}/verdict.json"
    assert f'href="{link}"' in text
    assert (page.parent / link).is_file()
    code, out, _ = run(*TIMES, "--every", "1h")
    assert "2: 1 promoted, 1 renewed, 0 refused, 0 demoted, 0 failed" in out


def test_a_dry_run_counts_nights_and_folds(run: Any, replayed: FinishedReplay) -> None:
    code, out, _ = run(*TIMES, "--every", "1h", "--dry-run", "--format", "json")
    assert (code, json.loads(out)) == (
        0,
        {"replay": replayed.replay, "nights": 2, "finished": 2, "folds": 6, "fits": 14},
    )


def test_a_range_without_a_night_and_a_step_without_a_unit_are_refused(run: Any) -> None:
    code, _, err = run("--from", "2025-02-21", "--to", "2025-02-20")
    assert code == 2
    assert "has no night" in err
    assert "set --to to a later time than --from" in err
    code, _, err = run(*TIMES, "--every", "daily")
    assert code == 2
    assert "write --every 12h, 1d or 1w" in err
