"""A night killed at random moments ends, once it is run again, with the bits of an undisturbed one."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.lake.lake import Lake
from tests.drills.night_kills import moment, night_in_process
from tests.training.builders import fill_lake, settings_in
from tests.training.night.test_truncation import PRICES, RECIPE, without_snapshot
from training.night.artifacts import NightArtifacts

TABLES = ("versions", "lineages", "gate_days", "trials")


def files_of(home: Path) -> dict[str, bytes]:
    """Return the files of the only night and of all fits, without timings and numbers of snapshots."""
    settings = settings_in(home)
    [name] = NightArtifacts.ids(settings)
    folders = (settings.models_dir / "nights" / name, settings.models_dir / "fits")
    return {
        str(path.relative_to(home)): without_snapshot(path.read_bytes())
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "timings" not in path.parts
        and path.suffix != ".lock"
        # A file of the night that was being written; those of fits are removed.
        and not (path.suffix == ".part" and folder.parent.name == "nights")
    }


def rows_of(home: Path) -> dict[str, Any]:
    with Lake.open(settings_in(home), read_only=True) as lake:
        return {
            name: [
                {key: value for key, value in row.items() if key not in ("ts_ingested_ns", "inputs")}
                for row in lake.query(f"FROM {name} ORDER BY ALL").to_pylist()
            ]
            for name in TABLES
        }


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_thirty_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "cut.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    filled = tmp_path / "filled"
    fill_lake(settings_in(filled), PRICES)
    undisturbed = shutil.copytree(filled, tmp_path / "undisturbed")
    accesses = night_in_process(undisturbed, recipe)
    assert accesses is not None
    files, rows = files_of(undisturbed), rows_of(undisturbed)
    draw, kills = random.Random(2026), []
    while len(kills) < 30:
        home = shutil.copytree(filled, tmp_path / f"killed-{len(kills)}")
        at, delay_s = moment(draw, accesses)
        if night_in_process(home, recipe, kill_at=at, delay_s=delay_s) is not None:
            shutil.rmtree(home)  # it ended before the delay
            continue
        kills.append(at)
        night_in_process(home, recipe)
        found = files_of(home)
        assert found.keys() == files.keys(), f"killed at access {at}"
        assert [name for name in found if found[name] != files[name]] == [], f"killed at access {at}"
        assert rows_of(home) == rows, f"killed at access {at}"
        shutil.rmtree(home)
    with capsys.disabled():
        print(f"\nkill -9 of nights: {len(kills)} of {accesses} accesses: {sorted(kills)}")
