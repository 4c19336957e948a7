"""What row does a decoded message become?"""

from __future__ import annotations

from typing import Any, Final

from ingest import decode as wire
from ingest.bars import ContextNote, Quote
from ingest.journal import Record
from storage.clock import MS_NS, NS

SIDES: Final = {"B": "buy", "A": "sell"}

_ZERO_HASH: Final = "0x" + "0" * 64
_LARGEST: Final = 1e12
# Venue times are milliseconds since 1970; more than this is another unit or a corrupt field (year 2248).
_LATEST_MS: Final = 1 << 43


def unusable(item: wire.Print) -> str:
    """Return why a print cannot be used, or nothing."""
    checks = {
        f"price {item.px} is not between 0 and {_LARGEST:g}": 0.0 < item.px < _LARGEST,
        f"size {item.sz} is not between 0 and {_LARGEST:g}": 0.0 < item.sz < _LARGEST,
        f"time {item.time} is no time in milliseconds": 0 < item.time < _LATEST_MS,
        f"tid {item.tid} is negative": item.tid >= 0,
    }
    return "; ".join(rule for rule, holds in checks.items() if not holds)


def trade(
    recording: str, record: Record, instrument: str, item: wire.Print, side: str, *, is_first: bool
) -> dict[str, Any]:
    """Return a row of `trades`.

    `is_first`: the print came in the first message after a subscription, so that an old one is the venue's replay.
    """
    is_replay = is_first and item.time * MS_NS < record.recv_ns - NS
    return {
        "instrument": instrument,
        "ts_event": item.time * 1000,
        "tid": item.tid,
        "side": side,
        "price": item.px,
        "size": item.sz,
        "is_twap": item.hash == _ZERO_HASH,
        **_stamps(recording, record),
        "origin": "venue_replay" if is_replay else "live",
    }


def quote_of(data: wire.BboData) -> Quote:
    """Return the quote in a bbo message."""
    bid, ask = data.bbo
    return Quote(
        data.time * MS_NS,
        bid.px if bid else None,
        ask.px if ask else None,
        bid.sz if bid else None,
        ask.sz if ask else None,
    )


def quote(recording: str, record: Record, instrument: str, item: Quote) -> dict[str, Any]:
    """Return a row of `quotes`."""
    return {
        "instrument": instrument,
        "ts_event": item.ts_ns // 1000,
        "bid": item.bid,
        "ask": item.ask,
        "bid_size": item.bid_size,
        "ask_size": item.ask_size,
        **_stamps(recording, record),
    }


def note_of(ctx: wire.Context, recv_ns: int) -> ContextNote:
    """Return what a bar keeps of a context."""
    return ContextNote(recv_ns, ctx.funding, ctx.open_interest, ctx.oracle_px, ctx.mark_px)


def context(recording: str, record: Record, instrument: str, ctx: wire.Context) -> dict[str, Any]:
    """Return a row of `contexts`."""
    return {
        "instrument": instrument,
        "funding_rate": ctx.funding,
        "open_interest": ctx.open_interest,
        "oracle": ctx.oracle_px,
        "mark": ctx.mark_px,
        "mid": ctx.mid_px,
        "premium": ctx.premium,
        "day_notional": ctx.day_ntl_vlm,
        **_stamps(recording, record),
    }


def _stamps(recording: str, record: Record) -> dict[str, Any]:
    return {
        "origin": "live",
        "ts_recv_ns": record.recv_ns,
        "ts_knowable_ns": record.recv_ns,
        "journal": recording,
        "frame": record.frame,
    }
