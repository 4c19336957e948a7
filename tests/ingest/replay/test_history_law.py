"""Whatever is written in whatever order, the past changes only as the law of history says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from storage.settings import Settings
from tests.drills.history_law import Interleaving
from tests.drills.homes import fresh
from tests.storage.servers import postgres


def interleave(
    settings: Settings, folder: Path, *, seed: int, operations: int, replays: bool = True
) -> Interleaving:
    folder.mkdir()
    drawn = Interleaving(settings, folder, seed)
    drawn.run(operations, replays=replays)
    return drawn


def on(settings: Settings, catalog: str) -> Settings:
    return dataclasses.replace(settings, lake=dataclasses.replace(settings.lake, catalog=catalog))


def test_the_past_changes_by_recorded_and_never_recorded_history_only(
    settings: Settings, tmp_path: Path
) -> None:
    drawn = interleave(settings, tmp_path / "files", seed=2, operations=8)
    assert len(drawn.done) == 8
    assert min(drawn.changed, drawn.arrived) > 50


def test_the_same_on_postgres(settings: Settings, tmp_path: Path) -> None:
    with postgres(tmp_path / "pg") as catalog:
        drawn = interleave(on(settings, catalog), tmp_path / "files", seed=2, operations=4, replays=False)
    assert min(drawn.changed, drawn.arrived) > 50


@pytest.mark.drill
@pytest.mark.parametrize("catalog", ["sqlite", "postgres"])
def test_the_law_over_many_interleavings(tmp_path: Path, catalog: str) -> None:
    done, changed, arrived = Counter[str](), 0, 0
    for seed in range(10, 30):
        home = fresh(tmp_path / f"home-{seed}")
        if catalog == "sqlite":
            drawn = interleave(home, tmp_path / f"files-{seed}", seed=seed, operations=30)
        else:
            with postgres(tmp_path / "pg") as address:
                drawn = interleave(on(home, address), tmp_path / f"files-{seed}", seed=seed, operations=30)
        done, changed, arrived = done + drawn.done, changed + drawn.changed, arrived + drawn.arrived
    print(
        f"{done.total()} operations on {catalog} {dict(done)}: {changed} answers changed, {arrived} rows arrived"
    )
    assert min(changed, arrived) > 1_000
