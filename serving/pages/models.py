"""The registry as a timeline of each recipe."""

from __future__ import annotations

from dataclasses import dataclass

from storage.clock import iso
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.registry import read_versions, serving_history
from training.night.version_list import ListedVersion, list_versions


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A version: its state and figures as text, and its night."""

    version: str
    model: str
    state: str
    since: str
    ic: str
    net: str
    reason: str
    who: str
    night: str


@dataclass(frozen=True, slots=True)
class RecipeModels:
    """Versions of a recipe, newest first.

    Args:
        recipe: its name.
        champion: version that serves; empty: none.
        earlier: version to which a rollback would return; empty: none.
        rows: the versions.
    """

    recipe: str
    champion: str
    earlier: str
    rows: tuple[ModelRow, ...]


def read_models(settings: Settings, lake: Lake) -> tuple[RecipeModels, ...]:
    """Return the versions of every recipe."""
    events = read_versions(lake)
    found = []
    for recipe in sorted({event.recipe for event in events}):
        own = [event for event in events if event.recipe == recipe]
        earlier, champion = serving_history(own)
        found.append(
            RecipeModels(
                recipe,
                champion.version if champion else "",
                earlier[-1].version if earlier else "",
                tuple(_row(item) for item in reversed(list_versions(settings, lake, recipe=recipe))),
            )
        )
    return tuple(found)


def _row(item: ListedVersion) -> ModelRow:
    event, ic, net = item.event, item.figures.get("ic"), item.figures.get("net")
    return ModelRow(
        version=event.version,
        model=event.model,
        state=event.event,
        since=iso(event.ts_knowable_ns)[:16].replace("T", " "),
        ic="-" if ic is None else f"{ic:+.4f}",
        net="-" if net is None else f"{net:+.2%}",
        reason=event.reason,
        who=event.who or "gate",
        night=event.night,
    )
