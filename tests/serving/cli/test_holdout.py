"""Commands `holdout seal|open|status`, and what a night says of a sealed range."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from serving import cli
from storage.clock import iso
from storage.settings import Settings
from tests.serving.nights import START_NS, STEPS, WIDTH_NS

HALF = iso(START_NS + STEPS // 2 * WIDTH_NS)
END = iso(START_NS + 2 * STEPS * WIDTH_NS)


@pytest.fixture
def run(judged: tuple[Settings, str], tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    home = tmp_path / "copy"
    shutil.copytree(judged[0].home, home)

    def call(*words: str) -> tuple[int, str, str]:
        try:
            cli.main(["--home", str(home), *words])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return call


def test_a_range_is_sealed_and_opened_for_all_to_see(run: Any, judged: tuple[Settings, str]) -> None:
    night = judged[1]
    assert "no range was ever sealed" in run("holdout", "status")[2]
    bounds = ("--since", HALF, "--until", END)
    code, said, warned = run("holdout", "seal", *bounds, "--reason", "for the end", "--who", "ann@desk")
    assert (code, said.strip()) == (0, f"sealed: {HALF} to {END}")
    assert f"already tested on it: {night}; what they showed is known" in warned
    code, _, error = run("holdout", "seal", "--since", HALF, "--until", END, "--reason", "again")
    assert code == 2
    assert "which is sealed" in error

    code, _, error = run("nightly", "--recipe", "demo", "--until", END)
    assert code == 2
    assert f"until {END} reaches into the sealed holdout {HALF} to {END} (for the end)" in error
    assert f"use --until {HALF}" in error

    assert run("holdout", "open", "--reason", "it is final")[:2] == (0, f"opened: {HALF} to {END}\n")
    assert "had been open before" in run("holdout", "seal", *bounds, "--reason", "once more")[2]
    row = json.loads(run("holdout", "status", "--format", "json")[1])
    assert (row["since"], row["until"], row["state"], row["reason"]) == (HALF, END, "sealed", "once more")
    assert (len(row["opened_before"]), row["tested_by"], row["read_by"]) == (1, [night], [])
    assert "1 row" in run("holdout", "status")[1]
