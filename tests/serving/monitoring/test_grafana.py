"""Grafana dashboard, Prometheus configuration and systemd units of the recorder."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.monitoring.prometheus import StatusCollector
from storage.settings import Settings
from tests.paths import ROOT
from tests.serving.monitoring.recorder_statuses import poorly_watched, vitals
from tests.test_docs import commands_in, misuse

DOCKER: Final = ROOT / "docker"
DASHBOARD: Final[dict[str, Any]] = json.loads((DOCKER / "grafana/tickwalk-recorder.json").read_text())
UNITS: Final = sorted((DOCKER / "systemd").iterdir())
PROGRAM: Final = "/opt/tickwalk/.venv/bin/tickwalk"


def expressions(node: Any) -> list[str]:
    """Return every query of the dashboard, wherever it stands."""
    if isinstance(node, list):
        return [found for item in node for found in expressions(item)]
    if isinstance(node, dict):
        own = [node["expr"]] if "expr" in node else []
        return own + [found for item in node.values() for found in expressions(item)]
    return []


def exported() -> dict[str, set[str]]:
    """Return the labels of every sample that a recorder exports, by name."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: vitals(instruments=poorly_watched())))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_every_metric_in_the_dashboard_is_exported() -> None:
    used = {name for text in expressions(DASHBOARD) for name in re.findall(r"tickwalk_\w+", text)}
    assert len(used) > 20
    assert used - set(exported()) == set()


def test_every_exported_metric_is_in_the_dashboard() -> None:
    text = "\n".join(expressions(DASHBOARD))
    assert {name for name in exported() if name not in text} == set()


def test_labels_in_the_dashboard_are_those_of_the_metrics() -> None:
    labels = exported()
    for text in expressions(DASHBOARD):
        for name, picks in re.findall(r"(tickwalk_\w+)\{([^}]*)\}", text):
            assert {pick.split("=")[0].strip("~!") for pick in picks.split(",")} <= labels[name]
        for grouped in re.findall(r"by \((\w+)\)", text):
            assert any(grouped in labels[name] for name in re.findall(r"tickwalk_\w+", text))
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            assert all(named <= labels[name] for name in re.findall(r"tickwalk_\w+", target["expr"]))


def test_panels_do_not_overlap() -> None:
    """No two overlap, none leaves the 24 columns, and each has a number of its own."""
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_prometheus_scrapes_the_default_port(settings: Settings) -> None:
    text = (DOCKER / "prometheus.yml").read_text()
    assert f'"{settings.metrics.host}:{settings.metrics.port}"' in text


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DOCKER / "systemd" / name).read_text())
    return parser


def test_recorder_starts_at_boot_and_restarts_after_any_exit() -> None:
    said = unit("tickwalk-record.service")
    assert said["Install"]["WantedBy"] == "multi-user.target"
    assert said["Service"]["Restart"] == "always"
    assert said["Unit"]["StartLimitIntervalSec"] == "0", "or systemd gives up after five ends in ten seconds"
    assert said["Service"]["KillSignal"] == "SIGTERM"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_calls_commands_that_exist(path: Path) -> None:
    calls = [
        line.partition("=")[2] for line in path.read_text().splitlines() if line.startswith("ExecStart=")
    ]
    for call in calls:
        assert call.startswith(f"{PROGRAM} ")
        assert commands_in(f"`{call.replace(PROGRAM, 'tickwalk')}`")
        assert [misuse(words) for words in commands_in(f"`{call.replace(PROGRAM, 'tickwalk')}`")] == [""]
    assert calls or path.suffix == ".timer"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        text = path.read_text().replace(PROGRAM, sys.executable)
        (tmp_path / path.name).write_text(text.replace("User=tickwalk\nGroup=tickwalk\n", ""))
    files = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / UNITS[0].name).write_text("[Service]\nExecStart=/no/such/program\nRestrat=always\n")
    bad = subprocess.run(["systemd-analyze", "verify", "--man=no", files[0]], capture_output=True, text=True)
    assert "Restrat" in bad.stderr, "or this test would not see a misspelt key"
