"""Hyperliquid messages, and their decoder.

One typed decoder reads every frame in a single pass (msgspec; 2 us a trades frame, measured). Unknown fields are
ignored; a missing or mistyped one makes the frame undecodable, with the path of the field in the reason. Numbers
arrive as decimal strings. A nullable value is `None`, never zero. Wire contract: docs/adding-a-venue.md, read from
the venue's pages on 2026-08-22; channels that those pages do not list (`assetCtxs`, `spotAssetCtxs`, `explorerBlock`,
`fast` books) were read in client sources.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec

from ingest.venues.hyperliquid.fast_contexts import FastContexts, inflate
from storage.errors import VenueError


class WirePrint(msgspec.Struct):
    """One trade as the venue reports it; `side` is the aggressor's, `B` bought or `A` sold."""

    coin: str
    side: str
    px: float
    sz: float
    time: int
    tid: int
    hash: str = ""


class Trades(msgspec.Struct, tag_field="channel", tag="trades"):
    """Trades of one block and coin; after a subscription, the most recent ones again."""

    data: list[WirePrint]


class Level(msgspec.Struct):
    """One price level; `n` is its number of orders, if the message has it."""

    px: float
    sz: float
    n: int | None = None


class BboData(msgspec.Struct):
    """Best bid and ask; an empty side is null."""

    coin: str
    time: int
    bbo: tuple[Level | None, Level | None]


class Bbo(msgspec.Struct, tag_field="channel", tag="bbo"):
    """Sent when the best bid or ask changed in a block."""

    data: BboData


class BookData(msgspec.Struct):
    """A complete book: bids from the highest, asks from the lowest; either may be empty."""

    coin: str
    time: int
    levels: tuple[list[Level], list[Level]]
    fast: bool | None = None


class L2Book(msgspec.Struct, tag_field="channel", tag="l2Book"):
    """A snapshot of the book: 20 levels every 5 s, or 5 levels every 0.5 s (`fast`); null for a coin without one."""

    data: BookData | None


class AssetContext(msgspec.Struct, rename="camel"):
    """A perp's context; mid, premium and impact prices are null while a side of its book is empty."""

    funding: float
    open_interest: float
    prev_day_px: float
    day_ntl_vlm: float
    oracle_px: float
    mark_px: float
    mid_px: float | None = None
    premium: float | None = None
    impact_pxs: tuple[float, float] | None = None
    day_base_vlm: float | None = None


class ContextData(msgspec.Struct):
    """A context with its coin."""

    coin: str
    ctx: AssetContext


class ActiveAssetCtx(msgspec.Struct, tag_field="channel", tag="activeAssetCtx"):
    """The context of a perp, sent about as often as the oracle moves."""

    data: ContextData


class SpotContext(msgspec.Struct, rename="camel"):
    """A spot pair's context; it has no oracle, funding or open interest."""

    prev_day_px: float
    day_ntl_vlm: float
    mark_px: float
    mid_px: float | None = None
    circulating_supply: float | None = None
    day_base_vlm: float | None = None
    coin: str = ""


class SpotContextData(msgspec.Struct):
    """A context with its coin."""

    coin: str
    ctx: SpotContext


class ActiveSpotAssetCtx(msgspec.Struct, tag_field="channel", tag="activeSpotAssetCtx"):
    """The context of a spot pair."""

    data: SpotContextData


class MidsData(msgspec.Struct):
    """Mid price by coin; with an empty side, the last trade price. The first dex has an empty name, or none."""

    mids: dict[str, float]
    dex: str | None = None


class Mids(msgspec.Struct, tag_field="channel", tag="allMids"):
    """Mid prices of all coins of a dex; spot pairs come with the first dex."""

    data: MidsData


class AllContextsData(msgspec.Struct):
    """Pairs of a dex and its contexts, in the order of that dex's universe: positions, not names."""

    ctxs: list[tuple[str, list[AssetContext]]]


class AllDexsAssetCtxs(msgspec.Struct, tag_field="channel", tag="allDexsAssetCtxs"):
    """Contexts of every perp of every dex."""

    data: AllContextsData


class DexContexts(msgspec.Struct):
    """Contexts in the order of one dex's universe."""

    ctxs: list[AssetContext]
    dex: str | None = None


class AssetCtxs(msgspec.Struct, tag_field="channel", tag="assetCtxs"):
    """Contexts of every perp of one dex."""

    data: DexContexts


class NamedSpotContext(SpotContext, rename="camel", kw_only=True):
    """A spot context in a list: it must name its pair, since positions are not a key here."""

    coin: str


