"""Whatever is written in whatever order, the past changes only as the law of history says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage.settings import Settings
from tests.drills.history_law import Interleaving
from tests.drills.homes import fresh
from tests.storage.servers import postgres


def interleave(
    settings: Settings,
    folder: Path,
    *,
    seed: int,
    operations: int,
    replays: bool = True,
    follows: bool = False,
) -> Interleaving:
    folder.mkdir()
    drawn = Interleaving(settings, folder, seed)
    drawn.run(operations, replays=replays, follows=follows)
    return drawn


def on(settings: Settings, catalog: str) -> Settings:
    return dataclasses.replace(settings, lake=dataclasses.replace(settings.lake, catalog=catalog))


def test_the_past_changes_by_recorded_and_never_recorded_history_only(
    settings: Settings, tmp_path: Path
) -> None:
    drawn = interleave(settings, tmp_path / "files", seed=2, operations=6)
    assert len(drawn.done) == 6
    assert min(drawn.changed, drawn.arrived) > 50


@pytest.mark.drill
def test_the_same_on_postgres(settings: Settings, tmp_path: Path) -> None:
    with postgres(tmp_path / "pg") as catalog:
        drawn = interleave(on(settings, catalog), tmp_path / "files", seed=2, operations=4, replays=False)
    assert min(drawn.changed, drawn.arrived) > 50


@pytest.mark.drill
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("catalog", ["sqlite", "postgres"])
def test_the_law_over_many_interleavings(tmp_path: Path, catalog: str) -> None:
    done, changed, arrived, followed = Counter[str](), 0, 0, 0
    for seed in range(10, 30):
        home, files = fresh(tmp_path / f"home-{seed}"), tmp_path / f"files-{seed}"
        with ExitStack() as stack:
            if catalog == "postgres":
                home = on(home, stack.enter_context(postgres(tmp_path / "pg")))
            drawn = interleave(home, files, seed=seed, operations=30, follows=True)
        done, changed, arrived = done + drawn.done, changed + drawn.changed, arrived + drawn.arrived
        followed += drawn.followed
    print(
        f"{done.total()} operations on {catalog} {dict(done)}: {changed} answers changed, {arrived} rows arrived, "
        f"{followed} bars followed"
    )
    assert min(changed, arrived) > 1_000
    assert followed > 100
