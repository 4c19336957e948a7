"""The code of docs/adding-a-feature.md, extracted from the page and executed."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tests.features.library.test_library
from features.build import build_features
from features.docs import describe_sets
from features.feature import Feature
from features.leakage.perturbation import prove
from features.sets import FEATURE_SETS, get_set
from features.versioning.fingerprint import fingerprint
from features.versioning.set_diff import differences, edition_of
from storage.code_version import ROOT
from tests.features.panels import random_panel

PAGE = ROOT / "docs" / "adding-a-feature.md"
NAME = "roll_spread_60"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The page's first two Python blocks, as modules of a temporary package."""
    function, loop, *_ = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    folder = tmp_path / "scratch_features"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "roll.py").write_text(function, encoding="utf-8")
    (folder / "loops.py").write_text(loop, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("scratch_features.roll"), importlib.import_module("scratch_features.loops")
    for name in [name for name in sys.modules if name.startswith("scratch_features")]:
        del sys.modules[name]
    fingerprint.cache_clear()


@pytest.fixture
def added(package: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Feature:
    """The feature, added to the set `candles` and to the references, as the page describes."""
    [item] = package[0].roll_spread.values()
    assert isinstance(item, Feature)
    monkeypatch.setitem(FEATURE_SETS, "candles", (*get_set("candles"), item))
    monkeypatch.setitem(tests.features.library.test_library.FEATURES, item.name, item)
    monkeypatch.setitem(tests.features.library.test_library.REFERENCES, "roll_spread", package[1].roll_spread)
    return item


def test_the_feature_of_the_page_agrees_with_the_loop_of_the_page(added: Feature) -> None:
    assert (added.name, added.lookback_bars) == (NAME, 61 + 31)
    tests.features.library.test_library.test_feature_agrees_with_a_slow_loop(added.name)


def test_a_wrong_reference_loop_fails(
    added: Feature, package: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = package[1].roll_spread
    monkeypatch.setitem(
        tests.features.library.test_library.REFERENCES,
        "roll_spread",
        lambda rows, s, t, bars: (
            None if (found := honest(rows, s, t, bars)) is None else found * (1.0 + 1e-5)
        ),
    )
    with pytest.raises(AssertionError):
        tests.features.library.test_library.test_feature_agrees_with_a_slow_loop(added.name)


def test_the_feature_of_the_page_is_proven_and_built(added: Feature) -> None:
    panel = random_panel(5, 420, seed=3)
    result = prove(panel, "candles", seed=0)
    assert added.name not in result.unproven
    block = build_features(panel, "candles")
    assert block.names[-1] == added.name
    assert block.mask[:, :, -1].sum() > 500
    assert 1e-5 < float(block.values[:, :, -1].max()) < 0.1


def test_its_set_and_the_generated_page_change(added: Feature) -> None:
    now = get_set("candles")
    assert fingerprint(now) != fingerprint(now[:-1])
    [difference] = differences(edition_of(now[:-1]), edition_of(now))
    assert (difference.feature, difference.change) == (added.name, "came")
    assert f"`{added.name}`" in describe_sets()
    assert "Roll (1984)" in describe_sets()
