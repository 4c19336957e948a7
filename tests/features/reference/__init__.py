"""The same features as plain loops over one cell at a time: slow, and written from the formulas alone."""

from __future__ import annotations

from collections.abc import Callable

from tests.features.reference import among, prices, states, tape
from tests.features.reference.cells import Cell, Rows

REFERENCES: dict[str, Callable[..., Cell]] = {
    name: loop
    for family in (prices, tape, states, among)
    for name, loop in vars(family).items()
    if getattr(loop, "__module__", "") == family.__name__ and not name.startswith("_")
}

__all__ = ["REFERENCES", "Rows"]
