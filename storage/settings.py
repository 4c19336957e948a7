"""Which settings are in force: `tickwalk.toml`, then `TICKWALK_*`, then flags; later ones win.

A key that does not exist is an error that names the nearest one that does, wherever it was written.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec

from storage.clock import width_ns
from storage.errors import SettingsError

CONFIG_NAME: Final = "tickwalk.toml"
# Read by the door itself, before any setting: where the file lies, and how log lines look.
_ENVIRONMENT_ONLY: Final = frozenset({"TICKWALK_CONFIG", "TICKWALK_LOG"})


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


@dataclass(frozen=True, slots=True)
class LakeSettings:
    """Where the versioned tables keep their catalog and data."""

    catalog: str = ""
    """A DuckLake catalog such as `postgres:dbname=tickwalk host=127.0.0.1`; empty: SQLite inside the lake."""
    data: str = ""
    """Where Parquet files go, a folder or `s3://...`; empty: inside the lake."""
    commit_tries: int = 8
    """How often a commit that met a locked catalog is tried before it fails."""
    keep_snapshots_days: float = 7.0
    """Snapshots older than this may expire; those that a pin or a registered model names never do."""
    grace_h: float = 24.0
    """Files that merging or expiry has freed, and orphans, stay this long for readers and writers at work."""
    s3_endpoint: str = ""
    """Address of an S3 server other than Amazon's, as in `http://127.0.0.1:9000`; keys come from `AWS_*`."""
    s3_region: str = "us-east-1"
    """The region of the bucket in `lake.data`."""

    def __post_init__(self) -> None:
        for name in ("keep_snapshots_days", "grace_h"):
            if getattr(self, name) < 0:
                raise SettingsError(f"lake.{name} is {getattr(self, name)}", hint="set it to 0 or more")
        if self.s3_endpoint and not self.s3_endpoint.startswith(("http://", "https://")):
            raise SettingsError(
                f"lake.s3_endpoint is {self.s3_endpoint!r}", hint="begin it with http:// or https://"
            )


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How models are trained, wherever that is not the recipe's own business."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    seed: int = 7
    """Every random draw of a night starts here."""
    threads: int = 1
    """Threads of torch on a CPU; 0 takes all cores. On a busy machine two took 20 times as long as one."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda", "mps"):
            raise SettingsError(
                f"training.device is {self.device!r}", hint="set it to auto, cpu, cuda or mps"
            )


@dataclass(frozen=True, slots=True)
class AirflowSettings:
    """The local Airflow that `tickwalk airflow up` starts."""

    port: int = 8080
    """The port of the web pages and the API, on 127.0.0.1."""
    parallelism: int = 4
    """Tasks at a time; more than 4 locks Airflow's SQLite (measured)."""

    def __post_init__(self) -> None:
        if not 1 <= self.parallelism <= 4:
            raise SettingsError(
                f"airflow.parallelism is {self.parallelism}",
                hint="SQLite carries 1 to 4; use Postgres for more",
            )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where a running recorder answers `/metrics` and `/health`."""

    host: str = "127.0.0.1"
    """The address to listen on; there is no password, so leave it on this machine or behind a proxy."""
    port: int = 9464
    """The port; 0: neither metrics nor health are served."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536:
            raise SettingsError(
                f"metrics.port is {self.port}", hint="set it to a port from 1 to 65535, or to 0 for none"
            )


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """When to call someone, and how. `tickwalk alert` reads these; it needs no Airflow and no running recorder."""

    command: str = ""
    """A command that gets each alert as JSON on its standard input, such as `mail -s tickwalk me@example.org`."""
    webhook: str = field(default="", repr=False, metadata={"secret": True})
    """An address that gets each alert as a JSON POST; it is never shown, since such addresses hold a key."""
    silent_s: float = 60.0
    """A recorder that wrote no heartbeat, or received no frame, for this long is silent."""
    disk_days: float = 7.0
    """Fewer days until the disk is full raise an alert."""
    clock_ms: float = 1000.0
    """Our clock may be off by this much."""
    observed_share: float = 0.95
    """An instrument watched for less than this share of the last minutes raises an alert."""
    unsent_batches: int = 12
    """More batches than this that the lake has not taken raise an alert; at 60 the recorder ends."""
    check_s: float = 15.0
    """Seconds between looks of `tickwalk alert watch`."""
    repeat_s: float = 3600.0
    """An alert that goes on is told again after this long, and not before."""
    settle_s: float = 300.0
    """A trouble is over when it has been gone for this long; one that comes and goes is one alert."""
    timeout_s: float = 10.0
    """The command and the webhook may take this long."""

    def __post_init__(self) -> None:
        for name in ("silent_s", "clock_ms", "check_s", "repeat_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"alert.{name} is {getattr(self, name)}", hint="set it above zero")
        if not 0 <= self.observed_share <= 1:
            raise SettingsError(f"alert.observed_share is {self.observed_share}", hint="set it from 0 to 1")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise SettingsError("alert.webhook is no http address", hint="begin it with https://")


@dataclass(frozen=True, slots=True)
class KeepSettings:
    """How long the journal stays on this disk, and where else it goes."""

    copy_to: str = ""
    """A folder (mounted from another machine) or `s3://bucket/prefix` that gets each sealed segment; empty: none."""
    journal_days: float = 0.0
    """Sealed recordings older than this leave the disk, once the lake and the copy have them; 0: they stay."""
    every_s: float = 300.0
    """Seconds between looks for segments to copy or remove."""

    def __post_init__(self) -> None:
        if self.journal_days < 0 or not self.every_s > 0:
            raise SettingsError(
                f"keep.journal_days is {self.journal_days} and keep.every_s is {self.every_s}",
                hint="set the days to 0 or more, and the seconds above zero",
            )
        if "://" in self.copy_to and not self.copy_to.startswith("s3://"):
            raise SettingsError(
                f"keep.copy_to is {self.copy_to!r}", hint="set it to a folder or to s3://bucket/prefix"
            )


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Where objects lie that tell of what no API gives any more, and what fetching them may cost.

    Credentials are those of the AWS tools (`AWS_PROFILE`, an instance role, ...); there is no setting for them.
    """

    node_data: str = "s3://hl-mainnet-node-data"
    """Where the trades and fills that nodes wrote lie: `s3://bucket/prefix`, or `https://...` of a copy."""
    market_data: str = "s3://hyperliquid-archive"
    """Where books and contexts lie, likewise."""
    endpoint: str = ""
    """The address that speaks S3; empty: that of the AWS tools (`AWS_ENDPOINT_URL`), else Amazon's."""
    region: str = ""
    """The region of the buckets; empty: that of the AWS tools."""
    requester_pays: bool = True
    """Whoever reads pays, and says so with each request; false for a copy of one's own."""
    usd_per_gb: float = 0.09
    """What a gigabyte costs that leaves the region; 0 within it."""
    usd_per_1000: float = 0.0004
    """What 1,000 requests cost."""
    limit_usd: float = 10.0
    """A backfill that costs more than this is refused without `--yes`."""
    tries: int = 6
    """How often an object is asked for when the archive is slow, busy or breaks off."""
    backoff_s: float = 1.0
    """Longest wait before the second try; it doubles with each further one, up to a minute."""
    timeout_s: float = 60.0
    """Silence of an answer after which it is asked for anew."""
    retry_h: float = 6.0
    """Hours after which an object that was absent is asked for again."""
    late_days: float = 40.0
    """An object that is absent so long after its time counts as lost: what its neighbours hold is taken without it."""
    spill_s: float = 120.0
    """How far the events in an object may lie out of its hour, and out of order."""
    silence_s: float = 60.0
    """A stretch without a fill of any coin for longer than this proves nothing: the writer may have stood still."""

    def __post_init__(self) -> None:
        for name in ("tries", "backoff_s", "timeout_s", "retry_h", "spill_s", "silence_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"archive.{name} is {getattr(self, name)}", hint="set it above zero")
        for name in ("usd_per_gb", "usd_per_1000", "limit_usd", "late_days"):
            if getattr(self, name) < 0:
                raise SettingsError(f"archive.{name} is {getattr(self, name)}", hint="set it to 0 or more")
        for name in ("node_data", "market_data"):
            if not getattr(self, name).startswith(("s3://", "http://", "https://")):
                raise SettingsError(
                    f"archive.{name} is {getattr(self, name)!r}",
                    hint="write s3://bucket/prefix or https://...",
                )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one tickwalk home."""

    home: Path = Path("var")
    """Everything that tickwalk writes lies below this folder."""
    record: RecordSettings = field(default_factory=RecordSettings)
    gaiaex: GaiaexSettings = field(default_factory=GaiaexSettings)
    bars: BarSettings = field(default_factory=BarSettings)
    lake: LakeSettings = field(default_factory=LakeSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    airflow: AirflowSettings = field(default_factory=AirflowSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    alert: AlertSettings = field(default_factory=AlertSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)

    @property
    def journal_dir(self) -> Path:
        """Sealed and open journal segments, one folder a recording."""
        return self.home / "journal"

    @property
    def recorder_dir(self) -> Path:
        """One small file a recording, written anew each second while it runs: its vital signs."""
        return self.home / "recorder"

    @property
    def lake_dir(self) -> Path:
        """The catalog and the Parquet files of the tables."""
        return self.home / "lake"

    @property
    def archive_dir(self) -> Path:
        """Objects of archives as they were fetched, with a manifest beside each day's."""
        return self.home / "archive"

    @property
    def models_dir(self) -> Path:
        """Nights, checkpoints and the versions that the ledger names."""
        return self.home / "models"

    @property
    def features_dir(self) -> Path:
        """Features by day, and panels that were read before; all of it can be made again."""
        return self.home / "features"

    @property
    def reports_dir(self) -> Path:
        """One page a night."""
        return self.home / "reports"

    def ensure_home(self) -> None:
        """Make the home's folders.

        Raises:
            SettingsError: the home cannot be written.
        """
        for folder in (self.journal_dir, self.lake_dir, self.models_dir, self.reports_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    f"the data folder {folder} cannot be made: {error.strerror}",
                    hint="set TICKWALK_HOME or --home to a folder that you may write",
                ) from error
            if not os.access(folder, os.W_OK):
                raise SettingsError(
                    f"the data folder {folder} cannot be written by this user",
                    hint="set TICKWALK_HOME or --home to a folder that you may write",
                )


REDACTED: Final = "(set, not shown)"


def shown(settings: Settings, key: str) -> object:
    """Return the value in force of a key as it may be printed: a secret only says whether it is set."""
    section, _, name = key.rpartition(".")
    holder = getattr(settings, section) if section else settings
    value = getattr(holder, name)
    is_secret = any(item.name == name and item.metadata.get("secret") for item in dataclasses.fields(holder))
    return REDACTED if is_secret and value else value


_SECTIONS: Final[dict[str, Any]] = {
    name: hint for name, hint in get_type_hints(Settings).items() if dataclasses.is_dataclass(hint)
}


def known_keys() -> dict[str, Any]:
    """Return every key as it is written in flags (`section.name`, or `home`) with its default."""
    keys: dict[str, Any] = {"home": Settings().home}
    for section, kind in _SECTIONS.items():
        for item in dataclasses.fields(kind):
            keys[f"{section}.{item.name}"] = getattr(kind(), item.name)
    return keys


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        path: the file to read; by default `TICKWALK_CONFIG`, or `tickwalk.toml` where it exists.
        overrides: flags, as `{"record.coins": ("BTC",)}`; a value of `None` is no override.
        environ: variables to read instead of the process's own.

    Raises:
        SettingsError: a key does not exist, or a value does not fit it.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    values |= _from_file(path, environ)
    values |= _from_environment(environ)
    values |= {key: value for key, value in (overrides or {}).items() if value is not None}
    return _build(values)


def _from_file(path: Path | None, environ: Mapping[str, str]) -> dict[str, object]:
    named = path or (Path(environ["TICKWALK_CONFIG"]) if "TICKWALK_CONFIG" in environ else None)
    path = named or Path(CONFIG_NAME)
    if named is None and not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from error
    flat: dict[str, object] = {}
    for key, value in document.items():
        if key in _SECTIONS and isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    return flat


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    by_variable = {"TICKWALK_" + key.upper().replace(".", "_"): key for key in known_keys()}
    flat: dict[str, object] = {}
    for variable, value in environ.items():
        if not variable.startswith("TICKWALK_") or variable in _ENVIRONMENT_ONLY:
            continue
        if variable not in by_variable:
            raise SettingsError(
                f"environment variable {variable} is not a setting",
                hint=_nearest(variable, list(by_variable)),
            )
        flat[by_variable[variable]] = value
    return flat


def _build(values: Mapping[str, object]) -> Settings:
    known = known_keys()
    sections: dict[str, dict[str, object]] = {name: {} for name in _SECTIONS}
    home = Settings().home
    for key, value in values.items():
        if key not in known:
            raise SettingsError(f"setting {key!r} does not exist", hint=_nearest(key, list(known)))
        if key == "home":
            home = Path(str(value)).expanduser()
            continue
        section, name = key.split(".")
        sections[section][name] = _convert(key, value, get_type_hints(_SECTIONS[section])[name])
    built = {name: _SECTIONS[name](**items) for name, items in sections.items()}
    return Settings(home=home, **built)


def _convert(key: str, value: object, kind: Any) -> object:
    if isinstance(value, str) and kind == tuple[str, ...]:
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"setting {key} is {value!r}: {error}") from error


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"the nearest setting is {close[0]}; `tickwalk settings` lists them all"
