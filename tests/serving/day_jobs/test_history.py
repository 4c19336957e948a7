"""Backfill of history in chunks: the form, the plan with its price, the chunks, and the days that changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ingest.backfill.archive.object_keys import context_key
from serving.day_jobs.history import (
    MOST_CHUNKS,
    HistoryRequest,
    cut,
    fetch_chunk,
    finish_history,
    plan_history,
    plan_run,
)
from storage.clock import DAY_NS, HOUR_NS, NS, ManualTime, parse_time_ns
from storage.errors import RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.ingest.backfill.archive.archives import packed
from tests.ingest.backfill.archive.test_books_and_contexts import HEADER
from tests.serving.day_jobs.conftest import DAY, NOW_NS, at
from tests.storage.rows import BTC
from tests.storage.servers import s3

FORM: dict[str, Any] = {"kinds": ["candles"], "since": "2025-05-18", "until": "2025-05-20", "coins": ["BTC"]}


def test_a_dry_run_has_a_plan_and_no_chunks(tmp_path: Path, url: str, clock: ManualTime) -> None:
    settings = at(tmp_path / "home", url)
    plan = plan_history(settings, HistoryRequest.of_run(FORM, None), clock=clock)
    (line,) = plan.lines
    assert line.startswith(
        "candles: 6 steps (0 more are in the lake), 130 of the rate limit's weight, about 0 minutes"
    )
    assert line.endswith(", 0.4 MB, free of charge")
    assert plan.chunks == ()
    assert not list(settings.journal_dir.glob("backfill-*"))


def test_chunks_bring_the_days_and_say_which_changed(tmp_path: Path, url: str, clock: ManualTime) -> None:
    settings = at(tmp_path / "home", url)
    chunks = plan_run(settings, FORM | {"dry_run": False}, None, clock=clock)
    assert [chunk["label"] for chunk in chunks] == ["candles 2025-05-18", "candles 2025-05-19"]
    done = [fetch_chunk(settings, chunk, clock=clock) for chunk in chunks]
    assert [item["rows"] for item in done] == [{"candles": 1_440, "bars": 1_440}] * 2
    assert finish_history(settings, chunks, clock=clock) == ["2025-05-18", "2025-05-19"]
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query(
            "SELECT instrument, day, state, covered_h FROM coverage_days ORDER BY day"
        ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (BTC, "2025-05-18", "repaired", 24.0),
        (BTC, "2025-05-19", "repaired", 24.0),
    ]
    later = ManualTime(NOW_NS + 60 * NS)
    again = plan_run(settings, FORM | {"dry_run": False}, None, clock=later)
    assert [fetch_chunk(settings, chunk, clock=later)["rows"] for chunk in again] == [{}, {}]
    assert finish_history(settings, again, clock=later) == [], "nothing new, so no features follow"


def test_a_partition_is_the_range(tmp_path: Path, url: str, clock: ManualTime) -> None:
    form = FORM | {"since": None, "until": None, "dry_run": False}
    (chunk,) = plan_run(at(tmp_path / "home", url), form, DAY, clock=clock)
    assert (chunk["from_ns"], chunk["to_ns"]) == (parse_time_ns(DAY), parse_time_ns(DAY) + DAY_NS)


def test_what_the_venue_forgot_is_a_line_of_the_plan(tmp_path: Path, url: str, clock: ManualTime) -> None:
    old = FORM | {"since": "2025-01-01", "until": "2025-01-02", "dry_run": False}
    plan = plan_history(at(tmp_path / "home", url), HistoryRequest.of_run(old, None), clock=clock)
    assert plan.chunks == ()
    assert plan.lines[0].startswith("candles: the venue has no 1m candle before 2025-05-16")


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        (
            {"since": None},
            None,
            r"the run has no range: since is None.*or use Backfill, whose days are the range",
        ),
        ({}, DAY, r"the run is of the day 2025-05-19, and its form names since or until too"),
        ({"kinds": []}, None, r"kinds is \[\].*candles, funding, trades, books, contexts"),
        ({"kinds": ["candles", "depth"]}, None, r"kinds is \['candles', 'depth'\]"),
    ],
)
def test_an_ambiguous_form_is_refused(changes: dict[str, Any], key: str | None, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        HistoryRequest.of_run(FORM | changes, key)


def test_an_empty_range_is_refused(settings: Settings, clock: ManualTime) -> None:
    later = HistoryRequest.of_run(FORM | {"since": "2025-06-01", "until": "2025-06-02"}, None)
    with pytest.raises(RangeError, match=r"nothing lies between 2025-06-01 and 2025-06-02; it is 2025-05-20"):
        plan_history(settings, later, clock=clock)


@pytest.mark.parametrize("kinds", [1, 2, 5])
@pytest.mark.parametrize("days", [1, 20, 33, 100, 101, 365, 1_300])
def test_a_run_has_at_most_a_hundred_chunks_that_cover_its_range_once(kinds: int, days: int) -> None:
    names = ["candles", "funding", "trades", "books", "contexts"][:kinds]
    from_ns, to_ns = 7 * HOUR_NS, days * DAY_NS - 3 * HOUR_NS
    chunks = cut(names, from_ns, to_ns)
    assert len(chunks) <= MOST_CHUNKS
    assert len({chunk["label"] for chunk in chunks}) == len(chunks)
    for name in names:
        parts = [(chunk["from_ns"], chunk["to_ns"]) for chunk in chunks if chunk["kind"] == name]
        assert (parts[0][0], parts[-1][1]) == (from_ns, to_ns)
        assert all(a[1] == b[0] and b[0] % DAY_NS == 0 for a, b in pairwise(parts))
    if kinds * days <= MOST_CHUNKS:
        assert len(chunks) == kinds * days, "a chunk a day while they fit"


@pytest.fixture
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3(patch, "history"):
        yield "history"


def test_an_archive_has_a_price_that_must_be_accepted(tmp_path: Path, bucket: str) -> None:
    """Contexts of a day in a real S3 server on this machine."""
    import boto3

    lines = [HEADER] + [
        f"2025-07-29T00:0{n}:00Z,BTC,0.0000125,100.5,1,2000.0,0.0003,118000.0,118010.5,118005.0,1,1"
        for n in range(7)
    ]
    body = packed([line.encode() for line in lines])
    boto3.client("s3").put_object(Bucket=bucket, Key=context_key(parse_time_ns("2025-07-29")), Body=body)
    settings = load_settings(overrides={"home": tmp_path / "home"}, environ={})
    dear = replace(settings.archive, market_data=f"s3://{bucket}", usd_per_gb=1e9, limit_usd=0.1)
    settings = replace(settings, archive=dear)
    clock = ManualTime(parse_time_ns("2025-12-01"))
    form = {"kinds": ["contexts"], "since": "2025-07-29", "until": "2025-07-30"}

    plan = plan_history(settings, HistoryRequest.of_run(form, None), clock=clock)
    assert plan.lines == (f"contexts: 1 steps (0 more are in the lake), 0.0 MB, {len(body):,.2f} USD",)
    with pytest.raises(RangeError, match=r"USD, more than archive.limit_usd = 0.10"):
        plan_run(settings, form | {"dry_run": False}, None, clock=clock)
    assert not list((tmp_path / "home/archive").rglob("*.lz4")), "nothing was fetched"
    (chunk,) = plan_run(settings, form | {"dry_run": False, "accept_price": True}, None, clock=clock)
    assert fetch_chunk(settings, chunk, clock=clock)["rows"] == {"contexts": 7}
    assert finish_history(settings, [chunk], clock=clock) == ["2025-07-29"]
