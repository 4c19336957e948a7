"""Causes of the time in which a stream was not watched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ingest.coverage.intervals import Gap, Part

RECORDER_DOWN: Final = "recorder down"
SILENT_STREAM: Final = "silent stream"
DAMAGED: Final = "journal damaged"
NOT_PROVEN_YET: Final = "not proven yet"


def main_cause(
    lacking: list[Part],
    gaps: Iterable[Gap],
    lost: tuple[int, str] | None,
    *,
    earliest_ns: int | None,
    is_open: bool,
    is_silent: bool,
) -> tuple[str, bool]:
    """Return why the longest part of a bar is missing, and whether a span may still grow into it.

    Args:
        lacking: the parts that are missing.
        gaps: of the stream.
        lost: since when the stream is lost, and why; None while it is not.
        earliest_ns: when it was first watched; None for never.
        is_open: a connection carries it.
        is_silent: nothing comes on any channel of its coin.
    """
    start, to = max(lacking, key=lambda part: part[1] - part[0])
    # A halted chain explains a stream's silence, and not the other way round.
    for gap in sorted(gaps, key=lambda gap: not gap.is_final):
        if gap.from_ns < to and start < gap.to_ns and not gap.is_bridged:
            return gap.cause, False
    if lost is not None and to > lost[0]:
        return lost[1], False
    if earliest_ns is None or to <= earliest_ns:
        return RECORDER_DOWN, False
    if is_open and is_silent:
        return SILENT_STREAM, False  # when messages come again, the gap that this makes marks the bars dirty
    return NOT_PROVEN_YET, is_open
