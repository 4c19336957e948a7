"""Rows of the table `coverage`, made from watched spans and gaps."""

from __future__ import annotations

from typing import Any

from ingest.coverage.intervals import Gap, WatchedSpan
from storage.clock import US_NS

Key = tuple[str, str]
"""(channel, instrument)"""


class CoverageRows:
    """Rows of one recording, each with its revision, until they are taken."""

    def __init__(self, recording: str, *, evidence: str) -> None:
        """Start without rows.

        Args:
            recording: its name, first part of every row's key.
            evidence: what proves a span or a gap that names no evidence of its own.
        """
        self._recording = recording
        self._evidence = evidence
        self._rows: list[dict[str, Any]] = []
        self._revisions: dict[tuple[int, str, str, int, str], int] = {}

    def add_span(self, key: Key, span: WatchedSpan, cause: str, now_ns: int) -> None:
        """Add the row of a span that has ended."""
        self._add(key, span, "watched", cause, self._evidence, False, now_ns)

    def add_gap(self, key: Key, gap: Gap, now_ns: int) -> None:
        """Add the row of a gap, or its next revision."""
        evidence = gap.evidence or self._evidence
        self._add(key, gap, "gap", gap.cause, evidence, gap.is_bridged, now_ns)

    def take(self) -> list[dict[str, Any]]:
        """Return the rows that are new since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def _add(
        self,
        key: Key,
        stretch: WatchedSpan | Gap,
        kind: str,
        cause: str,
        evidence: str,
        is_bridged: bool,
        now_ns: int,
    ) -> None:
        # Two gaps may begin at one instant, as of a stream that is found silent twice: the later row is the newer.
        row_key = (stretch.connection, *key, stretch.from_ns // US_NS, kind)
        revision = self._revisions[row_key] = self._revisions.get(row_key, -1) + 1
        self._rows.append(
            {
                "journal": self._recording,
                "connection": stretch.connection,
                "channel": key[0],
                "instrument": key[1],
                "ts_from": stretch.from_ns // US_NS,
                "ts_to": stretch.to_ns // US_NS,
                "kind": kind,
                "cause": cause,
                "evidence": evidence,
                "bridged": is_bridged,
                "revision": revision,
                "ts_knowable_ns": now_ns,
            }
        )


def is_within(instrument: str, scope: str) -> bool:
    """Return whether an instrument belongs to a scope: an instrument, or the prefix of a venue's instruments."""
    return instrument == scope or (scope.endswith("|") and instrument.startswith(scope))
