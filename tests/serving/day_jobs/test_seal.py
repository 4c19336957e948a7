"""Sealing a day: what is repaired, what stays missing, and what stops it. Over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ingest.recorder.recorder import Recorder
from ingest.simulator.faults.faults import Disconnect
from ingest.simulator.venue import SimulatedVenue
from serving import cli
from serving.day_jobs.days import day_of_run
from serving.day_jobs.seal import seal_day
from storage.clock import DAY_NS, HOUR_NS, NS, ManualTime, parse_time_ns
from storage.errors import ContractError, NotReadyError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import configured
from tests.ingest.simulator.clients import BY_NAME, market
from tests.serving.day_jobs.conftest import (
    DAY,
    DAY_START_NS,
    GAIA,
    MINUTE,
    NOW_NS,
    at,
    fill,
    gappy_day,
    matching,
)
from tests.storage.rows import BTC, bar


def coverage(settings: Settings) -> dict[str, dict[str, Any]]:
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query("FROM coverage_days ORDER BY instrument, day, revision").to_pylist()
    return {f"{row['instrument']} {row['day']} {row['revision']}": row for row in rows}


def batches(settings: Settings) -> list[str]:
    with Lake.open(settings, read_only=True) as lake:
        found: list[str] = lake.query("SELECT batch_id FROM batches ORDER BY batch_id")[
            "batch_id"
        ].to_pylist()
    return found


def test_a_gap_is_filled_where_the_venue_has_candles_and_a_second_seal_adds_nothing(
    tmp_path: Path, url: str, clock: ManualTime
) -> None:
    settings = at(tmp_path / "home", url)
    fill(settings, gappy_day())
    first = seal_day(settings, DAY, clock=clock)
    rows = coverage(settings)
    assert {name: (row["state"], row["covered_h"], row["missing_h"]) for name, row in rows.items()} == {
        f"{BTC} {DAY} 0": ("repaired", 24.0, 0.0),
        f"{GAIA} {DAY} 0": ("partial", 22.5, 1.5),
    }
    relay = rows[f"{GAIA} {DAY} 0"]
    assert (relay["causes"], relay["repairable_h"]) == ("connection_lost=1.5", 0.0)
    assert first["repair"]["rows"] == {"candles": 540, "bars": 540}, "the gap, with 240 bars on either side"
    assert first["certified"] == 480, "watched bars that agree with the candles around the gap"
    assert (first["bars"], first["archive"]) == (2_880, "")
    assert first["lacking"] == ["gaiaex|perp|BTC: 1.50 h missing (connection_lost=1.5)"]
    before = batches(settings)
    second = seal_day(settings, DAY, clock=clock)
    assert batches(settings) == before
    assert coverage(settings) == rows
    assert second["coverage"] == first["coverage"]


def test_a_venue_that_does_not_answer_keeps_no_day_open_and_its_repair_is_the_next_revision(
    tmp_path: Path, url: str, clock: ManualTime
) -> None:
    away = at(tmp_path / "home", "http://127.0.0.1:1/info", rest_timeout_s=0.2)
    fill(away, gappy_day())
    assert "failed" in seal_day(away, DAY, clock=clock)["repair"]
    first = coverage(away)[f"{BTC} {DAY} 0"]
    assert (first["state"], first["missing_h"], first["repairable_h"]) == ("partial", 1.0, 1.0)
    seal_day(at(tmp_path / "home", url), DAY, clock=clock)
    rows = coverage(away)
    assert rows[f"{BTC} {DAY} 1"]["state"] == "repaired"
    assert f"{GAIA} {DAY} 1" not in rows, "nothing changed there"
    with Lake.open(away, read_only=True) as lake:
        newest = lake.query("SELECT instrument, revision FROM coverage_days_latest ORDER BY instrument")
    assert newest.to_pylist() == [{"instrument": GAIA, "revision": 0}, {"instrument": BTC, "revision": 1}]


def test_a_day_on_which_no_recorder_ran_is_filled_whole(tmp_path: Path, url: str) -> None:
    """Bars until noon of the 17th, and again from noon of the 19th: the 18th has no row at all."""
    settings = at(tmp_path / "home", url)
    before, after = (range(-2_160, -2_100), range(720, 1_440))
    fill(settings, [matching(minute) for minute in (*before, *after)])
    done = seal_day(settings, "2025-05-18", clock=ManualTime(NOW_NS))
    rows = coverage(settings)
    assert {name: (row["state"], row["covered_h"], row["missing_h"]) for name, row in rows.items()} == {
        f"{BTC} 2025-05-18 0": ("repaired", 24.0, 0.0),
        f"{GAIA} 2025-05-18 0": ("missing", 0.0, 1.0),
    }, "the first evidence of the relay's book is the recording that began at 23:00"
    assert done["repair"]["requests"] == [
        "1m candles of BTC, 2025-05-17T20:00:00.000Z to 2025-05-19T04:00:00.000Z: 24.00 h missing (not_recorded)"
    ]


def test_what_the_venue_forgot_stays_missing_and_names_the_archive(tmp_path: Path, url: str) -> None:
    settings = at(tmp_path / "home", url)
    fill(settings, gappy_day())
    late = seal_day(settings, DAY, clock=ManualTime(NOW_NS + 4 * DAY_NS))
    row = coverage(settings)[f"{BTC} {DAY} 0"]
    assert (row["state"], row["missing_h"], row["repairable_h"]) == ("partial", 1.0, 0.0)
    assert (
        late["archive"] == "tickwalk backfill trades --from 2025-05-19 --to 2025-05-20 --coin BTC --dry-run"
    )


# When a day is over.


def test_a_day_waits_until_the_recorder_has_passed_its_end(
    tmp_path: Path, url: str, clock: ManualTime
) -> None:
    settings = at(tmp_path / "home", url)
    fill(settings, [matching(minute) for minute in range(1_435)], is_running=True)
    with pytest.raises(NotReadyError, match=r"the recording r has not passed the end of 2025-05-19"):
        seal_day(settings, DAY, clock=clock)
    assert coverage(settings) == {}
    two_hours = ManualTime(DAY_START_NS + DAY_NS + 2 * HOUR_NS)
    done = seal_day(
        at(tmp_path / "home", "http://127.0.0.1:1/info", rest_timeout_s=0.2), DAY, clock=two_hours
    )
    assert done["coverage"]["partial"] == 1, "a recorder that hangs keeps no day open for ever"


def test_a_day_is_sealed_once_the_lake_has_bars_from_after_its_watermark(
    tmp_path: Path, url: str, clock: ManualTime
) -> None:
    settings = at(tmp_path / "home", url)
    fill(settings, [bar(MINUTE + minute) for minute in range(1_445)], is_running=True)
    assert seal_day(settings, DAY, clock=clock)["coverage"]["instruments"] == 2


@pytest.mark.parametrize(
    ("now_ns", "kind", "text"),
    [
        (
            DAY_START_NS + HOUR_NS,
            RangeError,
            r"2025-05-19 ends at 2025-05-20T00:00:00.000Z, and it is 2025-05-19T01",
        ),
        (
            DAY_START_NS + DAY_NS + NS,
            NotReadyError,
            r"late prints of 2025-05-19 count until 2025-05-20T00:01",
        ),
    ],
)
def test_a_day_that_is_not_over_is_refused(
    settings: Settings, now_ns: int, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        seal_day(settings, DAY, clock=ManualTime(now_ns))


# Validation.


def test_a_price_in_another_unit_stops_the_day_with_its_bar(
    tmp_path: Path, url: str, clock: ManualTime
) -> None:
    settings = at(tmp_path / "home", url)
    wrong = {"open": 5e4, "high": 5e4, "low": 5e4, "close": 5e4, "vwap": 5e4, "notional": 1e5}
    fill(settings, [bar(MINUTE + minute, **(wrong if minute == 700 else {})) for minute in range(1_440)])
    text = (
        r"2025-05-19 fails validation: 2 of 1,440 bars break a rule: hyperliquid\|perp\|BTC 1m 11:40:00 \(live\): "
        r"prices are within a factor of 10 of the last close, and this is 49\d.*"
        r"tickwalk explain 'hyperliquid\|perp\|BTC' 2025-05-19T11:40.*tickwalk seal 2025-05-19 --accept"
    )
    with pytest.raises(ContractError, match=text):
        seal_day(settings, DAY, clock=clock)
    assert coverage(settings)[f"{BTC} {DAY} 0"]["state"] == "complete", (
        "what was covered is known all the same"
    )
    accepted = seal_day(settings, DAY, accept=True, clock=clock)
    assert accepted["accepted"].startswith("2025-05-19 fails validation")


# The day of a run.


@pytest.mark.parametrize(
    ("key", "params", "day"),
    [
        ("2026-11-22", {}, "2026-11-22"),
        (None, {"day": "2026-11-22"}, "2026-11-22"),
        ("2026-11-22", {"day": None}, "2026-11-22"),
    ],
)
def test_a_run_has_the_day_of_its_key_or_of_its_form(
    key: str | None, params: dict[str, Any], day: str
) -> None:
    assert day_of_run(key, params) == day


@pytest.mark.parametrize(
    ("key", "params", "text"),
    [
        (None, {}, r"the run has no day.*trigger it again with the parameter `day`"),
        ("2026-11-22", {"day": "2026-11-23"}, r"key 2026-11-22 and the parameter day = 2026-11-23"),
        ("2026-11-22T00:00:00", {}, r"'2026-11-22T00:00:00' is not a day"),
        (None, {"day": "20261122"}, r"'20261122' is not a day"),
    ],
)
def test_a_run_without_a_day_is_refused(key: str | None, params: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        day_of_run(key, params)


# A recorded day.


@pytest.mark.parametrize(
    ("minutes", "outage_s"),
    [(20, 240.0), pytest.param(180, 3_600.0, marks=pytest.mark.drill)],
    ids=["short", "long"],
)
async def test_a_recorded_day_with_cut_connections_is_repaired(
    settings: Settings, minutes: int, outage_s: float
) -> None:
    """Both venues lose their sockets before midnight, for longer than the resent prints reach back."""
    midnight_ns = parse_time_ns("2026-03-02")
    span_s = 60.0 * minutes + 240.0
    source = market(
        start_ns=midnight_ns - 60 * minutes * NS,
        span_s=span_s,
        coins=(BY_NAME["BTC"], BY_NAME["SOL"]),
        activity=0.3,
        context_s=20,
        book_s=20,
    )
    faults = [Disconnect(at_s=60.0 * minutes / 3, outage_s=outage_s)]
    async with SimulatedVenue(source, wait_for_subscriptions=5, faults=faults) as venue:
        chosen = configured(
            settings,
            venue,
            record={"clock": "venue"},
            bars={"widths": ("1m",), "grace_ms": 2000},
            gaiaex={"symbols": ("BTC",)},
        )
        with Lake.open(chosen) as lake:
            await Recorder(chosen, lake, name="cut", ends_with_venue=True).run(asyncio.Event())
            blind = lake.query("SELECT count(*) AS n FROM bars_latest WHERE cause = 'connection lost'")
        assert blind["n"][0].as_py() >= 3 * (outage_s // 60 - 1)
        # By the venue's clock it is four minutes past midnight: too soon for candles of the last hour.
        early = await asyncio.to_thread(seal_day, chosen, "2026-03-01")
        first = coverage(chosen)
        later = ManualTime(midnight_ns + 2 * HOUR_NS)
        done = await asyncio.to_thread(seal_day, chosen, "2026-03-01", clock=later)
        rows = coverage(chosen)
        again = await asyncio.to_thread(seal_day, chosen, "2026-03-01", clock=later)
    assert coverage(chosen) == rows, "sealing twice changes nothing"
    assert again["coverage"] == done["coverage"]
    assert early["coverage"]["instruments"] == 3
    if minutes <= 60:
        assert {row["state"] for row in first.values()} == {"partial"}
        assert first["hyperliquid|perp|BTC 2026-03-01 0"]["repairable_h"] >= outage_s / 3600 - 1 / 60
    newest = {name.rpartition(" ")[0]: row for name, row in rows.items()}
    assert {name: row["state"] for name, row in newest.items()} == {
        "gaiaex|perp|BTC 2026-03-01": "partial",
        "hyperliquid|perp|BTC 2026-03-01": "repaired",
        "hyperliquid|perp|SOL 2026-03-01": "repaired",
    }
    for row in rows.values():
        assert row["covered_h"] + row["missing_h"] == pytest.approx(minutes / 60, abs=1e-9)
    relay = newest["gaiaex|perp|BTC 2026-03-01"]
    assert relay["missing_h"] >= outage_s / 3600 - 1 / 60
    assert relay["repairable_h"] == 0.0
    assert "connection_lost=" in relay["causes"]


def test_the_command_prints_states_hours_and_where_the_rest_may_be(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the machine's clock, which is long after the venue's day."""
    monkeypatch.chdir(tmp_path)
    settings = at(tmp_path / "home", url)
    fill(settings, gappy_day())
    cli.main(["--home", str(settings.home), "--set", f"record.info_url={url}", "seal", DAY])
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "2025-05-19: 2 instruments, 0 complete, 0 repaired, 2 partial, 0 missing",
        "hours     45.5 covered, 2.5 missing, of which the venue still serves 0",
        "certified 0 bars; 0 differ",
        "  gaiaex|perp|BTC: 1.50 h missing (connection_lost=1.5)",
        "  hyperliquid|perp|BTC: 1.00 h missing (connection_lost=1)",
    ]
    assert "tickwalk backfill trades --from 2025-05-19 --to 2025-05-20 --coin BTC --dry-run" in " ".join(
        said.err.split()
    )
