"""Intervals of venue time: watched spans, gaps, and the coverage of a bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Part = tuple[int, int]
"""[from, to) in ns of venue time."""


@dataclass(slots=True)
class WatchedSpan:
    """An interval in which one key was watched on one connection."""

    connection: int
    from_ns: int
    to_ns: int


@dataclass(slots=True)
class Gap:
    """An interval in which one key was not watched, or was watched without effect.

    Args:
        connection: the one that ended it; -1 where none did.
        from_ns, to_ns: right-open.
        cause: why.
        is_bridged: it is proven that no print is missing from it.
        overrides: a socket was open, but what it proved is not valid (a dead stream, a halted chain).
        is_final: nothing that the venue resends can bridge it.
        evidence: what bridged it.
        known_ns: when it became known, or what bridged it; only kept where the order of the two matters.
    """

    connection: int
    from_ns: int
    to_ns: int
    cause: str
    is_bridged: bool = False
    overrides: bool = False
    is_final: bool = False
    evidence: str = ""
    known_ns: int = 0


@dataclass(frozen=True, slots=True)
class BarCoverage:
    """Coverage of one bar.

    Args:
        observed_ns: how much of it was watched.
        is_complete: all of it was watched.
        is_repaired: the part that was not watched is proven to hold no other print.
        cause: why it is neither; empty otherwise.
        is_pending: the missing part is the end of a span that may still grow.
    """

    observed_ns: int
    is_complete: bool
    is_repaired: bool
    cause: str
    is_pending: bool


_Stretch = TypeVar("_Stretch", WatchedSpan, Gap)


def recent(items: Iterable[_Stretch], open_ns: int) -> list[_Stretch]:
    """Return the spans or gaps that end after an instant."""
    return [item for item in items if item.to_ns > open_ns]


def subtract(parts: list[Part], holes: Sequence[Part]) -> list[Part]:
    """Return the parts of `parts` that lie outside `holes`."""
    for start, to in holes:
        left = []
        for a, b in parts:
            if to <= a or b <= start:
                left.append((a, b))
                continue
            if a < start:
                left.append((a, start))
            if to < b:
                left.append((to, b))
        parts = left
    return parts


def merge(parts: Iterable[Part]) -> list[Part]:
    """Return the union of parts as rising parts that do not touch.

    >>> merge([(5, 7), (0, 2), (2, 3), (6, 9)])
    [(0, 3), (5, 9)]
    """
    merged: list[Part] = []
    for start, to in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(to, merged[-1][1]))
        else:
            merged.append((start, to))
    return merged


def length(parts: Iterable[Part]) -> int:
    """Return the total length of parts that do not overlap."""
    return sum(to - start for start, to in parts)
