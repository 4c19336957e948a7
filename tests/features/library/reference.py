"""Reference implementations of all features: slow loops over cells, written from the formulas alone.

A loop has the name of the feature's function, and lies in the file of its family in tests/features/loops.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.features.library.loops import cross_section as among
from tests.features.library.loops import mids, prices, states
from tests.features.library.loops import order_flow as tape
from tests.features.library.loops.cells import Cell, Rows
from tests.features.library.loops.prices import log_return

REFERENCES: dict[str, Callable[..., Cell]] = {
    name: loop
    for family in (prices, mids, tape, states, among)
    for name, loop in vars(family).items()
    if getattr(loop, "__module__", "") == family.__name__ and not name.startswith("_")
}

__all__ = ["REFERENCES", "Cell", "Rows", "log_return"]
