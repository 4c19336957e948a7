"""A recorded capture as the source of a simulated venue.

Frames are sent byte for byte as recorded, in their order; one receipt time is one block. Answers to someone
else's requests (acknowledgements, pongs, errors) are left out, since the server gives its own. Books, contexts and
blocks of the chain come only if they were recorded; candles are made of the trades if the capture has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import msgspec

from ingest.simulator.market.spec import PRICE_DECIMALS
from ingest.simulator.market.universe import SimulatedListing
from ingest.simulator.wire.encoder import Block, Frame, SimulatedFunding, SimulatedPrint, SimulatedQuote
from ingest.simulator.wire.subscriptions import VENUE_WIDE, StreamSubscription
from storage.clock import MS_NS
from storage.errors import CaptureError

_OF_COINS = ("trades", "bbo", "l2Book", "candle", "activeAssetCtx", "activeSpotAssetCtx")
_SERVED = (*_OF_COINS, *(VENUE_WIDE - {"explorerBlock"}))
_BLOCKS = b'[{"blockTime"'


class _Message(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Trade(msgspec.Struct):
    coin: str
    px: str
    sz: str
    time: int
    tid: int


class _OfCoin(msgspec.Struct):
    coin: str = ""
    s: str = ""
    i: str = ""
    fast: bool = False


class _OfDex(msgspec.Struct):
    dex: str = ""


class _Level(msgspec.Struct):
    px: str
    sz: str
    n: int


class _Bbo(msgspec.Struct):
    coin: str
    time: int
    bbo: tuple[_Level | None, _Level | None]


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_trade = msgspec.json.Decoder(_Trade).decode
_decode_of_coin = msgspec.json.Decoder(_OfCoin).decode
_decode_of_dex = msgspec.json.Decoder(_OfDex).decode
_decode_bbo = msgspec.json.Decoder(_Bbo).decode


class CaptureMarket:
    """A capture as a source of blocks; it can be read once.

    Args:
        frames: (recv_ns, frame) in file order.
        listings: the universe, see `scan_listings`; empty allows any coin.

    Raises:
        CaptureError: there is no frame.
    """

    makes_books = False
    tail_ns = 0
    end_ns: int | None = None
    seed = 0
    fundings: tuple[SimulatedFunding, ...] = ()

    def __init__(
        self, frames: Iterable[tuple[int, bytes]], *, listings: Iterable[SimulatedListing] = ()
    ) -> None:
        rows = iter(frames)
        first = next(rows, None)
        if first is None:
            raise CaptureError(
                "the capture holds no frame", hint="choose a capture that was recorded to its end"
            )
        self.start_ns = first[0]
        self.listings = tuple(listings)
        self._rows = itertools.chain((first,), rows)

    def blocks(self) -> Iterator[Block]:
        """Yield the frames of the capture, grouped by receipt time.

        A falling receipt time is raised to the previous one: the clock is monotonic.
        """
        clock_ns = self.start_ns
        for recv_ns, rows in itertools.groupby(self._rows, key=lambda row: row[0]):
            clock_ns = max(clock_ns, recv_ns)
            frames = [frame for _, raw in rows if (frame := read_frame(raw)) is not None]
            if frames:
                yield Block(clock_ns // MS_NS, clock_ns, frames)


def read_frame(raw: bytes) -> Frame | None:
    """Return a recorded message as a frame, or None for one that is not of a public stream."""
    if raw.startswith(_BLOCKS):
        return Frame("explorerBlock:", "explorerBlock", "", raw.decode())
    try:
        message = _decode_message(raw)
        if message.channel not in _SERVED:
            return None
        text = raw.decode()
        if message.channel == "trades":
            prints = tuple(_read_print(item) for item in _decode_raws(message.data))
            coin = prints[0].coin if prints else ""
            return Frame(f"trades:{coin}", "trades", coin, text, prints)
        if message.channel in VENUE_WIDE:
            # fastAssetCtxs is a text, spotAssetCtxs a list: only an object can name a dex.
            is_object = bytes(message.data).startswith(b"{")
            dex = _decode_of_dex(message.data).dex if is_object else ""
            return Frame(f"{message.channel}:{dex}", message.channel, "", text)
        of = _decode_of_coin(message.data)
        quote = _read_quote(message.data) if message.channel == "bbo" else None
    except (msgspec.MsgspecError, ValueError):
        return None
    if message.channel == "candle":
        return Frame(f"candle:{of.s}:{of.i}", "candle", of.s, text)
    wanted = "activeAssetCtx" if message.channel == "activeSpotAssetCtx" else message.channel
    key = StreamSubscription(wanted, of.coin, fast=of.fast).key
    return Frame(key, message.channel, of.coin, text, (), quote)


def scan_listings(frames: Iterable[tuple[int, bytes]]) -> tuple[SimulatedListing, ...]:
    """Return the universe of a capture, in order of appearance.

    A capture lacks `szDecimals` and `maxLeverage`: the former is the most decimals of a traded size, the latter 1,
    the venue's minimum.
    """
    decimals: dict[str, int] = {}
    for _, raw in frames:
        frame = read_frame(raw)
        if frame is None or not frame.coin:
            continue
        decimals.setdefault(frame.coin, 0)
        for item in frame.prints:
            digits = len(_decode_trade(item.text.encode()).sz.rstrip("0").partition(".")[2])
            decimals[frame.coin] = max(decimals[frame.coin], digits)
    return tuple(
        SimulatedListing(coin, digits, max(PRICE_DECIMALS - digits, 0), 1)
        for coin, digits in decimals.items()
    )


def _read_print(raw: msgspec.Raw) -> SimulatedPrint:
    item = _decode_trade(raw)
    return SimulatedPrint(item.coin, item.time, item.tid, float(item.px), float(item.sz), bytes(raw).decode())


def _read_quote(data: msgspec.Raw) -> SimulatedQuote | None:
    body = _decode_bbo(data)
    bid, ask = body.bbo
    if bid is None or ask is None:
        return None
    return SimulatedQuote(
        body.coin, body.time, float(bid.px), float(bid.sz), bid.n, float(ask.px), float(ask.sz), ask.n, tick=0.0
    )  # fmt: skip
