"""HTTP endpoints `/metrics` (Prometheus) and `/health` of a running recorder.

Metrics are computed from the newest status on each request, in a separate registry. Labels are bounded: one recording,
the venue's channels, and at most `MOST_INSTRUMENTS` instruments, those with the lowest coverage first. Health answers
200, or 503 with the reasons, by the limits of `alert`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ingest.recorder.heartbeat import Heartbeat
from ingest.recorder.status import InstrumentStatus, RecorderStatus
from serving.monitoring.checks import check_recorder
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

PREFIX: Final = "tickwalk_recorder_"
MOST_INSTRUMENTS: Final = 300

Latest = Callable[[], RecorderStatus | None]

# Metric with its unit, help text, value.
_COUNTERS: Final[tuple[tuple[str, str, Callable[[RecorderStatus], float]], ...]] = (
    ("frames", "frames received", lambda v: v.frames),
    ("trades", "distinct prints", lambda v: v.trades),
    ("bars", "bars published, including revisions", lambda v: v.bars),
    ("quarantined", "frames and rows rejected", lambda v: v.quarantined),
    ("reconnects", "connections lost", lambda v: v.reconnects),
    ("lost_frames", "frames dropped because processing lagged", lambda v: v.lost_frames),
    ("clock_steps", "steps of the local wall clock", lambda v: v.clock_steps),
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[RecorderStatus], float | None]], ...]] = (
    ("recording", "1 while recording, else 0", lambda v: float(v.state == "recording")),
    ("start_time_seconds", "start of the recording, Unix time", lambda v: v.started_ns / 1e9),
    ("frame_age_seconds", "seconds since the last frame on any socket", lambda v: v.frame_age_s),
    ("commit_age_seconds", "seconds since the last commit to the lake", lambda v: v.commit_age_s),
    ("connections_open", "open sockets", lambda v: v.connections_open),
    ("connections_wanted", "sockets that should be open", lambda v: v.connections_wanted),
    ("subscriptions_acked", "subscriptions acknowledged by the venue", lambda v: v.subscriptions_acked),
    ("subscriptions_missing", "subscriptions not acknowledged yet", lambda v: v.subscriptions_missing),
    ("unsent_batches", "batches not yet committed to the lake", lambda v: v.unsent_batches),
    ("backlog_frames", "frames received but not processed yet", lambda v: v.backlog_frames),
    ("journal_bytes", "size of the recording's journal", lambda v: v.journal_bytes),
    ("disk_free_bytes", "free space on the home's disk", lambda v: v.disk_free_bytes),
    ("disk_left_days", "days until the disk is full at the current rate", lambda v: v.disk_days_left),
    ("resident_bytes", "resident memory of the process", lambda v: v.resident_bytes),
    (
        "clock_off",
        "1 while the local clock is off by more than the limit",
        lambda v: float(v.clock_verdict == "off"),
    ),
)
_PER_INSTRUMENT: Final[tuple[tuple[str, str, Callable[[InstrumentStatus], float | None]], ...]] = (
    ("instrument_age_seconds", "seconds since the instrument's last frame on any channel", lambda i: i.age_s),
    ("instrument_prints_per_minute", "prints in the last minute", lambda i: i.prints_per_min),
    (
        "instrument_observed_ratio",
        "share of the time of its recent bars that was watched",
        lambda i: i.observed_share,
    ),
    (
        "instrument_blind",
        "1 if its last bar is blind",
        lambda i: float(i.statuses[-1] == "blind") if i.statuses else None,
    ),
)


class StatusCollector(Collector):
    """Collects metrics from the newest status; unknown values are omitted."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family; none before the first status."""
        vitals = self._latest()
        if vitals is None:
            return
        info = GaugeMetricFamily(
            f"{PREFIX}info", "name of the recording and its shard; always 1", labels=["recording", "shard"]
        )
        info.add_metric([vitals.recording, vitals.shard], 1.0)
        yield info
        for name, doc, value in _COUNTERS:
            yield CounterMetricFamily(PREFIX + name, doc, value=value(vitals))
        for name, doc, reading in _GAUGES:
            family = GaugeMetricFamily(PREFIX + name, doc)
            if (known := reading(vitals)) is not None:
                family.add_metric([], known)
            yield family
        yield from _by_channel(vitals)
        yield from _by_instrument(vitals)
        offsets = GaugeMetricFamily(
            f"{PREFIX}clock_offset_seconds",
            "local clock minus the source; positive: the local clock is ahead",
            labels=["source"],
        )
        for source, offset_ms in vitals.clock_offset_ms.items():
            offsets.add_metric([source], offset_ms / 1000)
        yield offsets


def _by_channel(vitals: RecorderStatus) -> Iterator[Metric]:
    frames = CounterMetricFamily(f"{PREFIX}channel_frames", "frames received, by channel", labels=["channel"])
    lags = GaugeMetricFamily(
        f"{PREFIX}lag_seconds",
        "receive time minus venue time, over the last minute",
        labels=["channel", "quantile"],
    )
    for channel, item in sorted(vitals.channels.items()):
        frames.add_metric([channel], item.frames)
        for quantile, lag_ms in (("0.5", item.lag_p50_ms), ("0.99", item.lag_p99_ms)):
            if lag_ms is not None:
                lags.add_metric([channel, quantile], lag_ms / 1000)
    yield frames
    yield lags


def _by_instrument(vitals: RecorderStatus) -> Iterator[Metric]:
    def worst_first(name: str) -> tuple[float, str]:
        share = vitals.instruments[name].observed_share
        return (1.0 if share is None else share, name)

    shown = sorted(vitals.instruments, key=worst_first)[:MOST_INSTRUMENTS]
    for name, doc, value in _PER_INSTRUMENT:
        family = GaugeMetricFamily(PREFIX + name, doc, labels=["instrument"])
        for instrument in sorted(shown):
            if (known := value(vitals.instruments[instrument])) is not None:
                family.add_metric([instrument], known)
        yield family


class MetricsServer:
    """HTTP server for both endpoints inside the recorder's event loop; `async with` starts and stops it.

    If the port is taken it logs a warning, and recording continues without metrics.
    """

    def __init__(self, settings: Settings, latest: Latest) -> None:
        """Create the server; `latest` returns the newest status, or None before the first."""
        self._settings = settings
        self._latest = latest
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(StatusCollector(latest))
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Base address; empty while nothing is served."""
        return f"http://{self._settings.metrics.host}:{self.port}" if self.port else ""

    async def __aenter__(self) -> Self:
        address = self._settings.metrics
        if not address.port:
            return self
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port).start()
        except OSError as error:
            logger.warning(
                "metrics not served",
                host=address.host,
                port=address.port,
                reason=error.strerror or str(error),
                next="set metrics.port to another one, or to 0",
            )
            return self
        self.port = self._runner.addresses[0][1]
        logger.info("metrics served", url=self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _health(self, _request: web.Request) -> web.Response:
        vitals = self._latest()
        if vitals is None:
            return web.json_response({"ok": False, "reasons": ["the recorder is starting"]}, status=503)
        now_ns = time.time_ns()
        issues = check_recorder(Heartbeat(now_ns, vitals), now_ns, self._settings.alert)
        body = {
            "ok": not issues,
            "recording": vitals.recording,
            "state": vitals.state,
            "reasons": [f"{issue.kind}: {issue.detail}" for issue in issues],
        }
        return web.json_response(body, status=503 if issues else 200)
