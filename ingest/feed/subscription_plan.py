"""Distribution of subscriptions over sockets within the venue's limits.

Pure. Limits of Hyperliquid (rate limits, read 2026-08-22), per address: 10 connections, 1000 subscriptions.
Trades of a coin go on two sockets where there is room, so that the loss of one makes no gap; the rest of a coin goes
on one socket, where its channels show whether the socket still delivers. GaiaEx has one socket a symbol, without
subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from ingest.sharding import parse_shard, shard_of
from ingest.venues.gaiaex.protocol import socket_url
from storage.errors import SettingsError
from storage.settings import Settings

Venue = Literal["hyperliquid", "chain", "gaiaex"]

TRADES: Final = "trades"
BLOCKS: Final = "explorerBlock"
VENUE_WIDE: Final = frozenset({"allMids", "allDexsAssetCtxs", "fastAssetCtxs"})
_VENUE_CONNECTIONS: Final = 10
_VENUE_SUBSCRIPTIONS: Final = 1000
# Fields of a subscription message that differ from the name of our channel.
_FIELDS: Final[dict[str, dict[str, object]]] = {
    "l2BookFast": {"type": "l2Book", "fast": True},
    "candle": {"interval": "1m"},
}
_EXPLORERS: Final = {
    "api.hyperliquid.xyz": "rpc.hyperliquid.xyz",
    "api.hyperliquid-testnet.xyz": "rpc.hyperliquid-testnet.xyz",
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription; `coin` is empty for a channel of the whole venue."""

    channel: str
    coin: str = ""

    def body(self) -> dict[str, Any]:
        """Return the body of the subscription message.

        >>> Subscription("l2BookFast", "BTC").body()
        {'type': 'l2Book', 'coin': 'BTC', 'fast': True}
        """
        body: dict[str, Any] = {"type": self.channel}
        if self.coin:
            body["coin"] = self.coin
        return body | _FIELDS.get(self.channel, {})


@dataclass(frozen=True, slots=True)
class ConnectionPlan:
    """Address and subscriptions of one socket.

    Args:
        name: stable while the socket has the same purpose.
        venue: `hyperliquid`, `chain` (its explorer's blocks) or `gaiaex`.
        url: address of the socket.
        wanted: subscriptions, most urgent first.
        symbol: of the book; GaiaEx only.
    """

    name: str
    venue: Venue
    url: str
    wanted: tuple[Subscription, ...] = ()
    symbol: str = ""


@dataclass(slots=True)
class _Basket:
    room: int
    subscriptions: dict[Subscription, None] = field(default_factory=dict)

    def put(self, wants: Iterable[Subscription]) -> None:
        for want in wants:
            if want not in self.subscriptions:
                self.subscriptions[want] = None
                self.room -= 1


def plan(
    settings: Settings,
    coins: Sequence[str],
    gaia_symbols: Sequence[str] = (),
    *,
    before: Sequence[ConnectionPlan] = (),
) -> list[ConnectionPlan]:
    """Return the sockets of one recorder.

    Args:
        settings: sections `record` and `gaiaex`.
        coins: the venue's names, the most important first; coins of other shards are ignored.
        gaia_symbols: GaiaEx's names, likewise.
        before: the plan in force; subscriptions still wanted stay on their socket, since moving one would make a gap.

    Raises:
        SettingsError: the subscriptions exceed what the venue or the settings allow.
    """
    record = settings.record
    part, parts = parse_shard(record.shard)
    mine = [coin for coin in dict.fromkeys(coins) if shard_of(coin, parts) == part]
    # Only the first shard records venue-wide channels: recorded twice, they would not merge into one recording.
    wide = [channel for channel in record.channels if channel in VENUE_WIDE] if part == 1 else []
    if record.clock == "venue":
        baskets = [_all_on_one(wide, mine, _coin_channels(settings))]
    else:
        baskets = _spread(settings, wide, mine, [item for item in before if item.venue == "hyperliquid"])
    sockets = [
        ConnectionPlan(f"hyperliquid-{number}", "hyperliquid", record.ws_url, tuple(basket.subscriptions))
        for number, basket in enumerate(baskets, 1)
        if basket.subscriptions
    ]
    explorer = explorer_url(settings)
    if explorer and record.clock != "venue":
        sockets.append(ConnectionPlan("chain", "chain", explorer, (Subscription(BLOCKS),)))
    symbols = [symbol for symbol in dict.fromkeys(gaia_symbols) if shard_of(symbol, parts) == part]
    return sockets + _gaia(settings, symbols)


def duplicated_trades(sockets: Iterable[ConnectionPlan]) -> list[str]:
    """Return the coins whose trades are on more than one socket."""
    seen: dict[str, int] = {}
    for socket in sockets:
        for want in socket.wanted:
            if want.channel == TRADES:
                seen[want.coin] = seen.get(want.coin, 0) + 1
    return [coin for coin, times in seen.items() if times > 1]


def explorer_url(settings: Settings) -> str:
    """Return the address of the explorer's socket; empty if there is none."""
    if settings.record.explorer_url != "auto":
        return settings.record.explorer_url
    parts = urlsplit(settings.record.ws_url)
    host = _EXPLORERS.get(parts.hostname or "", "")
    return urlunsplit((parts.scheme, host, "/ws", "", "")) if host else ""


