"""Quality of the data by instrument and day: coverage, incidents, latency and open gaps, as plain values.

`tickwalk quality --json` prints what `read_quality` returns, and `serving/day_jobs/quality.schema.json` describes it.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

from ingest.coverage.day_coverage import day_name, parse_causes
from ingest.coverage.gap_queries import list_gaps
from serving.day_jobs.coverage_table import coverage_reader
from serving.day_jobs.days import clock_of
from storage.clock import DAY_NS, NS, US_NS, TimeSource, floor_ns, iso
from storage.errors import RangeError
from storage.lake.lake import Lake
from storage.settings import Settings

VERSION: Final = 1
"""Version of the schema: a field may be added without a new one, and none is removed or changed."""
DEFAULT_DAYS: Final = 7
_PUBLISHING_NS: Final = 120 * NS

_SEALED: Final = """
    SELECT instrument, day, revision, state, covered_h, missing_h, repairable_h, causes, ts_knowable_ns
    FROM coverage_days_latest WHERE day >= ? AND day < ? ORDER BY day, instrument
"""
_BARS: Final = """
    SELECT instrument, strftime(ts_open, '%Y-%m-%d') AS day, count(*) AS bars, count(*) FILTER (certified) AS certified,
           count(*) FILTER (repaired) AS repaired, CAST(sum(trades) AS BIGINT) AS trades
    FROM bars_latest WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
    GROUP BY ALL ORDER BY day, instrument
"""
# Each row of `lags` is a minute of a channel: the worst of them, and their mean by frames.
_LATENCY: Final = """
    SELECT strftime(ts_from, '%Y-%m-%d') AS day, channel, CAST(sum(frames) AS BIGINT) AS frames,
           sum(p50_ms * frames) / sum(frames) FILTER (p50_ms IS NOT NULL) AS p50_ms,
           max(p90_ms) AS worst_p90_ms, max(p99_ms) AS worst_p99_ms, max(max_ms) AS max_ms,
           CAST(sum(negative) AS BIGINT) AS negative
    FROM lags WHERE ts_from >= make_timestamptz(?) AND ts_from < make_timestamptz(?)
    GROUP BY ALL ORDER BY day, channel
"""


def quality_schema() -> dict[str, Any]:
    """Return the JSON Schema of what `read_quality` returns."""
    text = files("serving.day_jobs").joinpath("quality.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_quality(
    settings: Settings,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    clock: TimeSource | None = None,
) -> dict[str, Any]:
    """Return the quality of the data of some days.

    Args:
        settings: the home.
        since_ns: start; the day that contains it is included (default: seven days before the end).
        until_ns: end, exclusive (default: now).
        clock: the present (default: see `clock_of`).

    Raises:
        LakeError: there is no lake.
        RangeError: the range is empty.
    """
    now_ns = (clock or clock_of(settings)).now_ns()
    to_ns = min(until_ns if until_ns is not None else now_ns, now_ns)
    from_ns = floor_ns(since_ns if since_ns is not None else to_ns - DEFAULT_DAYS * DAY_NS, DAY_NS)
    if from_ns >= to_ns:
        raise RangeError(
            f"nothing lies between {iso(from_ns)} and {iso(to_ns)}", hint="give --since a time before --until"
        )
    with Lake.open(settings, read_only=True) as lake:
        return {
            "version": VERSION,
            "since": iso(from_ns),
            "until": iso(to_ns),
            "at": iso(now_ns),
            "width": settings.bars.width,
            "days": _days(lake, settings, from_ns, to_ns),
            "incidents": _incidents(lake, from_ns, to_ns),
            "latency": _latency(lake, from_ns, to_ns),
            "open_gaps": _open_gaps(lake, settings, from_ns, to_ns, now_ns),
        }


def _days(lake: Lake, settings: Settings, from_ns: int, to_ns: int) -> list[dict[str, Any]]:
    """Return the sealed days, with figures of their bars as they are now."""
    bounds = [day_name(from_ns), day_name(to_ns - 1 + DAY_NS)]
    bars = lake.query(_BARS, [settings.bars.width, from_ns // US_NS, to_ns // US_NS]).to_pylist()
    by_day = {(row["instrument"], row["day"]): row for row in bars}
    found = []
    for row in lake.query(_SEALED, bounds).to_pylist():
        counted = by_day.get((row["instrument"], row["day"]), {})
        found.append(
            row
            | {
                "causes": parse_causes(row["causes"]),
                **{name: counted.get(name, 0) for name in ("bars", "certified", "repaired")},
                "trades": counted.get("trades"),
            }
        )
    return found


def _incidents(lake: Lake, from_ns: int, to_ns: int) -> list[dict[str, Any]]:
    """Return the gaps of the coverage ledger that touch a range, those of one cause and time together."""
    found: dict[tuple[int, str, str], dict[str, Any]] = {}
    for row in list_gaps(lake, since_ns=from_ns, channel="*").to_pylist():
        start_ns, stop_ns = (int(row[name].timestamp() * 1_000_000) * US_NS for name in ("from", "to"))
        if start_ns >= to_ns:
            continue
        key = (start_ns // NS, row["cause"], row["recording"])
        item = found.setdefault(
            key,
            {
                "since_ns": start_ns,
                "until_ns": stop_ns,
                "cause": row["cause"],
                "recording": row["recording"],
                "instruments": [],
                "channels": [],
                "is_repaired": True,
            },
        )
        item["since_ns"], item["until_ns"] = min(item["since_ns"], start_ns), max(item["until_ns"], stop_ns)
        item["is_repaired"] &= str(row["repaired"]).startswith("yes")
        for name, value in (("instruments", row["instrument"]), ("channels", row["channel"])):
            if value not in item[name]:
                item[name].append(value)
    return [item | _span(item) for item in sorted(found.values(), key=lambda item: item["since_ns"])]


def _span(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "since": iso(item["since_ns"]),
        "until": iso(item["until_ns"]),
        "seconds": round((item["until_ns"] - item["since_ns"]) / NS, 3),
    }


def _latency(lake: Lake, from_ns: int, to_ns: int) -> list[dict[str, Any]]:
    rows = lake.query(_LATENCY, [from_ns // US_NS, to_ns // US_NS]).to_pylist()
    return [{name: _rounded(value) for name, value in row.items()} for row in rows]


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _open_gaps(lake: Lake, settings: Settings, from_ns: int, to_ns: int, now_ns: int) -> list[dict[str, Any]]:
    """Return the stretches of missing bars of a range; those at the end of a day continue on the next."""
    reader = coverage_reader(lake, settings, now_ns)
    found = []
    # A running recorder has not published the newest bars yet.
    until_ns = min(to_ns, now_ns - int(settings.bars.lateness_s * NS) - _PUBLISHING_NS)
    for day_ns in range(from_ns, until_ns, DAY_NS):
        for gap in reader.find_missing(day_ns, min(day_ns + DAY_NS, until_ns)):
            found.append(
                {
                    "instrument": gap.instrument,
                    "day": day_name(day_ns),
                    "since": iso(gap.from_ns),
                    "until": iso(gap.to_ns),
                    "hours": round((gap.to_ns - gap.from_ns) / (3_600 * NS), 6),
                    "cause": gap.cause,
                    "is_repairable": gap.is_repairable,
                }
            )
    return found
