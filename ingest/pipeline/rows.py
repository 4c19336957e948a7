"""Validation of decoded messages, and their table rows."""

from __future__ import annotations

from typing import Any, Final

from ingest.bars.bar_columns import ContextNote, Quote
from ingest.journal.records import Record
from ingest.venues.hyperliquid import messages as wire
from storage.clock import MS_NS, NS

SIDES: Final = {"B": "buy", "A": "sell"}

ZERO_HASH: Final = "0x" + "0" * 64
LARGEST: Final = 1e12
# How far the venue's clock may run ahead of ours; a later time is in another unit, or corrupt.
AHEAD_NS: Final = 5 * NS
# 2010: older than any venue. A time in seconds, read as milliseconds, lies in 1970.
FIRST_PRINT_MS: Final = 1_262_304_000_000


def unusable(item: wire.WirePrint, recv_ns: int, begins_ns: int = 0) -> str:
    """Return why a print cannot be used, or an empty text; before `begins_ns` the name was another contract's."""
    return _broken(
        {
            f"price {item.px} is not between 0 and {LARGEST:g}": 0.0 < item.px < LARGEST,
            f"size {item.sz} is not between 0 and {LARGEST:g}": 0.0 < item.sz < LARGEST,
            _time_rule(item.time): is_print_time(item.time, recv_ns),
            f"time {item.time} is before this contract had its name": item.time * MS_NS >= begins_ns,
            f"tid {item.tid} is not between 0 and 2^63": 0 <= item.tid < 1 << 63,
        }
    )


def unusable_quote(data: wire.BboData, recv_ns: int) -> str:
    """Return why a quote cannot be used, or an empty text; an empty side is allowed."""
    levels = [level for level in data.bbo if level is not None]
    return _broken(
        {
            _time_rule(data.time): is_time(data.time, recv_ns),
            "a price is not above 0": all(0.0 < level.px < LARGEST for level in levels),
            "a size is negative": all(0.0 <= level.sz < LARGEST for level in levels),
        }
    )


def unusable_context(ctx: wire.AssetContext) -> str:
    """Return why a context cannot be used, or an empty text; an absent field is null."""
    prices = {"oracle": ctx.oracle_px, "mark": ctx.mark_px, "mid": ctx.mid_px}
    amounts = {"open interest": ctx.open_interest, "day notional": ctx.day_ntl_vlm}
    rates = {"funding": ctx.funding, "premium": ctx.premium}
    return _broken(
        {
            f"{name} {value} is not above 0": value is None or 0.0 < value < LARGEST
            for name, value in prices.items()
        }
        | {
            f"{name} {value} is negative": value is None or 0.0 <= value < 1e18
            for name, value in amounts.items()
        }
        | {f"{name} {value} is no rate": value is None or -1e3 < value < 1e3 for name, value in rates.items()}
    )


def is_time(ts_ms: int, recv_ns: int) -> bool:
    """Return whether a venue time is plausible: after 1970, and not further in our future than clocks differ."""
    return 0 < ts_ms * MS_NS <= recv_ns + AHEAD_NS


def is_print_time(ts_ms: int, recv_ns: int) -> bool:
    """Return whether a print may have this time; one before 2010 is in another unit, or corrupt."""
    return ts_ms >= FIRST_PRINT_MS and is_time(ts_ms, recv_ns)


def _time_rule(ts_ms: int) -> str:
    return f"time {ts_ms} is no time in milliseconds up to {AHEAD_NS // NS} s after its receipt"


def _broken(rules: dict[str, bool]) -> str:
    return "; ".join(rule for rule, holds in rules.items() if not holds)


def trade(
    recording: str, record: Record, instrument: str, item: wire.WirePrint, side: str, origin: str
) -> dict[str, Any]:
    """Return a row of `trades`.

    `origin` is `venue_replay` for the first message after a subscription; fresh prints in it count as live.
    """
    is_fresh = origin == "venue_replay" and item.time * MS_NS >= record.recv_ns - NS
    return {
        "instrument": instrument,
        "ts_event": item.time * 1000,
        "tid": item.tid,
        "side": side,
        "price": item.px,
        "size": item.sz,
        "is_twap": item.hash == ZERO_HASH,
        **_stamps(recording, record),
        "origin": "live" if is_fresh else origin,
    }


def quote_of(data: wire.BboData) -> Quote:
    """Return the quote of a bbo message."""
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


def note_of(ctx: wire.AssetContext, recv_ns: int) -> ContextNote:
    """Return the part of a context that a bar keeps."""
    return ContextNote(recv_ns, ctx.funding, ctx.open_interest, ctx.oracle_px, ctx.mark_px)


def context(recording: str, record: Record, instrument: str, ctx: wire.AssetContext) -> dict[str, Any]:
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


def unusable_spot_context(ctx: wire.SpotContext) -> str:
    """Return why a spot pair's context cannot be used, or an empty text."""
    prices = {"mark": ctx.mark_px, "mid": ctx.mid_px}
    return _broken(
        {
            f"{name} {value} is not above 0": value is None or 0.0 < value < LARGEST
            for name, value in prices.items()
        }
        | {f"day notional {ctx.day_ntl_vlm} is negative": 0.0 <= ctx.day_ntl_vlm < 1e18}
    )


def spot_context(recording: str, record: Record, instrument: str, ctx: wire.SpotContext) -> dict[str, Any]:
    """Return a row of `contexts` for a spot pair, which has no oracle, funding or open interest."""
    return {
        "instrument": instrument,
        "mark": ctx.mark_px,
        "mid": ctx.mid_px,
        "day_notional": ctx.day_ntl_vlm,
        **_stamps(recording, record),
    }


def unusable_mid(mid: float | None, mark: float | None) -> str:
    """Return why a mid and a mark price cannot be used, or an empty text."""
    values = {"mid": mid, "mark": mark}
    return _broken(
        {
            f"{name} {value} is not above 0": value is None or 0.0 < value < LARGEST
            for name, value in values.items()
        }
    )


def mid(
    recording: str, record: Record, instrument: str, mid_px: float | None, mark_px: float | None
) -> dict[str, Any]:
    """Return a row of `mids`."""
    return {"instrument": instrument, "mid": mid_px, "mark": mark_px, **_stamps(recording, record)}


def _stamps(recording: str, record: Record) -> dict[str, Any]:
    return {
        "origin": "live",
        "ts_recv_ns": record.recv_ns,
        "ts_knowable_ns": record.recv_ns,
        "journal": recording,
        "frame": record.frame,
    }
