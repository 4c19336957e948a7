"""Interface of a backfill source: steps known in advance, each fetched once, repeatable without harm.

A source lists the steps that a request needs, and turns one step into rows. The driver (`ingest.backfill.runner`)
commits the rows of each step as one batch under the step's key, and skips steps whose batch is in the lake: a killed
backfill resumes, and a repeated one does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """A time range `[from_ns, to_ns)` of some coins; no coins: all that the source has."""

    from_ns: int
    to_ns: int
    coins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackfillStep:
    """One unit of work, done whole or not at all.

    Args:
        key: unique among all steps of all sources; also the id of its batch.
        about: description for people.
        weight: weight in the venue's rate limit; 0 for an object of an archive.
        size_bytes: size of the download (None: unknown in advance).
    """

    key: str
    about: str
    weight: int = 0
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Rows of a step, or why it has none.

    Args:
        tables: rows by table; a source also derives the bars.
        inputs: lineage of the rows: the position of the answer in the journal, or the object and its SHA-256.
        absent: why there is nothing to fetch yet; the next run retries. Empty: it was fetched.
        arrived_ns: receipt of what the bars were made of (None: when they are committed).
    """

    tables: Mapping[str, pa.Table]
    inputs: Mapping[str, object] = field(default_factory=dict)
    absent: str = ""
    arrived_ns: int | None = None


class BackfillSource(Protocol):
    """A source of history."""

    async def steps(self, request: BackfillRequest) -> Sequence[BackfillStep]:
        """Return the steps of a request, oldest first, with as few requests as possible."""

    async def fetch(self, step: BackfillStep) -> StepResult:
        """Fetch one step and return its rows.

        Raises:
            VenueError: the source cannot be reached or refuses; nothing is stored and the step can be repeated.
        """
