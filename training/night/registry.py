"""Which model versions are there, and which one serves?

The table `versions` is append-only: every registration, promotion, rejection and retirement is a row, and the last
`champion` or `retired` row of a recipe says what serves it. So history and rollback need nothing else: promoting an
old version again is one more row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Literal

from storage.contracts.tables import VERSIONS
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.logs import get_logger

logger = get_logger(__name__)
EventKind = Literal["registered", "champion", "rejected", "retired"]


@dataclass(frozen=True, slots=True)
class VersionEvent:
    """One row of the ledger.

    Args:
        version: the version's id.
        event: what happened.
        recipe, model, night: what made it.
        reason: why, for people.
        metrics: the figures that the gate read.
        inputs: snapshot, content hash, feature fingerprint, code.
        artefact: folder of its checkpoint, below the models folder.
        ts_knowable_ns: when it happened.
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
    """Return the ledger's events, oldest first."""
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
    """Return what serves a recipe, or `None`."""
    return champion_after(read_versions(lake, recipe=recipe))


def champion_after(events: Iterable[VersionEvent]) -> VersionEvent | None:
    """Return what serves one recipe after these events, oldest first."""
    serving: VersionEvent | None = None
    for event in events:
        if event.event == "champion":
            serving = event
        elif event.event == "retired" and serving is not None and event.version == serving.version:
            serving = None
    return serving


def events_before(events: Iterable[VersionEvent], night: str) -> list[VersionEvent]:
    """Return what had happened before a night wrote its first event: judged again, it meets the same ledger."""
    return list(takewhile(lambda event: event.night != night, events))


def append_events(lake: Lake, events: list[VersionEvent], *, batch_id: str) -> None:
    """Write events in one commit; the same batch again does nothing."""
    rows = [
        asdict(event)
        | {
            "metrics": json.dumps(event.metrics, sort_keys=True),
            "inputs": json.dumps(event.inputs, sort_keys=True),
        }
        for event in events
    ]
    done = lake.commit(
        {"versions": VERSIONS.rows(rows)}, batch_id=batch_id, inputs={"night": events[0].night}
    )
    if done.is_new:
        for event in events:
            logger.info(
                f"version {event.event}", version=event.version, recipe=event.recipe, reason=event.reason
            )


def promote_version(lake: Lake, version: str, *, reason: str, now_ns: int) -> VersionEvent:
    """Make a registered version the champion of its recipe, by hand: a rollback, or a decision against the gate.

    Raises:
        GateError: no such version, or it serves already.
    """
    event = _registered(lake, version)
    serving = current_champion(lake, event.recipe)
    if serving is not None and serving.version == version:
        raise GateError(f"{version} serves {event.recipe} already")
    return _by_hand(lake, event, "champion", reason, now_ns)


def retire_version(lake: Lake, version: str, *, reason: str, now_ns: int) -> VersionEvent:
    """Take the champion of a recipe out of service; nothing serves until another is promoted.

    Raises:
        GateError: no such version, or it does not serve.
    """
    event = _registered(lake, version)
    serving = current_champion(lake, event.recipe)
    if serving is None or serving.version != version:
        raise GateError(
            f"{version} does not serve {event.recipe}",
            hint=f"what does: {serving.version}" if serving else "nothing does",
        )
    return _by_hand(lake, event, "retired", reason, now_ns)


def _registered(lake: Lake, version: str) -> VersionEvent:
    found = [event for event in read_versions(lake) if event.version == version]
    if not found:
        raise GateError(
            f"no version is called {version!r}", hint='list them with: tickwalk sql "SELECT * FROM versions"'
        )
    return found[0]


def _by_hand(lake: Lake, event: VersionEvent, happened: EventKind, reason: str, now_ns: int) -> VersionEvent:
    row = VersionEvent(**asdict(event) | {"event": happened, "reason": reason, "ts_knowable_ns": now_ns})
    append_events(lake, [row], batch_id=f"versions-{event.version}-{happened}-{now_ns}")
    return row
