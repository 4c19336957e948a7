"""Checks of the scheduled nights and of the device that trains them."""

from __future__ import annotations

from serving.monitoring.checks import HealthIssue
from serving.schedule import last_night
from storage.clock import DAY_NS, NS, floor_ns, iso
from storage.errors import SettingsError
from storage.settings import Settings
from training.night.artifacts import NightArtifacts


def check_nights(settings: Settings, now_ns: int) -> list[HealthIssue]:
    """Return whether the last scheduled night is late, and whether the device is missing.

    Args:
        settings: `airflow.nightly`, `alert.night_h` and `training.device`.
        now_ns: the current time.
    """
    return [issue for issue in (_late(settings, now_ns), _device(settings)) if issue is not None]


def _late(settings: Settings, now_ns: int) -> HealthIssue | None:
    limit_h, schedule = settings.alert.night_h, settings.airflow.nightly
    if not limit_h:
        return None
    began_ns = last_night(schedule, now_ns)
    if now_ns - began_ns < limit_h * 3_600 * NS:
        return None
    end_ns = floor_ns(began_ns, DAY_NS)
    found = [NightArtifacts.find(settings, night) for night in NightArtifacts.ids(settings)]
    if any(night.has("verdict.json") and night.facts["until_ns"] >= end_ns for night in found):
        return None
    return HealthIssue(
        "night late",
        "",
        f"no night until {iso(end_ns)[:10]} has a verdict; it was to start at {iso(began_ns)}",
    )


def _device(settings: Settings) -> HealthIssue | None:
    # Only where a GPU is asked for: to look for one imports torch.
    if settings.training.device in ("cpu", "auto"):
        return None
    from training.models.device import available_device

    try:
        available_device(settings.training.device)
    except SettingsError as error:
        return HealthIssue("no GPU", "", error.message)
    return None
