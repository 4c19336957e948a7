"""What does a venue's answer over REST change, once it is in the journal?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ingest.journal.records import Record
from ingest.pipeline.state import RecordingState
from storage.errors import TickwalkError
from storage.logs import get_logger

if TYPE_CHECKING:
    from ingest.pipeline.gap_repair import GapRepair

logger = get_logger(__name__)


def take_answer(state: RecordingState, repairs: GapRepair, record: Record, published_ns: list[int]) -> None:
    """Take an answer; one that does not fit goes into quarantine.

    Args:
        state: is changed by it.
        repairs: asked for it, where it is about prints that are missing.
        record: its body is JSON with `request`, `response` and `asked_ns`.
        published_ns: up to where the bars of each clock are out.
    """
    exchange = json.loads(record.body)
    request, response = exchange["request"], exchange["response"]
    try:
        _take_listings(state, state.registry.apply_answer(request, response, record.recv_ns), record.recv_ns)
        asked_ns = exchange.get("asked_ns", record.recv_ns)
        state.rows.extend("clocks", state.our_clock.take_answer(request, response, asked_ns, record.recv_ns))
        repairs.take_answer(record, request, response, published_ns)
    except TickwalkError as error:
        state.refuse_frame("answers", error.message, record)


def _take_listings(state: RecordingState, rows: list[dict[str, Any]], now_ns: int) -> None:
    """Write what is new among the instruments; end the bars of those that no longer trade, and go on with others."""
    if not rows:
        return
    state.version += 1
    state.ids.clear()
    state.rows.extend("instruments", rows)
    for row in rows:
        instrument = row["instrument"]
        if row["is_delisted"] and state.clocks[0].has(instrument):
            logger.warning("instrument delisted", instrument=instrument, state=row["state"])
        for clock in state.clocks:
            if row["is_delisted"]:
                clock.end_instrument(instrument, now_ns)
            elif clock.has(instrument):
                clock.add_instrument(instrument, now_ns, has_trades=clock.has_trades(instrument))
