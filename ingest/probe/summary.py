"""Summaries of raw answers and frames, for the person who probes a venue.

Pure: bytes in, one short sentence out. An answer that does not fit raises an error, which the probe reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Final

import msgspec

from ingest.instruments.registry import InstrumentRegistry
from ingest.venues.gaiaex import messages as gaiaex_messages
from ingest.venues.gaiaex.rest_schemas import (
    GaiaexHealth,
    ServerTime,
    SpotSymbols,
    Symbols,
    generation_of,
    parse,
)
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.protocol import kind_of, parse_venue_time_ns
from storage.clock import MS_NS, NS
from storage.errors import VenueError

_LEAST_TIMES: Final = 3


def describe_answer(request: Mapping[str, Any], body: bytes, asked_ns: int, received_ns: int) -> str:
    """Return a summary of an answer of `POST /info`.

    Raises:
        VenueError: the answer does not fit the wire contract.
    """
    kind = str(request["type"])
    if kind == "exchangeStatus":
        return describe_offset(parse_venue_time_ns(body), asked_ns, received_ns)
    try:
        answer = msgspec.json.decode(body)
        match kind:
            case "l2Book":
                book = msgspec.convert(answer, wire.BookData, strict=False)
                return f"{len(book.levels[0])} bids, {len(book.levels[1])} asks"
            case "recentTrades":
                times = [item.time for item in msgspec.convert(answer, list[wire.WirePrint], strict=False)]
                return (
                    f"{len(times)} trades over {(max(times) - min(times)) / 1000:g} s"
                    if times
                    else "0 trades"
                )
            case "candleSnapshot":
                candles = msgspec.convert(answer, list[wire.CandleData], strict=False)
                return f"{len(candles)} candles, trade counts n: {[candle.n for candle in candles[-5:]]}"
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise VenueError(f"does not fit: {error}") from error
    rows = InstrumentRegistry().apply_answer(request, answer, received_ns)
    if rows:
        gone = sum(row["is_delisted"] for row in rows)
        return f"{len(rows) - gone} listed, {gone} delisted"
    return f"{len(answer)} entries" if isinstance(answer, list | dict) else f"{type(answer).__name__}"


def describe_offset(venue_ns: int, asked_ns: int, received_ns: int) -> str:
    """Return the offset of the venue's clock from ours, to within half of the round trip."""
    offset_ms = (venue_ns - (asked_ns + received_ns) / 2) / MS_NS
    return f"venue clock {offset_ms:+.0f} ms from ours, within {(received_ns - asked_ns) / 2 / MS_NS:.0f} ms"


def describe_gaiaex_answer(path: str, body: bytes, asked_ns: int, received_ns: int) -> str:
    """Return a summary of an answer of GaiaEx, with its generation if known.

    Raises:
        VenueError: the answer does not fit the pages of either generation.
    """
    name = path.rpartition("/")[2]
    if name == "list":
        symbols = parse(body, Symbols).symbols
        return f"{len(symbols)} symbols, generation {generation_of(symbols) or 'not told'}"
    if name == "time":
        return describe_offset(parse(body, ServerTime).server_time * MS_NS, asked_ns, received_ns)
    if name == "health":
        health = parse(body, GaiaexHealth)
        return f"{health.status}, market data {health.services.get('market_data', 'not named')}"
    return f"{len(parse(body, SpotSymbols).symbols)} pairs"


@dataclass(slots=True)
class ChannelSummary:
    """Summary of one channel."""

    frames: int = 0
    acked: bool = False
    refusal: str = ""
    misfits: int = 0
    first_misfit: str = ""
    times_ms: set[int] = field(default_factory=set)
    facts: set[str] = field(default_factory=set)

    @property
    def answered(self) -> bool:
        """Whether the venue accepted the subscription and sent no malformed frame."""
        return (self.frames > 0 or self.acked) and not self.misfits and not self.refusal

    def describe(self, seconds: float) -> str:
        """Return the summary as text."""
        parts = [f"{self.frames} frames"] if self.frames else [f"nothing in {seconds:g} s"]
        if not self.frames and self.acked:
            parts.append("though acknowledged")
        if len(self.times_ms) >= _LEAST_TIMES:
            times = sorted(self.times_ms)
            steps = [after - before for before, after in pairwise(times)]
            parts.append(f"every {median(steps) / 1000:g} s by the venue's time")
        parts += sorted(self.facts)
        if self.refusal:
            parts.append(f"refused: {self.refusal}")
        if self.misfits:
            parts.append(f"{self.misfits} do not fit: {self.first_misfit}")
        return ", ".join(parts)