def _coin_channels(settings: Settings) -> list[str]:
    return [channel for channel in settings.record.channels if channel not in VENUE_WIDE]


def _all_on_one(wide: Sequence[str], coins: Sequence[str], channels: Sequence[str]) -> _Basket:
    basket = _Basket(_VENUE_SUBSCRIPTIONS)
    basket.put(Subscription(channel) for channel in wide)
    basket.put(Subscription(channel, coin) for coin in coins for channel in channels)
    return basket


def _spread(
    settings: Settings, wide: Sequence[str], coins: Sequence[str], before: Sequence[ConnectionPlan]
) -> list[_Basket]:
    record, channels = settings.record, _coin_channels(settings)
    total = len(wide) + len(coins) * len(channels)
    _check_fits(settings, total, f"{len(coins)} coins on {len(channels)} channels")
    if not total:
        return []
    spare = record.sockets_most * record.subscriptions_per_socket - total
    copies = min(record.twins, record.sockets_most) - 1 if TRADES in channels else 0
    extra = min(spare, copies * len(coins))
    count = max(
        1 + (copies if coins else 0), -(-(total + extra) // record.subscriptions_per_socket), len(before)
    )
    baskets = [_Basket(record.subscriptions_per_socket) for _ in range(min(count, record.sockets_most))]
    order = [Subscription(channel) for channel in wide] + [
        Subscription(channel, coin) for channel in channels for coin in coins
    ]
    placed = _keep_in_place(baskets, before, set(order))
    for want in (want for want in order[: len(wide)] if want not in placed):
        next(basket for basket in baskets if basket.room > 0).put([want])
    for coin in coins:
        _place(baskets, [want for want in (Subscription(c, coin) for c in channels) if want not in placed])
    if copies:
        _duplicate_trades(baskets, coins, 1 + copies, before)
    rank = {want: at for at, want in enumerate(order)}
    for basket in baskets:
        basket.subscriptions = dict.fromkeys(sorted(basket.subscriptions, key=rank.__getitem__))
    return baskets


def _check_fits(settings: Settings, total: int, what: str) -> None:
    record = settings.record
    _, parts = parse_shard(record.shard)
    if record.sockets_most > _VENUE_CONNECTIONS:
        raise SettingsError(
            f"record.sockets_most is {record.sockets_most}; the venue allows an address {_VENUE_CONNECTIONS}",
            hint=f"set it to {_VENUE_CONNECTIONS} or less",
        )
    most = min(record.sockets_most * record.subscriptions_per_socket, _VENUE_SUBSCRIPTIONS)
    if total > most:
        raise SettingsError(
            f"{what} are {total} subscriptions; {record.sockets_most} sockets of "
            f"{record.subscriptions_per_socket} carry {most} (the venue's most is {_VENUE_SUBSCRIPTIONS} an address)",
            hint="record fewer coins or channels, or split the coins over recorders on several addresses: "
            f"record.shard = 1/{-(-total * parts // most) + (parts > 1)} and so on",
        )


def _keep_in_place(
    baskets: list[_Basket], before: Sequence[ConnectionPlan], wanted: set[Subscription]
) -> set[Subscription]:
    """Keep wanted subscriptions on their socket, each once; return those that were placed."""
    placed: set[Subscription] = set()
    for item in before:
        at = int(item.name.rsplit("-", 1)[1]) - 1
        for want in item.wanted if at < len(baskets) else ():
            if want in wanted and want not in placed and baskets[at].room > 0:
                baskets[at].put([want])
                placed.add(want)
    return placed


def _place(baskets: list[_Basket], wants: Sequence[Subscription]) -> None:
    """Put a coin's subscriptions on the emptiest socket, together if they fit."""
    roomiest = max(baskets, key=lambda basket: basket.room)
    if roomiest.room >= len(wants):
        roomiest.put(wants)
        return
    for want in wants:
        max(baskets, key=lambda basket: basket.room).put([want])


def _duplicate_trades(
    baskets: list[_Basket], coins: Sequence[str], copies: int, before: Sequence[ConnectionPlan]
) -> None:
    """Put trades on further sockets while there is room: first where they were before, then in the order of coins."""
    for item in before:
        at = int(item.name.rsplit("-", 1)[1]) - 1
        for want in item.wanted if at < len(baskets) else ():
            if want.channel == TRADES and want.coin in coins and baskets[at].room > 0:
                baskets[at].put([want])
    for coin in coins:
        want = Subscription(TRADES, coin)
        while sum(want in basket.subscriptions for basket in baskets) < copies:
            free = [basket for basket in baskets if want not in basket.subscriptions and basket.room > 0]
            if not free:
                break
            max(free, key=lambda basket: basket.room).put([want])


def _gaia(settings: Settings, symbols: Sequence[str]) -> list[ConnectionPlan]:
    most = settings.gaiaex.max_sockets
    if len(symbols) > most:
        raise SettingsError(
            f"{len(symbols)} GaiaEx symbols need as many sockets; gaiaex.max_sockets is {most}",
            hint=f"name fewer in gaiaex.symbols, or split them: record.shard = 1/{-(-len(symbols) // most)} and so on",
        )
    return [
        ConnectionPlan(
            f"gaiaex-{symbol}", "gaiaex", socket_url(settings.gaiaex.ws_url, symbol), symbol=symbol
        )
        for symbol in symbols
    ]