class SpotAssetCtxs(msgspec.Struct, tag_field="channel", tag="spotAssetCtxs"):
    """Contexts of every spot pair, each with its name."""

    data: list[NamedSpotContext]


class FastAssetCtxs(msgspec.Struct, tag_field="channel", tag="fastAssetCtxs"):
    """Mark and mid of all coins: all at first, then those that changed."""

    data: FastContexts


class CandleData(msgspec.Struct):
    """The venue's candle of coin `s` and interval `i`: open and close time in ms, prices, base volume, trades."""

    s: str
    i: str
    t: int
    T: int
    o: float
    c: float
    h: float
    l: float  # noqa: E741 - the venue's name
    v: float
    n: int


class CandleMessage(msgspec.Struct, tag_field="channel", tag="candle"):
    """The venue's current candle, sent on trade activity; that of a quiet minute may never come."""

    data: CandleData


class ChainBlock(msgspec.Struct, rename="camel"):
    """A block of the chain below the venue."""

    block_time: int
    height: int
    hash: str = ""
    num_txs: int = 0
    proposer: str = ""


class ExplorerBlocks(msgspec.Struct, tag_field="channel", tag="explorerBlock"):
    """New blocks; on the wire a bare array without a channel."""

    data: list[ChainBlock]


class OutcomeMetaUpdates(msgspec.Struct, tag_field="channel", tag="outcomeMetaUpdates"):
    """Created and settled outcome markets; counted, not stored."""

    data: list[msgspec.Raw]


class SubscriptionEcho(msgspec.Struct):
    """Echo of a subscription, with more fields than were sent, some of them null."""

    type: str
    coin: str = ""
    interval: str | None = None
    dex: str | None = None
    fast: bool | None = None


class AckData(msgspec.Struct):
    """Method, `subscribe` or `unsubscribe`, and the subscription."""

    method: str
    subscription: SubscriptionEcho


class Ack(msgspec.Struct, tag_field="channel", tag="subscriptionResponse"):
    """The venue accepted a subscription."""

    data: AckData


class Pong(msgspec.Struct, tag_field="channel", tag="pong"):
    """The answer to a ping."""


class ErrorMessage(msgspec.Struct, tag_field="channel", tag="error"):
    """The venue refused a request, which the text may quote."""

    data: str


class Greeting(msgspec.Struct, tag_field="channel", tag="greeting"):
    """The bare text that older servers send to a new connection."""


_Enveloped = (
    Trades
    | Bbo
    | L2Book
    | ActiveAssetCtx
    | ActiveSpotAssetCtx
    | CandleMessage
    | Mids
    | AllDexsAssetCtxs
    | AssetCtxs
    | SpotAssetCtxs
    | FastAssetCtxs
    | ExplorerBlocks
    | OutcomeMetaUpdates
    | Ack
    | Pong
    | ErrorMessage
)
Message = _Enveloped | Greeting

CHANNELS: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(_Enveloped))
"""Names of the channels that are decoded."""

_GREETING: Final = b"Websocket connection established."
_ALREADY_SUBSCRIBED: Final = "Already subscribed"


def _read_custom(kind: type, value: Any) -> FastContexts:
    """Decode the one field that is not plain JSON; msgspec adds its path to the error."""
    if kind is not FastContexts or not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return inflate(value)


_decoder: Final = msgspec.json.Decoder(_Enveloped, strict=False, dec_hook=_read_custom)
_blocks_decoder: Final = msgspec.json.Decoder(list[ChainBlock], strict=False)


def decode(frame: bytes) -> Message:
    """Return the message of a frame.

    Raises:
        VenueError: the frame is not JSON, has an unknown channel or lacks a field, which the message names.
    """
    try:
        if frame[:1] == b"[":
            return ExplorerBlocks(_blocks_decoder.decode(frame))
        message: Message = _decoder.decode(frame)
    except msgspec.ValidationError as error:
        raise VenueError(f"frame does not fit the wire contract: {error}") from error
    except RecursionError as error:
        raise VenueError("frame is nested too deeply to be read") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if frame.strip() == _GREETING:
            return Greeting()
        raise VenueError(f"frame is not JSON: {error}") from error
    return message


def already_subscribed(refusal: str) -> SubscriptionEcho | None:
    """Return the subscription that a refusal reports as existing, or None for any other refusal."""
    if not refusal.startswith(_ALREADY_SUBSCRIBED) or "{" not in refusal:
        return None
    try:
        return msgspec.json.decode(refusal[refusal.index("{") :].encode(), type=SubscriptionEcho)
    except msgspec.MsgspecError:
        return None
