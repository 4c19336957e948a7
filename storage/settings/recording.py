"""What can be set of recording: which coins and channels, how patiently, and which bars are made?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from storage.clock import width_ns
from storage.errors import SettingsError

RECORD_CHANNELS: Final = (
    "trades",
    "bbo",
    "l2Book",
    "l2BookFast",
    "activeAssetCtx",
    "candle",
    "allMids",
    "allDexsAssetCtxs",
    "fastAssetCtxs",
)

_ABOVE_ZERO: Final = (
    "ping_s",
    "pong_timeout_s",
    "connect_timeout_s",
    "ack_timeout_s",
    "backoff_first_s",
    "backoff_max_s",
    "coin_silence_s",
    "socket_silence_s",
    "commit_s",
    "clock_check_s",
    "refused_wait_s",
    "slow_book_s",
    "silence_factor",
    "silence_least_s",
    "silence_most_s",
    "rest_timeout_s",
    "twins",
    "sockets_most",
    "subscriptions_per_socket",
    "messages_per_s",
    "handshakes_per_minute",
    "rest_weight_per_minute",
    "block_ms",
    "chain_silence_s",
    "discover_s",
    "rotate_h",
    "segment_bytes",
)


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """What the recorder listens to, and how patient it is."""

    venue: str = "hyperliquid"
    """The venue's name, first part of every instrument id."""
    ws_url: str = "wss://api.hyperliquid.xyz/ws"
    """The WebSocket that carries the public feed."""
    info_url: str = "https://api.hyperliquid.xyz/info"
    """The address that answers `POST /info`."""
    coins: tuple[str, ...] = ("BTC", "ETH", "SOL")
    """The venue's names, byte-exact, and patterns: `*` (first dex), `xyz:*`, `@*`. Outcomes (`#`) only by name."""
    clock: str = "wall"
    """`wall`, or `venue` to take the time from a simulated venue's clock frames."""
    ping_s: float = 20.0
    """Seconds between pings; the venue closes a connection that it sent nothing for 60 s."""
    pong_timeout_s: float = 10.0
    """A pong missing for this long ends the connection."""
    connect_timeout_s: float = 10.0
    """Seconds allowed for a handshake."""
    ack_timeout_s: float = 10.0
    """Seconds after which a subscription without an answer is sent again."""
    backoff_first_s: float = 0.5
    """Longest first wait before a reconnect; the wait is drawn from zero up to it."""
    backoff_max_s: float = 30.0
    """Longest wait before a reconnect."""
    coin_silence_s: float = 30.0
    """An instrument silent on every channel for this long is not proven alive, so it cannot be quiet."""
    socket_silence_s: float = 30.0
    """A socket silent on every channel for this long is reconnected."""
    commit_s: float = 5.0
    """Seconds between commits to the lake; a closing bar commits at once."""
    block_ms: int = 40
    """A journal block is written and synced at least this often while frames arrive."""
    segment_bytes: int = 64 * 1024 * 1024
    """A journal segment is sealed at this size."""
    ntp_server: str = "pool.ntp.org"
    """The time server that our clock is compared with, `host` or `host:port`; empty: none."""
    clock_check_s: float = 60.0
    """Seconds between comparisons of our clock with the venue and the time server."""
    channels: tuple[str, ...] = ("trades", "bbo", "l2Book", "activeAssetCtx")
    """What to subscribe to: these, and `l2BookFast`, `candle` (1m), `allMids`, `allDexsAssetCtxs`, `fastAssetCtxs`."""
    shard: str = ""
    """Which part of the instruments this recorder takes, as in `1/3`; empty: all of them."""
    twins: int = 2
    """Trades are carried by this many sockets at once, so that one may die unnoticed; first coins first."""
    sockets_most: int = 4
    """Sockets to the venue; it allows an address 10, over all of its recorders."""
    subscriptions_per_socket: int = 200
    """Subscriptions on one socket; the venue allows an address 1000 in all."""
    explorer_url: str = "auto"
    """The socket that tells of the chain's blocks; `auto`: the one that belongs to `record.ws_url`; empty: none."""
    messages_per_s: int = 20
    """Messages sent to the venue a second, over all sockets; its limit is 2000 a minute. Shards share it."""
    handshakes_per_minute: int = 30
    """New connections a minute, over all sockets, which is the venue's limit. Shards share it."""
    refused_wait_s: float = 15.0
    """A handshake that the venue answered with 429 is tried again after this long at the earliest."""
    slow_book_s: float = 5.0
    """How often the venue sends the book of 20 levels; a watchdog reports when it no longer does."""
    chain_silence_s: float = 10.0
    """The chain has halted when its explorer tells of no block for so long."""
    discover_s: float = 3600.0
    """Seconds between questions for what is listed; new names that fit `record.coins` are taken up."""
    rotate_h: float = 24.0
    """Hours after which a recording is sealed and the next one goes on, without a gap; a crash replays one at most."""
    silence_factor: float = 3.0
    """A stream silent for this many times its longest silence of late is asked for again."""
    silence_least_s: float = 10.0
    """No stream is asked for again before it was silent this long."""
    silence_most_s: float = 300.0
    """A stream that comes at a steady pace is asked for again when it was silent this long, whatever it learnt."""
    rest_weight_per_minute: int = 600
    """Weight of questions to `record.info_url` a minute; the venue allows an address 1200. Shards share it."""
    rest_timeout_s: float = 60.0
    """Seconds for a question to be answered, with all its retries."""
    certify: bool = True
    """Ask for the venue's candles of all closed bars, an hour of a coin at a time, for half of the weight at most."""

    def __post_init__(self) -> None:
        if self.clock not in ("wall", "venue"):
            raise SettingsError(f"record.clock is {self.clock!r}", hint="set it to wall or venue")
        if not self.coins:
            raise SettingsError(
                "record.coins is empty", hint='set it to the coins to record, as in ["BTC", "ETH"]'
            )
        for channel in self.channels:
            if channel not in RECORD_CHANNELS:
                raise SettingsError(
                    f"record.channels names {channel!r}", hint=f"use some of: {', '.join(RECORD_CHANNELS)}"
                )
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise SettingsError(f"record.{name} is {getattr(self, name)}", hint="set it above zero")


