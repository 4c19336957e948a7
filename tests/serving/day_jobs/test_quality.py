"""`tickwalk quality`: its figures, and its output against the documented schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from serving import cli
from serving.day_jobs.quality import quality_schema, read_quality
from serving.day_jobs.seal import seal_day
from storage.clock import DAY_NS, HOUR_NS, NS, US_NS, ManualTime
from storage.contracts.tables import COVERAGE, LAGS
from storage.errors import RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.serving.day_jobs.conftest import DAY, DAY_START_NS, GAIA, NOW_NS, at, fill, gappy_day
from tests.storage.rows import BTC

CHECKER = jsonschema.Draft202012Validator(quality_schema(), format_checker=jsonschema.FormatChecker())


def gap(instrument: str, from_h: float, to_h: float, **changes: Any) -> dict[str, Any]:
    from_us, to_us = ((DAY_START_NS + int(hour * HOUR_NS)) // US_NS for hour in (from_h, to_h))
    row = {
        "journal": "r", "connection": 1, "channel": "trades", "instrument": instrument,
        "ts_from": from_us, "ts_to": to_us,
        "kind": "gap", "cause": "connection lost", "evidence": "socket", "bridged": False, "revision": 0,
        "ts_knowable_ns": NOW_NS,
    }  # fmt: skip
    return row | changes


def lag(minute: int, frames: int, p50_ms: float | None) -> dict[str, Any]:
    rest = {
        "p90_ms": p50_ms and p50_ms + 10,
        "p99_ms": p50_ms and p50_ms + 20,
        "max_ms": p50_ms and p50_ms + 30,
    }
    return {
        "journal": "r", "channel": "trades", "ts_from": (DAY_START_NS + minute * 60 * NS) // US_NS, "frames": frames,
        "p50_ms": p50_ms, "negative": 0 if p50_ms else frames, "ts_knowable_ns": NOW_NS, **rest,
    }  # fmt: skip


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, url: str) -> Settings:
    """A home with the gappy day sealed, its ledger and its latency; ten minutes of the next day are missing."""
    settings = at(tmp_path_factory.mktemp("quality"), url)
    fill(settings, gappy_day())
    with Lake.open(settings, clock=ManualTime(NOW_NS)) as lake:
        gaps = [gap(BTC, 10, 11), gap(GAIA, 10, 11), gap("hyperliquid|perp|BTC", 5, 5.01, bridged=True)]
        lags = [lag(0, 300, 100.0), lag(1, 100, 500.0), lag(2, 10, None)]
        tables = {"coverage": COVERAGE.rows(gaps), "lags": LAGS.rows(lags)}
        assert lake.commit(tables, batch_id="more").refused == 0
    seal_day(settings, DAY, clock=ManualTime(NOW_NS + HOUR_NS))
    return settings


def test_the_output_has_the_documented_form_and_the_figures_of_the_day(sealed: Settings) -> None:
    found = read_quality(sealed, clock=ManualTime(NOW_NS + HOUR_NS))
    CHECKER.validate(found)
    days = {day["instrument"]: day for day in found["days"]}
    assert (days[BTC]["state"], days[BTC]["bars"], days[BTC]["certified"]) == ("repaired", 1_440, 480)
    assert (days[GAIA]["state"], days[GAIA]["missing_h"], days[GAIA]["causes"]) == (
        "partial",
        1.5,
        {"connection_lost": 1.5},
    )
    assert [(item["seconds"], item["is_repaired"], item["instruments"]) for item in found["incidents"]] == [
        (36.0, True, [BTC]),
        (3_600.0, False, [GAIA, BTC]),
    ]
    assert found["latency"] == [
        {"day": DAY, "channel": "trades", "frames": 410, "p50_ms": 200.0, "worst_p90_ms": 510.0,
         "worst_p99_ms": 520.0, "max_ms": 530.0, "negative": 10},
    ]  # fmt: skip
    open_gaps = [
        (gap["instrument"], gap["day"], gap["hours"], gap["is_repairable"]) for gap in found["open_gaps"]
    ]
    assert open_gaps[0] == (GAIA, DAY, 1.5, False)
    assert {(name, day) for name, day, *_ in open_gaps[1:]} == {(BTC, "2025-05-20"), (GAIA, "2025-05-20")}


def test_a_range_limits_all_parts(sealed: Settings) -> None:
    clock = ManualTime(NOW_NS + HOUR_NS)
    found = read_quality(sealed, since_ns=DAY_START_NS + DAY_NS, clock=clock)
    CHECKER.validate(found)
    assert (found["days"], found["incidents"], found["latency"]) == ([], [], [])
    with pytest.raises(RangeError, match=r"nothing lies between 2025-05-21"):
        read_quality(sealed, since_ns=DAY_START_NS + 2 * DAY_NS, clock=clock)


@pytest.mark.parametrize(
    "broken",
    [{"version": 2}, {"days": [{"instrument": BTC}]}, {"latency": None}, {"more": 1}, {"since": "yesterday"}],
    ids=lambda broken: next(iter(broken)),
)
def test_the_schema_refuses_another_form(sealed: Settings, broken: dict[str, Any]) -> None:
    found = read_quality(sealed, clock=ManualTime(NOW_NS + HOUR_NS))
    assert not CHECKER.is_valid(found | broken)


def test_the_command_prints_the_days_the_json_and_the_schema(
    sealed: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--home", str(sealed.home), "quality", "--since", DAY, "--until", "2025-05-20"]
    cli.main(arguments)
    said = capsys.readouterr()
    assert "2025-05-19" in said.out
    assert "partial" in said.out
    assert "2 incidents; 1.50 instrument-hours are missing, of which 0.00 can still be filled" in " ".join(
        said.err.split()
    )
    cli.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    CHECKER.validate(found)
    assert len(found["days"]) == 2
    cli.main(["quality", "--schema"])
    assert json.loads(capsys.readouterr().out) == quality_schema()
