"""Settings of recording: instruments, channels, timeouts, limits and bars."""

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
    """Settings of the recorder."""

    venue: str = "hyperliquid"
    """Name of the venue, the first part of every instrument id."""
    ws_url: str = "wss://api.hyperliquid.xyz/ws"
    """Address of the WebSocket with the public feed."""
    info_url: str = "https://api.hyperliquid.xyz/info"
    """Address of the REST API (`POST /info`)."""
    coins: tuple[str, ...] = ("BTC", "ETH", "SOL")
    """Names as the venue writes them, and patterns: `*` (first dex), `xyz:*`, `@*`. Outcomes (`#`) only by name."""
    clock: str = "wall"
    """Source of time: `wall`, or `venue` for the clock frames of a simulated venue."""
    ping_s: float = 20.0
    """Seconds between pings; the venue closes a connection on which it has sent nothing for 60 s."""
    pong_timeout_s: float = 10.0
    """Seconds to wait for a pong before the connection is closed."""
    connect_timeout_s: float = 10.0
    """Timeout of a handshake."""
    ack_timeout_s: float = 10.0
    """Seconds after which an unanswered subscription is sent again."""
    backoff_first_s: float = 0.5
    """Upper bound of the first reconnect delay; delays are random from zero up to the bound."""
    backoff_max_s: float = 30.0
    """Upper bound of any reconnect delay."""
    coin_silence_s: float = 30.0
    """An instrument without messages on any channel for this long is not proven alive, so its bars cannot be quiet."""
    socket_silence_s: float = 30.0
    """A socket without messages on any channel for this long is reconnected."""
    commit_s: float = 5.0
    """Seconds between commits to the lake; a closing bar is committed at once."""
    block_ms: int = 40
    """Longest time between synced journal blocks while frames arrive."""
    segment_bytes: int = 64 * 1024 * 1024
    """Size at which a journal segment is sealed."""
    ntp_server: str = "pool.ntp.org"
    """NTP server for checking the local clock, `host` or `host:port`; empty: none."""
    clock_check_s: float = 60.0
    """Seconds between checks of the local clock against the venue and the NTP server."""
    channels: tuple[str, ...] = ("trades", "bbo", "l2Book", "activeAssetCtx")
    """Channels to subscribe to; others: `l2BookFast`, `candle` (1m), `allMids`, `allDexsAssetCtxs`, `fastAssetCtxs`."""
    shard: str = ""
    """Part of the instruments that this recorder records, such as `1/3`; empty: all."""
    twins: int = 2
    """Number of sockets that carry each trade stream, so that one may fail without a gap; first coins first."""
    sockets_most: int = 4
    """Maximum number of sockets; the venue allows 10 per IP address, shared by all recorders."""
    subscriptions_per_socket: int = 200
    """Maximum number of subscriptions per socket; the venue allows 1000 per IP address."""
    explorer_url: str = "auto"
    """WebSocket that reports the chain's blocks; `auto`: derived from `record.ws_url`; empty: none."""
    messages_per_s: int = 20
    """Maximum messages sent per second, over all sockets; the venue's limit of 2000 a minute is shared by shards."""
    handshakes_per_minute: int = 30
    """Maximum new connections per minute, over all sockets; this is the venue's limit, shared by shards."""
    refused_wait_s: float = 15.0
    """Minimum seconds before retrying a handshake that the venue rejected with 429."""
    slow_book_s: float = 5.0
    """Interval at which the venue sends the book of 20 levels; a longer one is reported."""
    chain_silence_s: float = 10.0
    """Seconds without a block from the explorer after which the chain counts as halted."""
    discover_s: float = 3600.0
    """Seconds between requests for listings; new names that match `record.coins` are recorded."""
    rotate_h: float = 24.0
    """Hours after which a recording is sealed and a new one continues without a gap; a crash replays at most one."""
    silence_factor: float = 3.0
    """A stream is resubscribed after a silence of this many times its longest recent silence."""
    silence_least_s: float = 10.0
    """Minimum silence before a stream is resubscribed."""
    silence_most_s: float = 300.0
    """Maximum silence before a stream with a steady pace is resubscribed."""
    rest_weight_per_minute: int = 600
    """Request weight per minute at `record.info_url`; the venue allows 1200 per IP address, shared by shards."""
    rest_timeout_s: float = 60.0
    """Timeout of a REST request, including its retries."""
    certify: bool = True
    """Certify closed bars by the venue's candles, an hour of a coin at a time, with at most half of the weight."""

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
    """Settings of GaiaEx, which relays Hyperliquid books; `tickwalk probe` measures hosts and limits."""

    symbols: tuple[str, ...] = ()
    """Names as the venue writes them, such as `BTC` or `xyz:AAPL`; one socket each. Empty: GaiaEx is not recorded."""
    ws_url: str = "wss://openapi.gaiaex.com/ws/market"
    """Address of a book's WebSocket, without the symbol."""
    rest_url: str = "https://openapi.gaiaex.com/v1/trade"
    """Base address of the REST API for symbols, time and health."""
    handshakes_per_s: float = 1.0
    """Maximum new connections per second; a rejected one (429) is retried after 15 s."""
    max_sockets: int = 20
    """Maximum number of sockets, and so of symbols per recorder; the venue's limit is unknown."""
    heartbeat_silence_s: float = 15.0
    """Seconds without a heartbeat after which a socket is reconnected."""
    relay_stale_s: float = 10.0
    """A book is stale if it does not change for this long while Hyperliquid's quote of the same coin moves."""
    poll_s: float = 60.0
    """Seconds between requests for symbols, time and health."""

    def __post_init__(self) -> None:
        for name in ("handshakes_per_s", "max_sockets", "heartbeat_silence_s", "relay_stale_s", "poll_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"gaiaex.{name} is {getattr(self, name)}", hint="set it above zero")


@dataclass(frozen=True, slots=True)
class BarSettings:
    """Settings of bars."""

    widths: tuple[str, ...] = ("1m",)
    """Bar widths that the recorder and replay build; models train on the first."""
    grace_ms: int = 2000
    """A bar is published this long after its close by the wall clock, with or without prints."""
    lateness_s: float = 60.0
    """Lag of the watermark behind the receipt clock; a print older than the watermark is late."""
    capture_silence_s: float = 5.0
    """In a capture without control frames, a silence of all channels longer than this is a gap."""
    history_lag_ms: int = 1100
    """Imported history is knowable this long after its bar's close (measured feed latency 0.4-1.1 s)."""
    candle_trades: str = "exact"
    """Whether certification needs the same number of trades as the venue's candle: `exact`, or `ignore`."""

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
        """The bar width on which models train."""
        return self.widths[0]

    @property
    def grace_ns(self) -> int:
        """`grace_ms` in nanoseconds."""
        return self.grace_ms * 1_000_000
