"""Holdouts as a list: their state, who sealed and opened them, and which runs have seen their days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.clock import iso
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.artifacts import NightArtifacts
from training.night.holdouts import HoldoutEvent, opened_before, read_holdouts
from training.night.trial_list import list_trials

COLUMNS: Final = ("since", "until", "state", "at", "who", "reason", "opened_before", "tested_by", "read_by")


@dataclass(frozen=True, slots=True)
class RangeUse:
    """What has seen the days of a range.

    Args:
        tested: ids of nights with a test in it, and of other runs (files, notebooks) with a trial on it.
        read: ids of nights that have read bars of it, and have no test in it.
    """

    tested: tuple[str, ...]
    read: tuple[str, ...]


def find_use(settings: Settings, lake: Lake, since_ns: int, until_ns: int) -> RangeUse:
    """Return the runs that have seen the days of a range, the nights before the others."""
    tested: list[str] = []
    read: list[str] = []
    for night in NightArtifacts.ids(settings):
        folder = NightArtifacts.find(settings, night)
        facts = folder.facts
        if facts["since_ns"] >= until_ns or facts["until_ns"] <= since_ns:
            continue
        tests = (
            [fold["test"] for fold in folder.read("folds.json")["folds"]] if folder.has("folds.json") else []
        )
        is_tested = any(start_ns < until_ns and stop_ns > since_ns for start_ns, stop_ns in tests)
        (tested if is_tested else read).append(night)
    others = [row["run"] for row in list_trials(lake, since_ns=since_ns, until_ns=until_ns)]
    return RangeUse(
        tuple(dict.fromkeys([*tested, *others])), tuple(night for night in read if night not in others)
    )


def list_holdouts(settings: Settings, lake: Lake) -> list[dict[str, Any]]:
    """Return one row of `COLUMNS` a range that was ever sealed, by its start: its last event, and what has seen it."""
    events = read_holdouts(lake)
    last = {(event.since_ns, event.until_ns): event for event in events}
    found = []
    for event in sorted(last.values(), key=lambda item: (item.since_ns, item.until_ns)):
        use = find_use(settings, lake, event.since_ns, event.until_ns)
        found.append(
            {
                "since": iso(event.since_ns),
                "until": iso(event.until_ns),
                "state": event.event,
                "at": iso(event.ts_knowable_ns),
                "who": event.who,
                "reason": event.reason,
                "opened_before": [iso(item.ts_knowable_ns) for item in opened_before(events, event)],
                "tested_by": list(use.tested),
                "read_by": list(use.read),
            }
        )
    return found


def describe_holdouts(events: Sequence[HoldoutEvent]) -> list[str]:
    """Return a sentence for each range that was ever sealed: its state, and when it had been opened before."""
    last = {(event.since_ns, event.until_ns): event for event in events}
    said = []
    for event in sorted(last.values(), key=lambda item: (item.since_ns, item.until_ns)):
        state = "is sealed: no recipe reads it" if event.event == "sealed" else "was opened: recipes read it"
        sentence = (
            f"The holdout {event.span} {state} ({iso(event.ts_knowable_ns)} by {event.who}: {event.reason})."
        )
        for item in opened_before(events, event) if event.event == "sealed" else ():
            sentence += (
                f" It had been open before, since {iso(item.ts_knowable_ns)} ({item.who}: {item.reason})."
            )
        said.append(sentence)
    return said
