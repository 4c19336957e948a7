"""Settings of the lake, training, the gate, Airflow, metrics, alerts, journal retention and archives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from storage.errors import SettingsError

WORKER_QUEUES: Final = ("gpu", "backfill")


@dataclass(frozen=True, slots=True)
class LakeSettings:
    """Settings of the lake."""

    catalog: str = ""
    """DuckLake catalog, such as `postgres:dbname=tickwalk host=127.0.0.1`; empty: SQLite inside the lake."""
    data: str = ""
    """Location of the Parquet files, a folder or `s3://...`; empty: inside the lake."""
    commit_tries: int = 8
    """Number of times that a commit is tried while the catalog is locked."""
    keep_snapshots_days: float = 7.0
    """Age after which snapshots may expire, unless a pin or a registered model names them."""
    grace_h: float = 24.0
    """Hours for which unused files and orphans are kept for running readers and writers."""
    s3_endpoint: str = ""
    """Address of an S3 server other than Amazon's, such as `http://127.0.0.1:9000`; keys come from `AWS_*`."""
    s3_region: str = "us-east-1"
    """Region of the bucket in `lake.data`."""

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
    """Settings of training that are not part of a recipe."""

    recipe: str = ""
    """Recipe of a night that names none: a name, or the path of a TOML file; empty: the only one that fits the lake."""
    device: str = "auto"
    """Device of torch: `auto` (a CUDA GPU, else the CPU), `cpu`, `cuda`, or `mps`, which is untested."""
    seed: int = 7
    """Random seed of a night."""
    threads: int = 1
    """CPU threads of torch; 0: all cores. On a busy machine two threads took 20 times as long as one."""
    stacking: str = "auto"
    """Several fits of a network as one program: `auto` where that was measured to be faster, `on` or `off`."""
    runner: str = "pool"
    """What trains the folds of `tickwalk nightly`: `pool` (processes on this machine), `sequential` or `ray`."""
    workers: int = 0
    """Processes of the runner; 0: one for each GPU, or as many as the cores divided by `threads`."""
    curves: str = ""
    """Where `tickwalk nightly` also writes training curves: `tensorboard`, to `curves/` in the home; empty: nowhere."""

    def __post_init__(self) -> None:
        if self.runner not in ("pool", "sequential", "ray"):
            raise SettingsError(
                f"training.runner is {self.runner!r}", hint="set it to pool, sequential or ray"
            )
        if self.workers < 0:
            raise SettingsError(
                f"training.workers is {self.workers}", hint="set it to 0, as many as fit, or more"
            )
        if self.stacking not in ("auto", "on", "off"):
            raise SettingsError(f"training.stacking is {self.stacking!r}", hint="set it to auto, on or off")
        if self.curves not in ("", "tensorboard"):
            raise SettingsError(
                f"training.curves is {self.curves!r}", hint="set it to tensorboard, or leave it empty"
            )
        if self.device not in ("auto", "cpu", "cuda", "mps"):
            raise SettingsError(
                f"training.device is {self.device!r}", hint="set it to auto, cpu, cuda or mps"
            )


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Settings of the promotion gate."""

    false_promotions: float = 0.05
    """Probability that any model without an edge is ever promoted in this home; half of it needs twice the evidence."""

    def __post_init__(self) -> None:
        if not 0 < self.false_promotions < 1:
            raise SettingsError(
                f"gate.false_promotions is {self.false_promotions}",
                hint="set it above 0 and below 1, such as 0.05",
            )


_POSTGRES_ADDRESS: Final = "postgresql+psycopg2://"


def without_password(address: str) -> str:
    """Return an address with its password hidden, for display."""
    in_query = re.sub(r"(password=)[^&]*", r"\1***", address)
    return re.sub(r"(//[^:@/]*:).*@", r"\1***@", in_query)


@dataclass(frozen=True, slots=True)
class AirflowSettings:
    """Settings of the local Airflow that `tickwalk airflow up` starts."""

    port: int = 8080
    """Port of the web pages and the API, on 127.0.0.1."""
    parallelism: int = 4
    """Maximum number of concurrent tasks; more than 4 lock Airflow's SQLite (measured)."""
    database: str = field(default="sqlite", repr=False, metadata={"secret": without_password})
    """Where Airflow keeps its records: `sqlite`, `postgres` (a server that `up` starts) or `postgresql+psycopg2://...`."""
    nightly: str = "20 0 * * *"
    """When nights start: five fields of cron, UTC. A night that would not end before the next is shrunk or refused."""
    ask_for_paper: bool = False
    """Ask a person, under "Required actions", whether a version that the gate keeps on paper shall serve."""
    keep_logs_days: float = 90.0
    """Days after which the DAG `keep_lake` removes task logs and the files of training attempts; 0: never."""
    worker_queues: tuple[str, ...] = ()
    """Queues whose tasks run on `tickwalk airflow worker`: `gpu` (folds), `backfill` (days); empty: all run here."""
    server: str = ""
    """Address of the Airflow for which a worker works, such as `http://10.0.0.5:8080`; empty: that of this home."""
    secret_file: str = ""
    """File with the JWT secret that a worker shares with that Airflow; empty: the secret of this home."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.worker_queues) - set(WORKER_QUEUES))
        if unknown:
            raise SettingsError(
                f"airflow.worker_queues names {', '.join(unknown)}",
                hint=f"name only {' and '.join(WORKER_QUEUES)}",
            )
        if self.server and not self.server.startswith(("http://", "https://")):
            raise SettingsError(
                f"airflow.server is {self.server!r}", hint="begin it with http:// or https://"
            )
        if self.database not in ("sqlite", "postgres") and not self.database.startswith(_POSTGRES_ADDRESS):
            raise SettingsError(
                f"airflow.database is {without_password(self.database)!r}",
                hint=f"set it to sqlite, postgres, or {_POSTGRES_ADDRESS}USER@HOST/NAME",
            )
        most = 4 if self.database == "sqlite" else 64
        if not 1 <= self.parallelism <= most:
            raise SettingsError(
                f"airflow.parallelism is {self.parallelism}",
                hint=f"set it to 1 to {most}"
                + ("; SQLite carries no more, so set airflow.database to postgres" if most == 4 else ""),
            )
        if len(self.nightly.split()) != 5:
            raise SettingsError(
                f"airflow.nightly is {self.nightly!r}",
                hint="write five fields of cron: minute, hour, day, month, weekday, such as 20 0 * * *",
            )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Settings of the recorder's HTTP server for `/metrics` and `/health`."""

    host: str = "127.0.0.1"
    """Address to listen on; there is no password, so use a local address or a proxy."""
    port: int = 9464
    """Port; 0: no metrics and no health."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536:
            raise SettingsError(
                f"metrics.port is {self.port}", hint="set it to a port from 1 to 65535, or to 0 for none"
            )


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Settings of `tickwalk alert`, which needs neither Airflow nor a running recorder."""

    command: str = ""
    """Command that receives each alert as JSON on standard input, such as `mail -s tickwalk me@example.org`."""
    webhook: str = field(default="", repr=False, metadata={"secret": True})
    """Address that receives each alert as a JSON POST; never shown, since it may contain a key."""
    silent_s: float = 60.0
    """Seconds without a heartbeat or a frame after which a recorder is silent."""
    disk_days: float = 7.0
    """Alert when the disk will be full in fewer days than this."""
    clock_ms: float = 1000.0
    """Alert when the local clock is off by more than this."""
    observed_share: float = 0.95
    """Alert when an instrument was watched for less than this share of the last minutes."""
    night_h: float = 6.0
    """Alert when a scheduled night has no verdict so many hours after its start; 0: never. Only Airflow checks it."""
    unsent_batches: int = 12
    """Alert when more batches than this wait for the lake; above 60 the recorder drops them until a later replay."""
    check_s: float = 15.0
    """Seconds between checks of `tickwalk alert watch`."""
    repeat_s: float = 3600.0
    """Seconds after which a continuing alert is sent again."""
    settle_s: float = 300.0
    """Seconds without an issue after which it is over; an issue that comes and goes is one alert."""
    timeout_s: float = 10.0
    """Timeout of the command and the webhook."""

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
    """Settings of journal retention and backup."""

    copy_to: str = ""
    """Folder (on another machine) or `s3://bucket/prefix` to which sealed segments are copied; empty: no copy."""
    journal_days: float = 0.0
    """Days after which sealed recordings are removed, once the lake and the copy have them; 0: never."""
    every_s: float = 300.0
    """Seconds between checks for segments to copy or remove."""

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
    """Settings of the archives for history that no API provides any more, and limits of their cost.

    Credentials are those of the AWS tools (`AWS_PROFILE`, an instance role, ...); there is no setting for them.
    """

    node_data: str = "s3://hl-mainnet-node-data"
    """Location of the trades and fills written by nodes: `s3://bucket/prefix`, or `https://...` of a copy."""
    market_data: str = "s3://hyperliquid-archive"
    """Location of books and contexts, likewise."""
    endpoint: str = ""
    """Address of the S3 server; empty: that of the AWS tools (`AWS_ENDPOINT_URL`), or Amazon's."""
    region: str = ""
    """Region of the buckets; empty: that of the AWS tools."""
    requester_pays: bool = True
    """Send the requester-pays header, as the reader pays for requests and traffic; false for your own copy."""
    usd_per_gb: float = 0.09
    """Price of a gigabyte transferred out of the region; 0 within it."""
    usd_per_1000: float = 0.0004
    """Price of 1,000 requests."""
    limit_usd: float = 10.0
    """Estimated cost above which a backfill requires `--yes`."""
    tries: int = 6
    """Number of tries per object when the archive is slow, busy or breaks off."""
    backoff_s: float = 1.0
    """Upper bound of the first retry delay; it doubles with each try, up to a minute."""
    timeout_s: float = 60.0
    """Seconds without data after which a request is retried."""
    retry_h: float = 6.0
    """Hours after which an absent object is requested again."""
    late_days: float = 40.0
    """Days after which an absent object counts as lost, and its neighbours are imported without it."""
    spill_s: float = 120.0
    """Tolerance for events outside an object's hour, and for events out of order."""
    silence_s: float = 60.0
    """A period without a fill of any coin longer than this is not covered: the writer may have stopped."""

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
