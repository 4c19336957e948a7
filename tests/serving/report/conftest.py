"""Fixtures of the report: the judged night as it is read, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.report import write_report
from serving.report.night_data import NightReport, read_night
from storage.settings import Settings


@pytest.fixture(scope="module")
def facts(judged: tuple[Settings, str]) -> NightReport:
    return read_night(*judged)


@pytest.fixture(scope="module")
def written(judged: tuple[Settings, str]) -> str:
    return Path(write_report(*judged)).read_text(encoding="utf-8")