def channel_of(subscription: Mapping[str, Any]) -> str:
    """Return the name under which the frames of a subscription are counted.

    >>> channel_of({"type": "l2Book", "coin": "BTC", "fast": True})
    'l2Book fast'
    >>> channel_of({"type": "activeAssetCtx", "coin": "@107"})
    'activeSpotAssetCtx'
    """
    kind = str(subscription["type"])
    if kind == "activeAssetCtx" and kind_of(str(subscription.get("coin", ""))) == "spot":
        return "activeSpotAssetCtx"
    return f"{kind} fast" if subscription.get("fast") else kind


def summarize_channels(
    frames: Iterable[tuple[int, bytes]], subscriptions: Iterable[Mapping[str, Any]]
) -> dict[str, ChannelSummary]:
    """Return a summary of each subscribed channel, and of any other that sent frames."""
    summaries = {channel_of(item): ChannelSummary() for item in subscriptions}
    for _, body in frames:
        try:
            message = wire.decode(body)
        except VenueError as error:
            _misfit(summaries, body, error.message)
            continue
        match message:
            case wire.Ack():
                echo = msgspec.to_builtins(message.data.subscription)
                summaries.setdefault(channel_of(echo), ChannelSummary()).acked = True
            case wire.ErrorMessage():
                named = [name for name in summaries if f'"{name.split()[0]}"' in message.data]
                summaries.setdefault(named[0] if named else "error", ChannelSummary()).refusal = message.data[
                    :160
                ]
            case wire.Pong() | wire.Greeting():
                pass
            case _:
                _count(summaries, message)
    return summaries


def _misfit(summaries: dict[str, ChannelSummary], body: bytes, reason: str) -> None:
    try:
        name = str(msgspec.json.decode(body, type=dict[str, Any]).get("channel", "no channel"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        name = "no JSON"
    summary = summaries.setdefault(name, ChannelSummary())
    summary.misfits += 1
    summary.first_misfit = summary.first_misfit or reason


def _count(summaries: dict[str, ChannelSummary], message: wire.Message) -> None:
    name = str(message.__struct_config__.tag)
    match message:
        case wire.L2Book(data=wire.BookData() as book):
            name = "l2Book fast" if book.fast else name
            summary = summaries.setdefault(name, ChannelSummary())
            summary.times_ms.add(book.time)
            summary.facts.add(f"{max(map(len, book.levels))} levels a side")
        case wire.CandleMessage():
            summaries.setdefault(name, ChannelSummary()).facts = {f"n {message.data.n}"}
        case wire.ExplorerBlocks():
            summary = summaries.setdefault(name, ChannelSummary())
            summary.times_ms |= {block.block_time for block in message.data}
    summaries.setdefault(name, ChannelSummary()).frames += 1


def describe_gaiaex_frames(frames: Iterable[tuple[int, bytes]], seconds: float) -> tuple[int, str]:
    """Return the number of valid frames of a GaiaEx socket, and a summary."""
    counts: Counter[str] = Counter()
    heartbeats: list[int] = []
    facts: set[str] = set()
    for recv_ns, body in frames:
        try:
            message = gaiaex_messages.decode(body)
        except VenueError as error:
            counts["misfits"] += 1
            facts.add(error.message)
            continue
        counts[str(message.__struct_config__.tag)] += 1
        match message:
            case gaiaex_messages.GaiaBook():
                facts.add(f"generation {message.generation}")
            case gaiaex_messages.RelayHeartbeat():
                heartbeats.append(recv_ns)
            case gaiaex_messages.Rejection():
                facts.add(message.code)
    if len(heartbeats) >= _LEAST_TIMES:
        steps = [after - before for before, after in pairwise(heartbeats)]
        facts.add(f"a heartbeat every {median(steps) / NS:.1f} s")
    parts = [f"{number} {name}" for name, number in sorted(counts.items())] or [f"nothing in {seconds:g} s"]
    return counts.total() - counts["misfits"], ", ".join([*parts, *sorted(facts)])
