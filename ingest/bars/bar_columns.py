"""Columns of a bar: its trades, and the quote and context at its close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ingest.bars.aggregate import Folded
from storage.clock import MS_NS

TRADE_COLUMNS: Final = ("open", "high", "low", "close", "vwap", "volume", "buy_volume", "notional", "trades")
MARKET_COLUMNS: Final = (
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "quote_age_ms",
    "funding_rate",
    "open_interest",
    "oracle",
    "mark",
    "context_age_ms",
)


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask at one instant of venue time; None where a side is empty."""

    ts_ns: int
    bid: float | None
    ask: float | None
    bid_size: float | None
    ask_size: float | None
    is_void: bool = False
    """The earlier quote is no longer valid, and no other has replaced it (a relay that says it is stale)."""


@dataclass(frozen=True, slots=True)
class ContextNote:
    """The venue's context of an instrument as received at one instant."""

    recv_ns: int
    funding_rate: float | None
    open_interest: float | None
    oracle: float | None
    mark: float | None


def trade_columns(folded: Folded, i: int) -> dict[str, Any]:
    """Return the trade columns of bar `i`; prices are None where nothing printed."""
    trades = int(folded.trades[i])
    volume, notional = float(folded.volume[i]), float(folded.notional[i])
    columns: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "vwap"))
    if trades:
        columns |= {name: float(getattr(folded, name)[i]) for name in ("open", "high", "low", "close")}
        columns["vwap"] = notional / volume
    buy_volume = float(folded.buy_volume[i]) if folded.is_side_known[i] else None
    return columns | {"volume": volume, "buy_volume": buy_volume, "notional": notional, "trades": trades}


def market_columns(quote: Quote | None, note: ContextNote | None, close_ns: int) -> dict[str, Any]:
    """Return the quote and context columns as of a bar's close."""
    columns: dict[str, Any] = dict.fromkeys(MARKET_COLUMNS)
    if quote is not None and not quote.is_void:
        columns |= {
            "bid": quote.bid,
            "ask": quote.ask,
            "bid_size": quote.bid_size,
            "ask_size": quote.ask_size,
        }
        columns["quote_age_ms"] = (close_ns - quote.ts_ns) // MS_NS
    if note is not None:
        columns |= {"funding_rate": note.funding_rate, "open_interest": note.open_interest}
        columns |= {"oracle": note.oracle, "mark": note.mark}
        columns["context_age_ms"] = (close_ns - note.recv_ns) // MS_NS
    return columns
