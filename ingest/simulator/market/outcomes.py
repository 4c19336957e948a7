"""Mirrored messages of the second side of an outcome market.

On the venue a trade of YES at `p` is also sent as a trade of NO at `1 - p`: the other aggressor, the same
`tid`, time and hash (passivbot#1395). A client that adds both counts it twice.
"""

from __future__ import annotations

import json
from collections import defaultdict

from ingest.simulator.market.spec import CoinSpec
from ingest.simulator.wire.encoder import (
    Frame,
    SimulatedPrint,
    SimulatedQuote,
    bbo_text,
    exact_text,
    trades_text,
)


def add_mirror(frames: defaultdict[int, list[Frame]], coin: CoinSpec) -> None:
    """Add the frame of the second side of an outcome for each frame of the first.

    Args:
        frames: by block.
        coin: the second side.
    """
    for rows in frames.values():
        rows.extend([_mirror(frame, coin) for frame in rows if frame.coin == coin.mirrored])


def _mirror(frame: Frame, coin: CoinSpec) -> Frame:
    key = f"{frame.channel}:{coin.name}"
    quote = frame.quote
    if quote is None:
        prints = tuple(_mirror_print(item, coin) for item in frame.prints)
        return Frame(key, frame.channel, coin.name, trades_text(prints), prints)
    turned = SimulatedQuote(
        coin.name, quote.time_ms,
        _other(quote.ask, coin), quote.ask_size, quote.ask_orders,
        _other(quote.bid, coin), quote.bid_size, quote.bid_orders,
        quote.tick,
    )  # fmt: skip
    return Frame(key, frame.channel, coin.name, bbo_text(turned), (), turned)


def _mirror_print(item: SimulatedPrint, coin: CoinSpec) -> SimulatedPrint:
    price = _other(item.price, coin)
    row = json.loads(item.text)
    row |= {"coin": coin.name, "side": "A" if row["side"] == "B" else "B", "px": exact_text(price)}
    row["users"].reverse()
    text = json.dumps(row, separators=(",", ":"))
    return SimulatedPrint(coin.name, item.time_ms, item.tid, price, item.size, text)


def _other(price: float, coin: CoinSpec) -> float:
    """Return the price of the other side, at least one step above zero."""
    step = 10.0**-coin.price_decimals
    return max(round(1.0 - price, coin.price_decimals), step)
