"""A pytest plugin with two profiles of hypothesis: `quick`, and `full` where `DRILL` or HYPOTHESIS_PROFILE asks for it.

A property test with a number of examples of its own takes it through `examples`, which the quick profile cuts.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

from tests.patience import IS_DRILL

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "full" if IS_DRILL else "quick")
_QUICK_SHARE: Final = 4


def examples(count: int) -> int:
    """Return how many examples a property is tried on.

    Args:
        count: in the full profile.
    """
    return count if PROFILE == "full" else max(count // _QUICK_SHARE, 1)


settings.register_profile("full", deadline=None, max_examples=100)
settings.register_profile("quick", deadline=None, max_examples=examples(100))


def pytest_configure() -> None:
    """Load the profile."""
    settings.load_profile(PROFILE)
