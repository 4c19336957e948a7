"""Registry of model versions: registration, promotion, rejection, rollback and retirement.

The table `versions` is append-only, one row an event. The last `champion`, `paper` or `retired` event of a version
determines whether it serves: a demoted champion becomes `paper`. A rollback is one more `champion` event of the version
that served before.

A change of the champion is a compare-and-set: it names the champion that its author saw, and is refused in the
transaction that would write it if another one serves by then.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from itertools import takewhile
from typing import Any, Final, Literal

import duckdb
import pyarrow as pa

from storage.contracts.lake_records import VERSIONS
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.logs import get_logger

logger = get_logger(__name__)
EventKind = Literal["registered", "champion", "paper", "rejected", "retired"]

_EVENTS: Final = """
    SELECT * FROM versions WHERE coalesce(recipe = ?, true)
    ORDER BY ts_knowable_ns, event = 'registered' DESC, version, event
"""


class _AsSeen(Enum):
    """Default of `expected`."""

    CHAMPION = "the champion that serves when the function is called"


Expected = str | None | _AsSeen
"""Version that must serve for a change to apply; `None`: no version may serve."""


@dataclass(frozen=True, slots=True)
class VersionEvent:
    """One event of a version.

    Args:
        version: the version's id.
        event: kind of event.
        recipe, model, night: origin of the version.
        reason: of the event, for people.
        metrics: figures that the gate read.
        inputs: snapshot, hashes of the rows, feature fingerprint, code, and the bars it was trained on.
        artefact: folder of its checkpoint, below the models folder.
        ts_knowable_ns: time of the event.
        who: caused it, as `user@host`; empty for the gate of a night.
    """

    version: str
    event: EventKind
    recipe: str
    model: str
    night: str
    reason: str
    metrics: Mapping[str, Any]
    inputs: Mapping[str, Any]
    artefact: str
    ts_knowable_ns: int
    who: str = ""


def read_versions(lake: Lake, *, recipe: str | None = None) -> list[VersionEvent]:
    """Return the events of all versions, or of one recipe's, oldest first."""
    return _parsed(lake.query(_EVENTS, (recipe,)).to_pylist())


def _parsed(rows: Iterable[Mapping[str, Any]]) -> list[VersionEvent]:
    """Return the events of rows; a lake that an older release wrote lacks `who`."""
    found = []
    for row in rows:
        values = {field.name: row[field.name] for field in fields(VersionEvent) if field.name in row}
        values |= {name: json.loads(row[name]) for name in ("metrics", "inputs")}
        found.append(VersionEvent(**values | {"who": row.get("who") or ""}))
    return found


def current_champion(lake: Lake, recipe: str) -> VersionEvent | None:
    """Return the promotion of the version that serves a recipe, or `None`."""
    return champion_after(read_versions(lake, recipe=recipe))


def champion_after(events: Iterable[VersionEvent]) -> VersionEvent | None:
    """Return the promotion of the version that serves one recipe after these events, oldest first, or `None`."""
    return serving_history(events)[1]


def champions_after(events: Iterable[VersionEvent]) -> dict[str, VersionEvent]:
    """Return what serves each recipe that has a champion, by recipe, in order of their names."""
    by_recipe: dict[str, list[VersionEvent]] = {}
    for event in events:
        by_recipe.setdefault(event.recipe, []).append(event)
    found = {recipe: champion_after(by_recipe[recipe]) for recipe in sorted(by_recipe)}
    return {recipe: champion for recipe, champion in found.items() if champion is not None}


def serving_history(events: Iterable[VersionEvent]) -> tuple[list[VersionEvent], VersionEvent | None]:
    """Return the promotions to which a recipe can roll back, newest last, and the one that serves, or `None`.

    A promotion of the version that served just before undoes the promotion between. A version that was retired or
    demoted is left out.
    """
    stack: list[VersionEvent] = []
    serving: VersionEvent | None = None
    for event in events:
        if event.event == "champion":
            if serving is not None and len(stack) > 1 and stack[-2].version == event.version:
                stack.pop()
            stack = [*(item for item in stack if item.version != event.version), event]
            serving = event
        elif event.event in ("retired", "paper"):
            stack = [item for item in stack if item.version != event.version]
            if serving is not None and serving.version == event.version:
                serving = None
    return [item for item in stack if item is not serving], serving


def states_of(events: Sequence[VersionEvent]) -> dict[str, VersionEvent]:
    """Return each version's last event with its state in place of the kind, in order of registration.

    States: `registered` (not judged), `paper` (sound, not serving), `champion` (serves), `rejected` (the gate refused
    it) and `retired` (served, and was replaced or taken out of service).
    """
    last: dict[str, VersionEvent] = {}
    for event in events:
        last[event.version] = event
    serving = {champion.version for champion in champions_after(events).values()}
    return {
        version: replace(event, event="retired")
        if event.event == "champion" and version not in serving
        else event
        for version, event in last.items()
    }


def events_before(events: Iterable[VersionEvent], night: str) -> list[VersionEvent]:
    """Return the events before a night's first one, so that a night judged again meets the same champion."""
    return list(takewhile(lambda event: event.night != night, events))


