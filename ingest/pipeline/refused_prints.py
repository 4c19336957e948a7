"""Coverage of refused prints: which bars lack a print because a frame, or a print in it, could not be used."""

from __future__ import annotations

from ingest.coverage.ledger import TRADES
from ingest.pipeline import rows
from ingest.pipeline.state import RecordingState
from ingest.venues.hyperliquid.refused_frames import refused_prints
from storage.clock import MS_NS


def refuse_print(
    state: RecordingState, connection: int, coin: str | None, time_ms: int | None, until_ns: int
) -> None:
    """Note that a print is missing, because it came and could not be used.

    Args:
        state: whose ledger is told.
        connection: on which it came.
        coin: in the print. If it is not recorded, or cannot be read, the print may be of any coin on the connection.
        time_ms: in the print. If it is no time, or cannot be read, it may be any since the coin's newest print.
        until_ns: receipt of the print, or the latest that it can have been.
    """
    for instrument in _instruments(state, connection, coin):
        if time_ms is not None and rows.is_print_time(time_ms, until_ns):
            state.ledger.refused.add(instrument, time_ms * MS_NS, time_ms * MS_NS)
            continue
        newest_ns = state.newest_print_ns.get(instrument, 0)
        since_ns = max(newest_ns, state.ledger.watched_since_ns(TRADES, instrument))
        # The venue's clock may be ahead of ours: its newest print is a time that it has reached.
        state.ledger.refused.add(instrument, min(since_ns, until_ns), max(newest_ns, until_ns))


def refuse_prints_of(state: RecordingState, connection: int, frame: bytes, until_ns: int) -> None:
    """Note what an undecodable frame may have held of prints; see `refuse_print`."""
    found = refused_prints(frame)
    for item in found:
        refuse_print(state, connection, item.coin, item.time_ms, until_ns)
    for coin in {item.coin for item in found if item.coin in state.coins}:
        assert coin is not None
        instrument = state.instrument(coin)
        if (connection, instrument) in state.awaits_first:
            # It was the batch that the venue resends: what follows is none, and proves nothing about earlier gaps.
            state.end_first_batch(connection, instrument)
            state.unproven.append(coin)


def _instruments(state: RecordingState, connection: int, coin: str | None) -> list[str]:
    if coin is not None and coin in state.coins:
        instrument = state.instrument(coin)
        return [instrument] if all(clock.has(instrument) for clock in state.clocks) else []
    return state.ledger.instruments_on(connection, TRADES)
