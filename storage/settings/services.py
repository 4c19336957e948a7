"""What can be set beside recording: the lake, training, Airflow, alerts, and where things are kept and fetched?"""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.errors import SettingsError


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
