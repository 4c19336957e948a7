"""A pytest plugin that shortens the leak proof of a night, which each of a hundred small nights makes.

A night of the tests has hundreds of bars, and its proof makes many calls on small tensors: as many as it has cuts and
single steps. Outside of the tests of features it makes fewer of them. Every check is still made, and every canary
must still be caught.
"""

from __future__ import annotations

from typing import Final

import pytest

from features.leakage import parity, perturbation

_FULL: Final = ("tests/features/", "tests/serving/cli/test_features", "tests/benchmarks/")
_SHORT: Final = (
    (perturbation, "_CUTS", 1),
    (perturbation, "_NIGHTS", 2),
    (perturbation, "_LIVE_STEPS", 4),
    (parity, "_LIVE_STEPS", 4),
)
_full = [(module, name, getattr(module, name)) for module, name, _ in _SHORT]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set how long proofs are; fixtures of a wider scope are made with what their first test has."""
    for module, name, count in _full if item.nodeid.startswith(_FULL) else _SHORT:
        setattr(module, name, count)
