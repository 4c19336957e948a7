"""The page of the morning: how the night went, four figures, what waits, and the last nights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from ingest.recorder.heartbeat import read_heartbeats
from serving.promotions import decision_of
from serving.schedule import last_night
from storage.clock import DAY_NS, NS, floor_ns, iso
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.night_list import list_nights, read_night
from training.night.registry import champions_after, read_versions

_SHOWN_NIGHTS: Final = 14
_HOUR_NS: Final = 3_600 * NS

Tone = Literal["good", "bad", "plain"]

_YESTERDAY: Final = """
    SELECT sum(covered_h) AS covered_h, sum(covered_h + missing_h) AS listed_h, count(*) AS instruments
    FROM coverage_days_latest WHERE day = ?
"""


@dataclass(frozen=True, slots=True)
class MorningFigure:
    """A figure with its name, what it is, and whether it is good."""

    name: str
    value: str
    about: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class NightCell:
    """A night in the strip of the last ones."""

    night: str
    outcome: str
    about: str


@dataclass(frozen=True, slots=True)
class Morning:
    """Content of the page.

    Args:
        sentence: how the last night went, and what serves.
        tone: of the sentence.
        figures: coverage of yesterday, IC, lost frames, days until the disk is full.
        waiting: what a person has to do.
        nights: the last nights, newest last.
        changes: what changed in the registry since yesterday.
        now: when the page was made.
    """

    sentence: str
    tone: Tone
    figures: tuple[MorningFigure, ...]
    waiting: tuple[str, ...]
    nights: tuple[NightCell, ...]
    changes: tuple[str, ...]
    now: str


def read_morning(settings: Settings, lake: Lake, *, now_ns: int) -> Morning:
    """Return the content of the page."""
    nights = list_nights(settings, lake).to_pylist()
    events = read_versions(lake)
    serving = champions_after(events).values()
    sentence, tone = _sentence(settings, nights, now_ns)
    if serving:
        served = ", ".join(
            f"{item.version} serves {item.recipe} for {_age(now_ns - item.ts_knowable_ns)}"
            for item in serving
        )
        sentence += f" Champion: {served}."
    else:
        sentence += " No model serves."
    decision = decision_of(events)
    return Morning(
        sentence=sentence,
        tone=tone,
        figures=(
            _coverage(lake, now_ns),
            _last_ic(settings, nights),
            *_recorders(settings, now_ns),
        ),
        waiting=(f"{decision.version} is on paper: promote it, or leave it",) if decision else (),
        nights=tuple(_cell(row) for row in nights[-_SHOWN_NIGHTS:]),
        changes=tuple(
            f"{item.version}: {item.event} ({item.reason})"
            for item in events
            if now_ns - item.ts_knowable_ns < DAY_NS
        ),
        now=iso(now_ns),
    )


def _sentence(settings: Settings, nights: list[dict[str, Any]], now_ns: int) -> tuple[str, Tone]:
    """Return how the last scheduled night went."""
    schedule = settings.airflow.nightly
    began_ns = last_night(schedule, now_ns)
    until = datetime.fromtimestamp(floor_ns(began_ns, DAY_NS) // NS, UTC)
    day = (until - timedelta(days=1)).date()
    own = [row for row in nights if row["until"] >= until]
    done = [row for row in own if row["outcome"] != "unfinished"]
    if done:
        last = done[-1]
        return f"The night of {day} is done: {last['outcome']} ({last['reason']}).", "good"
    spent_h = (now_ns - began_ns) / _HOUR_NS
    if own:
        return f"The night of {day} is at work for {_age(now_ns - began_ns)}: {own[-1]['night']}.", "plain"
    limit_h = settings.alert.night_h or math.inf
    if spent_h > limit_h:
        return (
            f"The night of {day} is late: it was to start at {_minute(began_ns)}, and has no verdict.",
            "bad",
        )
    return f"The night of {day} has not begun; it was to start at {_minute(began_ns)}.", "plain"


def _coverage(lake: Lake, now_ns: int) -> MorningFigure:
    day = str(datetime.fromtimestamp(now_ns / NS, UTC).date() - timedelta(days=1))
    row = lake.query(_YESTERDAY, (day,)).to_pylist()[0]
    if not row["listed_h"]:
        return MorningFigure("coverage yesterday", "-", f"{day} is not sealed", "bad")
    share = row["covered_h"] / row["listed_h"]
    return MorningFigure(
        "coverage yesterday",
        f"{math.floor(share * 1_000) / 10:.1f} %",
        f"of {row['listed_h']:,.0f} hours of {row['instruments']} instruments",
        "good" if share >= 0.999 else "bad" if share < 0.95 else "plain",
    )


def _last_ic(settings: Settings, nights: list[dict[str, Any]]) -> MorningFigure:
    done = [row for row in nights if row["ic"] is not None]
    if not done:
        return MorningFigure("IC of the last night", "-", "no night has been judged")
    last = done[-1]
    interval = read_night(settings, last["night"]).figures.get("test", {}).get("ic", {})
    low, high = interval.get("low"), interval.get("high")
    about = f"{low:+.3f} to {high:+.3f}, " if low is not None and high is not None else ""
    return MorningFigure("IC of the last night", f"{last['ic']:+.4f}", f"{about}{last['model']}")


def _recorders(settings: Settings, now_ns: int) -> tuple[MorningFigure, MorningFigure]:
    beats = read_heartbeats(settings)
    if not beats:
        none = "no recorder has run in this home"
        return MorningFigure("frames lost", "-", none), MorningFigure("disk", "-", none)
    lost = sum(beat.vitals.lost_frames for beat in beats)
    age_s = min(now_ns - beat.beat_ns for beat in beats) / NS
    is_stale = age_s > settings.alert.silent_s
    left = [beat.vitals.disk_days_left for beat in beats if beat.vitals.disk_days_left is not None]
    free_gb = min(beat.vitals.disk_free_bytes for beat in beats) / 1e9
    state = f"last heartbeat {_age(round(age_s * NS))} ago" if is_stale else "by the recorders that run"
    return (
        MorningFigure("frames lost", f"{lost:,}", state, "bad" if lost or is_stale else "good"),
        MorningFigure(
            "disk",
            f"{min(left):,.0f} days" if left else "-",
            f"until it is full; {free_gb:,.0f} GB free",
            "bad" if left and min(left) < settings.alert.disk_days else "plain",
        ),
    )


def _cell(row: dict[str, Any]) -> NightCell:
    ic = "" if row["ic"] is None else f", IC {row['ic']:+.4f}"
    return NightCell(row["night"], row["outcome"], f"{row['night']}: {row['outcome']}{ic}")


def _minute(t_ns: int) -> str:
    return f"{iso(t_ns)[:16].replace('T', ' ')} UTC"


def _age(span_ns: int) -> str:
    hours = span_ns / _HOUR_NS
    if hours < 1:
        return f"{max(hours, 0.0) * 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