@dataclass(frozen=True, slots=True)
class GaiaexSettings:
    """GaiaEx, whose books relay Hyperliquid's; its hosts and limits are partly unknown, see `tickwalk probe`."""

    symbols: tuple[str, ...] = ()
    """Its own names, byte-exact, as in `BTC` or `xyz:AAPL`; one socket each. Empty: it is not recorded."""
    ws_url: str = "wss://openapi.gaiaex.com/ws/market"
    """The address of a book's socket, without the symbol."""
    rest_url: str = "https://openapi.gaiaex.com/v1/trade"
    """The address below which symbols, time and health are asked for."""
    handshakes_per_s: float = 1.0
    """New connections a second; a refused one (429) waits 15 s."""
    max_sockets: int = 20
    """Sockets at a time, thus symbols of one recorder; the venue's own limit is not known."""
    heartbeat_silence_s: float = 15.0
    """A socket without a heartbeat for this long is reconnected."""
    relay_stale_s: float = 10.0
    """A book unchanged for this long while Hyperliquid's quote of the same coin moves is stale."""
    poll_s: float = 60.0
    """Seconds between questions for symbols, time and health."""

    def __post_init__(self) -> None:
        for name in ("handshakes_per_s", "max_sockets", "heartbeat_silence_s", "relay_stale_s", "poll_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"gaiaex.{name} is {getattr(self, name)}", hint="set it above zero")


@dataclass(frozen=True, slots=True)
class BarSettings:
    """The one clock of all bars."""

    widths: tuple[str, ...] = ("1m",)
    """Bar widths that the recorder and replay build; the first is the one that models train on."""
    grace_ms: int = 2000
    """A bar is published this long after its close, by the wall, whether or not anything printed."""
    lateness_s: float = 60.0
    """The watermark runs this far behind the receipt clock; a print older than it is late."""
    capture_silence_s: float = 5.0
    """In a capture without control frames, silence of every channel beyond this is a hole."""
    history_lag_ms: int = 1100
    """Imported history counts as knowable this long after its bar's close (measured feed lag 0.4-1.1 s)."""
    candle_trades: str = "exact"
    """Whether a bar must have as many trades as the venue's candle to be certified: `exact`, or `ignore`."""

    def __post_init__(self) -> None:
        if not self.widths:
            raise SettingsError("bars.widths is empty", hint='set it to ["1m"]')
        for width in self.widths:
            width_ns(width)
        if len(set(self.widths)) < len(self.widths):
            raise SettingsError(
                f"bars.widths names a width twice: {', '.join(self.widths)}", hint="name each once"
            )
        if self.candle_trades not in ("exact", "ignore"):
            raise SettingsError(
                f"bars.candle_trades is {self.candle_trades!r}", hint="set it to exact or ignore"
            )
        at_least = {"grace_ms": 0, "history_lag_ms": 0, "lateness_s": 0.001, "capture_silence_s": 0.001}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise SettingsError(
                    f"bars.{name} is {getattr(self, name)}", hint=f"set it to {least} or more"
                )

    @property
    def width(self) -> str:
        """The width that models train on."""
        return self.widths[0]

    @property
    def grace_ns(self) -> int:
        """`grace_ms` in nanoseconds."""
        return self.grace_ms * 1_000_000
