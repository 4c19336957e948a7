"""Imports follow the allowed arrows, names are unique, and DAG files stay light."""

from __future__ import annotations

import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.layers import (
    ARROWS,
    DAG_LINES,
    HEAVY,
    PACKAGES,
    UNIT_ARROWS,
    all_imports,
    broken_arrows,
    broken_unit_arrows,
    heavy_chains,
    import_cycle,
    read_packages,
    repeated_classes,
    repeated_stems,
    unit_imports,
)
from tests.paths import ROOT

# The project as it is.


def test_every_import_follows_an_arrow() -> None:
    files = read_packages()
    assert len(files) > 300, "the packages were not found, so nothing was checked"
    assert sum(item.package in ARROWS for item in all_imports(files)) > 1000
    assert broken_arrows(files) == []


def test_every_arrow_is_used() -> None:
    """An arrow that no import uses is a rule without effect; `dags` and `tickwalk` may import any package."""
    used = {(item.file.partition("/")[0], item.package) for item in all_imports(read_packages())}
    below = [package for package in PACKAGES if package != "tickwalk"]
    assert {(package, other) for package in below for other in ARROWS[package]} <= used


def test_every_import_between_units_follows_an_arrow() -> None:
    assert broken_unit_arrows(read_packages()) == []


def test_every_arrow_between_units_is_used() -> None:
    used = {(package, unit, other) for _, package, unit, other in unit_imports(read_packages())}
    table = {
        (package, unit, other)
        for package, units in UNIT_ARROWS.items()
        for unit, others in units.items()
        for other in others.split()
    }
    assert table <= used


def test_no_arrow_between_units_leads_back() -> None:
    for units in UNIT_ARROWS.values():
        TopologicalSorter({unit: others.split() for unit, others in units.items()}).prepare()


def test_no_module_imports_itself_in_a_circle() -> None:
    assert import_cycle(read_packages()) == []


def test_every_public_class_name_appears_once() -> None:
    assert repeated_classes(read_packages()) == []


def test_no_folder_gives_a_name_twice() -> None:
    assert repeated_stems(read_packages()) == []


def test_parsing_a_dag_loads_nothing_heavy() -> None:
    assert heavy_chains(read_packages()) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists(), f"{package}/py.typed is missing"


def test_every_folder_of_code_is_a_package() -> None:
    """Without `__init__.py` in the tests' folders, pytest's `import ingest` would find tests/ingest."""
    folders = {path.parent for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")}
    assert len(folders) > 10
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_name_shadows_another() -> None:
    """pandas looks for `tables`; a DAG file named like a package, or like a library, shadows it when run by hand."""
    assert not (ROOT / "tables").exists()
    dags = {path.stem for path in (ROOT / "dags").glob("*.py")}
    assert dags
    assert dags.isdisjoint({*ARROWS, *HEAVY, "tests", *sys.stdlib_module_names})


@pytest.mark.parametrize("path", sorted((ROOT / "dags").glob("*.py")), ids=lambda path: path.name)
def test_a_dag_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < DAG_LINES, f"{path.name} has {lines} lines; move its work into a package"


# The checker itself: made-up sources that break a rule.


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        (
            "storage/lake/lake.py",
            "import os\nfrom ingest.bars.builder import Quote\n",
            "storage/lake/lake.py:2: storage imports ingest.bars.builder, but storage may import no other package",
        ),
        (
            "ingest/bars/builder.py",
            "def late():\n    import features.panel.panel\n",
            "ingest/bars/builder.py:2: ingest imports features.panel.panel, but ingest may import storage",
        ),
        (
            "features/panel/panel.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from training import folds\n",
            "features/panel/panel.py:3: features imports training, but features may import storage",
        ),
        (
            "training/deep/loop.py",
            "from importlib import import_module\nimport_module('serving.cli')\n",
            "training/deep/loop.py:2: training imports serving.cli, but training may import features, storage",
        ),
        (
            "serving/cli.py",
            "from dags import retrain_nightly\n",
            "serving/cli.py:1: serving imports dags, but serving may import features, ingest, storage, training",
        ),
        (
            "training/night/steps.py",
            "from tests.training import panels\n",
            "training/night/steps.py:1: training imports tests.training, but training may import features, storage",
        ),
    ],
)
def test_a_broken_arrow_is_named_with_file_line_and_rule(file: str, source: str, expected: str) -> None:
    assert broken_arrows({file: source}) == [expected]


def test_arrows_that_hold_are_not_named() -> None:
    files = {
        "training/night/steps.py": "from features.panel.panel import Panel\n"
        "from storage import lake\nfrom . import steps\n",
        "dags/retrain.py": "from serving.report import write_report\nimport training.night\n",
    }
    assert broken_arrows(files) == []


def test_a_circle_is_found_through_relative_imports() -> None:
    files = {
        "ingest/a.py": "from .b import name\n",
        "ingest/b.py": "from ingest import a\n",
        "ingest/c.py": "from ingest import a\n",
    }
    assert set(import_cycle(files)) == {"ingest.a", "ingest.b"}
    assert import_cycle({name: files[name] for name in ("ingest/b.py", "ingest/c.py")}) == []


def test_a_circle_hidden_in_a_function_is_found() -> None:
    files = {
        "ingest/c.py": "def late():\n    from ingest import d\n",
        "ingest/d.py": "from ingest import c\n",
    }
    assert set(import_cycle(files)) == {"ingest.c", "ingest.d"}


def test_a_forbidden_arrow_between_units_is_named_with_file_line_and_rule() -> None:
    files = {
        "ingest/recorder/recorder.py": "from ingest.replay.replay import replay\n",
        "ingest/replay/replay.py": "def late():\n    from ingest.recorder.recorder import Recorder\n",
        "ingest/backfill/runner.py": "",
        "ingest/recorder/tasks.py": "import ingest.backfill.runner\n",
    }
    assert broken_unit_arrows(files) == [
        (
            "ingest/replay/replay.py:2: ingest.replay imports ingest.recorder.recorder, "
            "but may import backfill, journal, pipeline"
        ),
        (
            "ingest/recorder/tasks.py:1: ingest.recorder imports ingest.backfill.runner, but may import bars, "
            "concurrency, coverage, feed, instruments, journal, pipeline, replay, sharding, venues"
        ),
    ]


def test_a_repeated_class_name_is_found() -> None:
    files = {
        "ingest/bars/builder.py": "class Bar:\n    pass\n\nclass _Private:\n    pass\n",
        "serving/report/page.py": "class _Private:\n    pass\n\nclass Bar:\n    pass\n",
    }
    assert repeated_classes(files) == ["class Bar: ingest/bars/builder.py:1, serving/report/page.py:4"]


def test_a_module_named_like_a_folder_beside_it_is_found() -> None:
    files = {"ingest/journal.py": "", "ingest/journal/writer.py": "", "ingest/feed/writer.py": ""}
    assert repeated_stems(files) == ["ingest: folder journal, module journal"]


def test_a_heavy_import_is_found_behind_a_light_one() -> None:
    files = {
        "dags/nightly.py": "from training.night.steps import open_night\n",
        "training/__init__.py": "",
        "training/night/steps.py": "import torch.nn\n",
        "dags/light.py": "def task():\n    import torch\n",
    }
    assert heavy_chains(files) == ["dags/nightly.py -> training/night/steps.py -> torch.nn"]
