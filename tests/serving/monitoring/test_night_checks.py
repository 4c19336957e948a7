"""Late nights and missing devices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from serving.monitoring.alerting import check_once
from serving.monitoring.night_checks import check_nights
from storage.clock import parse_time_ns
from storage.settings import Settings

BEFORE, AFTER = parse_time_ns("2026-11-23T06:19"), parse_time_ns("2026-11-23T06:21")


def add_night(settings: Settings, until: str, *, is_judged: bool) -> None:
    folder = settings.models_dir / "nights" / f"demo-{until}"
    folder.mkdir(parents=True)
    (folder / "night.json").write_text(json.dumps({"until_ns": parse_time_ns(until)}), encoding="utf-8")
    if is_judged:
        (folder / "verdict.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("nights", "is_late"),
    [
        ([], True),
        ([("2026-11-22", True)], True),
        ([("2026-11-22", True), ("2026-11-23", False)], True),
        ([("2026-11-23", True)], False),
        ([("2026-11-24", True)], False),
    ],
)
def test_a_night_is_late_six_hours_after_its_start(
    settings: Settings, nights: list[tuple[str, bool]], is_late: bool
) -> None:
    for until, is_judged in nights:
        add_night(settings, until, is_judged=is_judged)
    assert check_nights(settings, BEFORE) == []
    found = check_nights(settings, AFTER)
    assert [issue.kind for issue in found] == (["night late"] if is_late else [])
    if is_late:
        assert found[0].detail == (
            "no night until 2026-11-23 has a verdict; it was to start at 2026-11-23T00:20:00.000Z"
        )


def test_without_a_schedule_or_a_limit_no_night_is_late(settings: Settings) -> None:
    for changed in (
        replace(settings, alert=replace(settings.alert, night_h=0.0)),
        replace(settings, airflow=replace(settings.airflow, nightly="20 0 * * 1")),
    ):
        add = parse_time_ns("2026-11-22T23:00")  # a Sunday; the last Monday's night would be late
        assert (check_nights(changed, add) == []) == (changed.alert.night_h == 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told_with_the_driver(settings: Settings) -> None:
    wanted = replace(
        settings,
        training=replace(settings.training, device="cuda"),
        alert=replace(settings.alert, night_h=0.0),
    )
    (issue,) = check_nights(wanted, AFTER)
    assert issue.kind == "no GPU"
    assert "driver" in issue.detail


def test_alerts_of_airflow_and_of_a_watcher_beside_it_do_not_end_each_other(settings: Settings) -> None:
    told: list[str] = []

    def hear(alert: object) -> bool:
        told.append(f"{alert.event} {alert.kind}")  # type: ignore[attr-defined]
        return True

    late = check_nights(settings, AFTER)
    assert {issue.kind for issue in late} == {"night late"}
    for now_ns in (AFTER, AFTER + 600_000_000_000, AFTER + 1_200_000_000_000):
        check_once(settings, now_ns=now_ns, send_alert=hear, further=late)
        check_once(settings, now_ns=now_ns, send_alert=hear)
    assert sorted(told) == ["alert night late", "alert not running", "alert not running"]
