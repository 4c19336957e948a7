"""Metrics and health endpoints over a real port."""

from __future__ import annotations

import dataclasses
import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ingest.recorder.status import InstrumentStatus, RecorderStatus
from serving.monitoring.prometheus import MOST_INSTRUMENTS, PREFIX, MetricsServer, StatusCollector
from storage.errors import SettingsError
from storage.settings import Settings, load_settings
from tests.serving.monitoring.recorder_statuses import BTC, poorly_watched, vitals

UNITS = ("_bytes", "_seconds", "_days", "_ratio", "_per_minute", "_frames")
COUNTS = ("info", "recording", "_open", "_wanted", "_acked", "_missing", "_batches", "_off", "_blind")


def exported(said: RecorderStatus | None) -> dict[str, Metric]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: said))
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    family = families[PREFIX + name.removesuffix("_total")]
    (found,) = [item.value for item in family.samples if item.labels == labels and item.name == PREFIX + name]
    return float(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_port(settings: Settings, port: int) -> Settings:
    return dataclasses.replace(settings, metrics=dataclasses.replace(settings.metrics, port=port))


def test_names_carry_their_units_and_counters_end_in_total() -> None:
    families = exported(vitals(instruments=poorly_watched()))
    assert len(families) > 25
    for name, family in families.items():
        assert name.startswith(PREFIX)
        assert family.documentation
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        else:
            assert name.endswith((*UNITS, *COUNTS)), name


def test_values_are_those_of_the_status_in_base_units() -> None:
    families = exported(vitals(reconnects=4))
    assert value(families, "frames_total") == 8_123_456
    assert value(families, "reconnects_total") == 4
    assert value(families, "lag_seconds", channel="bbo", quantile="0.99") == pytest.approx(0.655)
    assert value(families, "clock_offset_seconds", source="venue") == pytest.approx(0.0124)
    assert value(families, "instrument_prints_per_minute", instrument=BTC) == 812
    assert value(families, "disk_left_days") == 41
    assert value(families, "recording") == 1


def test_unknown_values_are_omitted_and_not_zero() -> None:
    families = exported(vitals(disk_days_left=None, frame_age_s=None, instruments=poorly_watched()))
    assert families[f"{PREFIX}disk_left_days"].samples == []
    assert families[f"{PREFIX}frame_age_seconds"].samples == []
    ages = {item.labels["instrument"] for item in families[f"{PREFIX}instrument_age_seconds"].samples}
    assert len(ages) == 2
    assert exported(None) == {}


def test_labels_are_bounded_to_the_lowest_coverage() -> None:
    many = {f"hyperliquid|perp|C{n}": InstrumentStatus(observed_share=1.0) for n in range(1_000)}
    families = exported(
        vitals(instruments=many | {"hyperliquid|perp|poor": InstrumentStatus(observed_share=0.5)})
    )
    shown = {item.labels["instrument"] for item in families[f"{PREFIX}instrument_observed_ratio"].samples}
    assert len(shown) == MOST_INSTRUMENTS
    assert "hyperliquid|perp|poor" in shown


def test_instrument_name_may_contain_any_character() -> None:
    odd = 'hyperliquid|perp|a"b\\c\nd'
    families = exported(vitals(instruments={odd: InstrumentStatus(age_s=1.0)}))
    assert value(families, "instrument_age_seconds", instrument=odd) == 1.0


async def test_metrics_and_health_are_served_while_the_loop_runs(settings: Settings) -> None:
    signs = [vitals()]
    async with (
        MetricsServer(on_port(settings, free_port()), lambda: signs[-1]) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert f"{PREFIX}frames_total 8.123456e+06" in answer.text
        well = await client.get("/health")
        assert (well.status_code, well.json()["ok"], well.json()["reasons"]) == (200, True, [])
        signs.append(vitals(clock_verdict="off", unsent_batches=30))
        ill = await client.get("/health")
        assert ill.status_code == 503
        assert [reason.split(":")[0] for reason in ill.json()["reasons"]] == ["clock", "lake"]
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405


async def test_health_before_the_first_status_is_503(settings: Settings) -> None:
    async with (
        MetricsServer(on_port(settings, free_port()), lambda: None) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the recorder is starting"])


async def test_taken_port_logs_a_warning_and_recording_continues(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        async with MetricsServer(on_port(settings, port), vitals) as server:
            assert server.url == ""
    said = capsys.readouterr().err
    assert "metrics not served" in said
    assert f"port={port}" in said


async def test_port_zero_serves_nothing(settings: Settings) -> None:
    async with MetricsServer(on_port(settings, 0), vitals) as server:
        assert server.url == ""


@pytest.mark.parametrize("port", [-1, 65_536])
def test_invalid_port_is_refused(port: int) -> None:
    with pytest.raises(SettingsError, match=r"metrics\.port"):
        load_settings(overrides={"metrics.port": port}, environ={})


def test_the_default_listens_on_this_machine_only(settings: Settings) -> None:
    assert settings.metrics.host == "127.0.0.1"
