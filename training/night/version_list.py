"""Model versions with their state and figures, from the registry and the folders of their nights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from storage.clock import iso
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.artifacts import NightArtifacts
from training.night.night_list import drawdown_of
from training.night.registry import VersionEvent, find_version, read_versions, states_of

FIGURES: Final = ("ic", "net", "sharpe", "drawdown")
"""Information coefficient on test rows; net return after costs and largest fall from a peak, shares of capital."""
COLUMNS: Final = ("version", "recipe", "model", "state", "since", *FIGURES, "reason", "who")


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """One version.

    Args:
        event: its last event, with the state in place of the kind.
        figures: `FIGURES`, then the ledger's; `None` where unknown.
    """

    event: VersionEvent
    figures: Mapping[str, float | None]

    def row(self) -> dict[str, Any]:
        """Return the values of `COLUMNS`."""
        event = self.event
        return {
            "version": event.version,
            "recipe": event.recipe,
            "model": event.model,
            "state": event.event,
            "since": iso(event.ts_knowable_ns),
            **{name: self.figures.get(name) for name in FIGURES},
            "reason": event.reason,
            "who": event.who or "gate",
        }


def list_versions(settings: Settings, lake: Lake, *, recipe: str | None = None) -> list[ListedVersion]:
    """Return all versions, or those of a recipe, in order of registration."""
    states = states_of(read_versions(lake, recipe=recipe))
    return [ListedVersion(event, figures_of(settings, event)) for event in states.values()]


def show_version(settings: Settings, lake: Lake, version: str) -> tuple[ListedVersion, list[VersionEvent]]:
    """Return a version and its events, oldest first.

    Raises:
        GateError: there is no such version.
    """
    events = read_versions(lake)
    mine = find_version(events, version)
    state = states_of([event for event in events if event.recipe == mine[0].recipe])[version]
    return ListedVersion(state, figures_of(settings, state)), mine


def figures_of(settings: Settings, event: VersionEvent) -> dict[str, float | None]:
    """Return a version's figures; those of a night whose folder is gone are `None`."""
    folder = NightArtifacts(settings.models_dir / "nights" / event.night)
    summary = folder.read("summary.json") if folder.has("summary.json") else {}
    model = summary.get("models", {}).get(event.model, {})
    test = model.get("test", {})
    # All of one model where its night is there; the registry has the net of the lineage's path.
    traded = model.get("traded") or event.metrics.get("traded", {})
    return {
        "ic": test.get("ic", {}).get("value"),
        "net": traded.get("net"),
        "sharpe": traded.get("sharpe"),
        "drawdown": drawdown_of(summary, event.model),
        **{name: value for name, value in traded.items() if name not in FIGURES},
    }


def compare_versions(settings: Settings, lake: Lake, versions: list[str]) -> list[dict[str, Any]]:
    """Return one row per property, with a column per version.

    Raises:
        GateError: there is no such version.
    """
    found = [show_version(settings, lake, version)[0] for version in versions]
    properties: dict[str, list[Any]] = {}
    for place, item in enumerate(found):
        facts = {
            **{name: value for name, value in item.row().items() if name != "version"},
            "night": item.event.night,
            **item.figures,
            **{
                name: value for name, value in item.event.inputs.items() if not isinstance(value, dict | list)
            },
        }
        for name, value in facts.items():
            properties.setdefault(name, [None] * len(found))[place] = value
    return [
        {"property": name, **dict(zip(versions, values, strict=True))} for name, values in properties.items()
    ]
