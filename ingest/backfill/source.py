"""What is a backfill made of: steps that can be told beforehand, taken once each, and repeated without harm?

A source says which steps a wish needs, and turns one step into rows. The driver (`ingest.backfill.runner`) asks,
commits each step's rows as one batch under the step's key, and leaves out the steps whose batch is in the lake: so a
backfill that was killed goes on where it was, and one that is repeated does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """What is to be filled in: `[from_ns, to_ns)` of some coins; no coins: all that the source has."""

    from_ns: int
    to_ns: int
    coins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackfillStep:
    """One piece of work that is done whole or not at all.

    Args:
        key: names it among all steps of all sources, and with it the batch that it becomes.
        about: what it fetches, for people.
        weight: what it costs of the venue's budget a minute; 0 for an object of an archive.
        size_bytes: what is downloaded; None where nobody can tell beforehand.
    """

    key: str
    about: str
    weight: int = 0
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step brought.

    Args:
        tables: rows by table; bars are derived by the source that knows how.
        inputs: what they were made from: the answer's place in the journal, or the object and its SHA-256.
        absent: why there was nothing to take; the step is asked for again at the next run. Empty: it was taken.
    """

    tables: Mapping[str, pa.Table]
    inputs: Mapping[str, object] = field(default_factory=dict)
    absent: str = ""


class BackfillSource(Protocol):
    """Where history comes from."""

    async def steps(self, wish: BackfillRequest) -> Sequence[BackfillStep]:
        """Return the steps that a wish needs, oldest first; asks as little as it can."""

    async def take(self, step: BackfillStep) -> StepResult:
        """Fetch one step and make rows of it.

        Raises:
            VenueError: the source cannot be reached or refuses; nothing is kept and the step may be taken again.
        """
