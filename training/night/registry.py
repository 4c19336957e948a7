"""Registry of model versions: registration, promotion, rejection and retirement.

The table `versions` is append-only, one row an event. The last `champion`, `paper` or `retired` event of a version
determines whether it serves: a demoted champion becomes `paper`. A rollback is one more `champion` event of an old
version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Literal

import pyarrow as pa

from storage.contracts.lake_records import VERSIONS
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.logs import get_logger

logger = get_logger(__name__)
EventKind = Literal["registered", "champion", "paper", "rejected", "retired"]


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


def read_versions(lake: Lake, *, recipe: str | None = None) -> list[VersionEvent]:
    """Return the events of all versions, or of one recipe's, oldest first."""
    rows = lake.query(
        "SELECT version, event, recipe, model, night, reason, metrics, inputs, artefact, ts_knowable_ns FROM versions "
        "WHERE coalesce(recipe = ?, true) ORDER BY ts_knowable_ns, event = 'registered' DESC, version, event",
        (recipe,),
    )
    return [
        VersionEvent(**row | {"metrics": json.loads(row["metrics"]), "inputs": json.loads(row["inputs"])})
        for row in rows.to_pylist()
    ]


def current_champion(lake: Lake, recipe: str) -> VersionEvent | None:
    """Return the promotion of the version that serves a recipe, or `None`."""
    return champion_after(read_versions(lake, recipe=recipe))


def champion_after(events: Iterable[VersionEvent]) -> VersionEvent | None:
    """Return the promotion of the version that serves one recipe after these events, oldest first, or `None`."""
    serving: VersionEvent | None = None
    for event in events:
        if event.event == "champion":
            serving = event
        elif event.event in ("retired", "paper") and serving is not None and event.version == serving.version:
            serving = None
    return serving


def events_before(events: Iterable[VersionEvent], night: str) -> list[VersionEvent]:
    """Return the events before a night's first one, so that a night judged again meets the same champion."""
    return list(takewhile(lambda event: event.night != night, events))


def append_events(
    lake: Lake,
    events: list[VersionEvent],
    *,
    batch_id: str,
    further: Mapping[str, pa.Table] | None = None,
) -> None:
    """Append events, and further rows by table, in one commit; a repeated batch id adds nothing."""
    rows = [
        asdict(event)
        | {
            "metrics": json.dumps(event.metrics, sort_keys=True),
            "inputs": json.dumps(event.inputs, sort_keys=True),
        }
        for event in events
    ]
    done = lake.commit(
        {"versions": VERSIONS.rows(rows), **(further or {})},
        batch_id=batch_id,
        inputs={"night": events[0].night},
    )
    if done.is_new:
        for event in events:
            logger.info(
                f"version {event.event}", version=event.version, recipe=event.recipe, reason=event.reason
            )


def promote_version(lake: Lake, version: str, *, reason: str, now_ns: int) -> VersionEvent:
    """Make a registered version the champion of its recipe by hand, as a rollback or to overrule the gate.

    Raises:
        GateError: no such version, or it already serves.
    """
    event = _registered(lake, version)
    serving = current_champion(lake, event.recipe)
    if serving is not None and serving.version == version:
        raise GateError(f"{version} serves {event.recipe} already")
    return _append_by_hand(lake, event, "champion", reason, now_ns)


def retire_version(lake: Lake, version: str, *, reason: str, now_ns: int) -> VersionEvent:
    """Retire the champion of a recipe; no version serves until another is promoted.

    Raises:
        GateError: no such version, or it does not serve.
    """
    event = _registered(lake, version)
    serving = current_champion(lake, event.recipe)
    if serving is None or serving.version != version:
        raise GateError(
            f"{version} does not serve {event.recipe}",
            hint=f"the version that serves is {serving.version}" if serving else "no version serves it",
        )
    return _append_by_hand(lake, event, "retired", reason, now_ns)


def _registered(lake: Lake, version: str) -> VersionEvent:
    events = [event for event in read_versions(lake) if event.version == version]
    if not events:
        raise GateError(
            f"no version is called {version!r}", hint='list them with: tickwalk sql "SELECT * FROM versions"'
        )
    return events[0]


def _append_by_hand(
    lake: Lake, event: VersionEvent, kind: EventKind, reason: str, now_ns: int
) -> VersionEvent:
    row = VersionEvent(**asdict(event) | {"event": kind, "reason": reason, "ts_knowable_ns": now_ns})
    append_events(lake, [row], batch_id=f"versions-{event.version}-{kind}-{now_ns}")
    return row
