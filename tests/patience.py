"""How long tests wait, and the speeds that only drills check: `make test` must pass on a machine of any speed."""

from __future__ import annotations

import os
from typing import Final

IS_DRILL: Final = bool(os.environ.get("DRILL"))
HANG_S: Final = 600.0
"""Wait at most so long for what must come; it guards against hanging, and says nothing of speed."""


def assert_within(seconds: float, limit_s: float) -> None:
    """Check a speed in drills; mark a test that does so `timed`, and `make drill` runs it too."""
    assert not IS_DRILL or seconds < limit_s
