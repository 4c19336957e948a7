"""REST answers from the journal: listings, clock readings, recent trades and candles."""

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


def apply_answer(state: RecordingState, repairs: GapRepair, record: Record) -> None:
    """Apply an answer; quarantine one that does not fit.

    Args:
        state: changed by the answer.
        repairs: requested it, where it is about prints that are missing.
        record: its body is JSON with `request`, `response` and `asked_ns`.
    """
    exchange = json.loads(record.body)
    request, response = exchange["request"], exchange["response"]
    try:
        _take_listings(state, state.registry.apply_answer(request, response, record.recv_ns), record.recv_ns)
        asked_ns = exchange.get("asked_ns", record.recv_ns)
        state.rows.extend("clocks", state.our_clock.add_answer(request, response, asked_ns, record.recv_ns))
        repairs.apply_answer(record, request, response)
    except TickwalkError as error:
        state.refuse_frame("answers", error.message, record)


def _take_listings(state: RecordingState, rows: list[dict[str, Any]], now_ns: int) -> None:
    """Add rows of new or changed instruments; end the bars of those that were delisted, and continue the others."""
    if not rows:
        return
    state.listings_changed()
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
