"""What does a running recorder answer to `/metrics` and `/health`?

Prometheus metrics, made from the newest vital signs when they are asked for, in a registry of their own. Labels are
bounded: one recording, the venue's channels, and at most `MOST_INSTRUMENTS` instruments, the worst watched first.
Health answers 200, or 503 with the reasons, by the limits of `alert`.
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
from serving.monitoring.checks import judge_one
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

PREFIX: Final = "tickwalk_recorder_"
MOST_INSTRUMENTS: Final = 300

Latest = Callable[[], RecorderStatus | None]

# Metric, unit in its name; what it says; its value.
_COUNTERS: Final[tuple[tuple[str, str, Callable[[RecorderStatus], float]], ...]] = (
    ("frames", "frames received", lambda v: v.frames),
    ("trades", "distinct prints", lambda v: v.trades),
    ("bars", "bars published, revisions too", lambda v: v.bars),
    ("quarantined", "frames and rows that were refused", lambda v: v.quarantined),
    ("reconnects", "connections lost", lambda v: v.reconnects),
    ("lost_frames", "frames given up because processing lagged", lambda v: v.lost_frames),
    ("clock_steps", "times that our wall clock was set", lambda v: v.clock_steps),
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[RecorderStatus], float | None]], ...]] = (
    ("recording", "1 while it records", lambda v: float(v.state == "recording")),
    ("start_time_seconds", "when it began, since 1970", lambda v: v.started_ns / 1e9),
    ("frame_age_seconds", "since the last frame of any socket", lambda v: v.frame_age_s),
    ("commit_age_seconds", "since the lake took a batch", lambda v: v.commit_age_s),
    ("connections_open", "sockets that are open", lambda v: v.connections_open),
    ("connections_wanted", "sockets that should be", lambda v: v.connections_wanted),
    ("subscriptions_acked", "subscriptions that venues acknowledged", lambda v: v.subscriptions_acked),
    ("subscriptions_missing", "subscriptions that they did not yet", lambda v: v.subscriptions_missing),
    ("unsent_batches", "batches that the lake has not taken", lambda v: v.unsent_batches),
    ("backlog_frames", "frames received and not yet processed", lambda v: v.backlog_frames),
    ("journal_bytes", "size of this recording's journal", lambda v: v.journal_bytes),
    ("disk_free_bytes", "free on the home's disk", lambda v: v.disk_free_bytes),
    ("disk_left_days", "until that disk is full, at the present pace", lambda v: v.disk_days_left),
    ("resident_bytes", "memory of the process", lambda v: v.resident_bytes),
    ("clock_off", "1 while our clock is off beyond the limit", lambda v: float(v.clock_verdict == "off")),
)
_PER_INSTRUMENT: Final[tuple[tuple[str, str, Callable[[InstrumentStatus], float | None]], ...]] = (
    ("instrument_age_seconds", "since its last frame on any channel", lambda i: i.age_s),
    ("instrument_prints_per_minute", "prints of the last minute", lambda i: i.prints_per_min),
    ("instrument_observed_ratio", "share of its last bars that was watched", lambda i: i.observed_share),
    (
        "instrument_blind",
        "1 while its last bar is blind",
        lambda i: float(i.statuses[-1] == "blind") if i.statuses else None,
    ),
)


class StatusCollector(Collector):
    """Makes metrics from the newest vital signs; a value that is not known is left out."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family; none before the first vital signs."""
        vitals = self._latest()
        if vitals is None:
            return
        info = GaugeMetricFamily(
            f"{PREFIX}info", "which recording this is; always 1", labels=["recording", "shard"]
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
            "our clock less the other; above 0, ours is ahead",
            labels=["source"],
        )
        for source, offset_ms in vitals.clock_offset_ms.items():
            offsets.add_metric([source], offset_ms / 1000)
        yield offsets


def _by_channel(vitals: RecorderStatus) -> Iterator[Metric]:
    frames = CounterMetricFamily(f"{PREFIX}channel_frames", "frames received, by channel", labels=["channel"])
    lags = GaugeMetricFamily(
        f"{PREFIX}lag_seconds", "receipt less venue time, in the last minute", labels=["channel", "quantile"]
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
    """Serves both answers inside the recorder's loop; `async with` starts and ends it.

    A port that is taken is a warning: the recording goes on without metrics.
    """

    def __init__(self, settings: Settings, latest: Latest) -> None:
        """Prepare; `latest` returns the newest vital signs, or None before the first."""
        self._settings = settings
        self._latest = latest
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(StatusCollector(latest))
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Its address; empty while nothing is served."""
        return f"http://{self._settings.metrics.host}:{self.port}" if self.port else ""

    async def __aenter__(self) -> Self:
        wanted = self._settings.metrics
        if not wanted.port:
            return self
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, wanted.host, wanted.port).start()
        except OSError as error:
            logger.warning(
                "metrics not served",
                host=wanted.host,
                port=wanted.port,
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
        troubles = judge_one(Heartbeat(now_ns, vitals), now_ns, self._settings.alert)
        said = {
            "ok": not troubles,
            "recording": vitals.recording,
            "state": vitals.state,
            "reasons": [f"{trouble.kind}: {trouble.detail}" for trouble in troubles],
        }
        return web.json_response(said, status=503 if troubles else 200)