def append_events(
    lake: Lake,
    events: list[VersionEvent],
    *,
    batch_id: str,
    expected: Expected = _AsSeen.CHAMPION,
    further: Mapping[str, pa.Table] | None = None,
) -> None:
    """Append events of one recipe in one commit; a repeated batch id adds nothing.

    Args:
        lake: the lake.
        events: of one recipe.
        batch_id: of the commit.
        further: rows of other tables for the same commit, by table.
        expected: version that must serve the recipe when the events are written, `None`: none may (default: any).

    Raises:
        GateError: another version serves by then; nothing is written.
    """
    rows = [
        asdict(event)
        | {
            "metrics": json.dumps(event.metrics, sort_keys=True),
            "inputs": json.dumps(event.inputs, sort_keys=True),
        }
        for event in events
    ]
    recipe = events[0].recipe

    def check(run: duckdb.DuckDBPyConnection) -> None:
        if isinstance(expected, _AsSeen):
            return
        found = run.execute(_EVENTS, [recipe])
        names = [column[0] for column in found.description]
        serving = champion_after(_parsed(dict(zip(names, row, strict=True)) for row in found.fetchall()))
        if (serving.version if serving else None) != expected:
            raise GateError(
                f"{_serves(serving, recipe)}, and the change was made for {expected or 'no champion'}",
                hint="look at it with: tickwalk models list, and decide again",
                champion=serving.version if serving else None,
            )

    done = lake.commit(
        {"versions": VERSIONS.rows(rows), **(further or {})},
        batch_id=batch_id,
        inputs={"night": events[0].night},
        check=check,
    )
    if done.is_new:
        for event in events:
            logger.info(
                f"version {event.event}",
                version=event.version,
                recipe=event.recipe,
                reason=event.reason,
                who=event.who,
            )


def promote_version(
    lake: Lake,
    version: str,
    *,
    reason: str,
    now_ns: int,
    who: str = "",
    expected: Expected = _AsSeen.CHAMPION,
) -> VersionEvent:
    """Make a registered version the champion of its recipe by hand, to overrule the gate.

    Args:
        lake: the lake.
        version: its id.
        reason: why, for people.
        now_ns: the current time.
        who: `user@host`.
        expected: champion that the decision was made against (default: the one that serves now).

    Raises:
        GateError: no such version, it already serves, no reason is given, or the champion is not the expected one.
    """
    event, events = _registered(lake, version)
    serving = champion_after(events)
    if serving is not None and serving.version == version:
        raise GateError(f"{version} serves {event.recipe} already")
    return _append_by_hand(lake, event, events, "champion", reason, now_ns, who, expected)


def rollback_recipe(
    lake: Lake,
    recipe: str,
    *,
    reason: str,
    now_ns: int,
    who: str = "",
    expected: Expected = _AsSeen.CHAMPION,
) -> VersionEvent:
    """Make the previous champion of a recipe serve again; arguments as in `promote_version`.

    Raises:
        GateError: there is no previous champion, no reason is given, or the champion is not the expected one.
    """
    events = read_versions(lake, recipe=recipe)
    earlier, serving = serving_history(events)
    if not earlier:
        raise GateError(
            f"{_serves(serving, recipe)}, and no earlier champion that could serve again",
            hint="retired and demoted versions do not return; promote one with: tickwalk models promote VERSION",
        )
    return _append_by_hand(lake, earlier[-1], events, "champion", reason, now_ns, who, expected)


def retire_version(
    lake: Lake,
    version: str,
    *,
    reason: str,
    now_ns: int,
    who: str = "",
    expected: Expected = _AsSeen.CHAMPION,
) -> VersionEvent:
    """Retire the champion of a recipe; no version serves until another is promoted. Arguments as in `promote_version`.

    Raises:
        GateError: no such version, it does not serve, no reason is given, or the champion is not the expected one.
    """
    event, events = _registered(lake, version)
    serving = champion_after(events)
    if serving is None or serving.version != version:
        raise GateError(
            f"{version} does not serve {event.recipe}",
            hint=f"the version that serves is {serving.version}" if serving else "no version serves it",
        )
    return _append_by_hand(lake, event, events, "retired", reason, now_ns, who, expected)


def find_version(events: Iterable[VersionEvent], version: str) -> list[VersionEvent]:
    """Return the events of a version, oldest first.

    Raises:
        GateError: there is no such version; the hint names the nearest.
    """
    events = list(events)
    found = [event for event in events if event.version == version]
    if not found:
        names = sorted({event.version for event in events})
        nearest = difflib.get_close_matches(version, names, n=1, cutoff=0.0)
        raise GateError(
            f"no version is called {version!r}",
            hint=f"the nearest is {nearest[0]}; list them with: tickwalk models list"
            if nearest
            else "a night registers one: tickwalk nightly",
        )
    return found


def _registered(lake: Lake, version: str) -> tuple[VersionEvent, list[VersionEvent]]:
    """Return the first event of a version, and all events of its recipe."""
    events = read_versions(lake)
    event = find_version(events, version)[0]
    return event, [item for item in events if item.recipe == event.recipe]


def _serves(serving: VersionEvent | None, recipe: str) -> str:
    if serving is None:
        return f"no version serves {recipe}"
    author = f", promoted by {serving.who}" if serving.who else ""
    return f"{serving.version} serves {recipe}{author}"


def _append_by_hand(
    lake: Lake,
    event: VersionEvent,
    events: Sequence[VersionEvent],
    kind: EventKind,
    reason: str,
    now_ns: int,
    who: str,
    expected: Expected,
) -> VersionEvent:
    if not reason.strip():
        raise GateError("a change of the champion needs a reason", hint='say why: --reason "..."')
    if isinstance(expected, _AsSeen):
        serving = champion_after(events)
        expected = serving.version if serving else None
    # A clock that is behind the ledger must not sort the event before the one that it replaces.
    at_ns = max(now_ns, *(item.ts_knowable_ns + 1 for item in events))
    row = replace(event, event=kind, reason=reason, ts_knowable_ns=at_ns, who=who)
    append_events(lake, [row], batch_id=f"versions-{event.version}-{kind}-{at_ns}-{who}", expected=expected)
    return row
