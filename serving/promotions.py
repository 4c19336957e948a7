"""Decisions about champions that a person makes: promote, retire, roll back, or approve a version that is on paper.

The gate promotes by itself what has earned it. What it keeps on paper, such as a lineage that was judged without
quotes, serves only if a person says so; a decision is refused if another champion serves by the time it is applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from storage.errors import GateError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.registry import (
    VersionEvent,
    champions_after,
    find_version,
    promote_version,
    read_versions,
    retire_version,
    rollback_recipe,
    states_of,
)

Action = Literal["promote", "retire", "roll back"]
ACTIONS: Final[tuple[Action, ...]] = ("promote", "retire", "roll back")


@dataclass(frozen=True, slots=True)
class Decision:
    """A change of a champion that was asked for, or that waits for a person.

    Args:
        action: what to do.
        recipe: whose champion changes.
        version: what to promote or retire; empty for `roll back`.
        champion: version that served when the decision was prepared; `None`: none.
        reason: why, for the registry.
        is_asked: a person asked for it; else one has to approve it.
        text: what it would change, in Markdown.
    """

    action: Action
    recipe: str
    version: str
    champion: str | None
    reason: str
    is_asked: bool
    text: str

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def asked_decision(settings: Settings, params: Mapping[str, Any]) -> Decision:
    """Return the decision of a form: `action`, `version` (or the recipe, for `roll back`), and `reason`.

    Raises:
        SettingsError: the action is unknown, or a value is missing.
        GateError: no version, or no recipe, has that name.
    """
    action, name, reason = (str(params.get(key) or "").strip() for key in ("action", "version", "reason"))
    if action not in ACTIONS:
        raise SettingsError(f"the action is {action!r}", hint=f"choose one of {', '.join(ACTIONS)}")
    if not name or not reason:
        raise SettingsError(
            f"{action} has no {'reason' if name else 'version'}",
            hint="name the version (of `roll back`, the recipe), and say why: the registry keeps it",
        )
    with Lake.open(settings, read_only=True) as lake:
        events = read_versions(lake)
    recipe = name if action == "roll back" else find_version(events, name)[0].recipe
    if not any(event.recipe == recipe for event in events):
        raise GateError(
            f"no version of a recipe {recipe!r} is registered",
            hint=f"the recipes: {', '.join(sorted({event.recipe for event in events})) or 'none yet'}",
        )
    champion = champions_after(events).get(recipe)
    return Decision(
        action,
        recipe,
        "" if action == "roll back" else name,
        champion.version if champion else None,
        reason,
        is_asked=True,
        text=f"{action} {name}: {reason}",
    )


def waiting_decision(settings: Settings) -> Decision | None:
    """Return the promotion of the newest version, if the gate keeps it on paper; `None` if nothing waits."""
    with Lake.open(settings, read_only=True) as lake:
        return decision_of(read_versions(lake))


def decision_of(events: Sequence[VersionEvent]) -> Decision | None:
    """Return the promotion of the newest version of these events, if it is on paper; `None` if nothing waits."""
    if not events:
        return None
    state = list(states_of(events).values())[-1]
    if state.event != "paper":
        return None
    champion = champions_after(events).get(state.recipe)
    return Decision(
        "promote",
        state.recipe,
        state.version,
        champion.version if champion else None,
        "approved in Airflow",
        is_asked=False,
        text=_question(state, champion),
    )


def apply_decision(settings: Settings, decision: Mapping[str, Any], *, who: str, now_ns: int) -> VersionEvent:
    """Write a decision to the registry, and return its event.

    Args:
        settings: the home.
        decision: plain values of a `Decision`.
        who: who made it.
        now_ns: the current time.

    Raises:
        GateError: another champion serves by now, or the action is impossible; nothing is written.
    """
    action, reason, expected = decision["action"], decision["reason"], decision["champion"]
    with Lake.open(settings) as lake:
        if action == "roll back":
            return rollback_recipe(
                lake, decision["recipe"], reason=reason, now_ns=now_ns, who=who, expected=expected
            )
        change = promote_version if action == "promote" else retire_version
        return change(lake, decision["version"], reason=reason, now_ns=now_ns, who=who, expected=expected)


def _question(state: VersionEvent, champion: VersionEvent | None) -> str:
    instead = f"in place of `{champion.version}`" if champion else "as the first champion"
    return (
        f"Promote `{state.version}` of recipe `{state.recipe}` {instead}?\n\n"
        f"The gate keeps it on paper: {state.reason}\n\n"
        f"Night `{state.night}`; its report: `tickwalk report {state.night}`"
    )
