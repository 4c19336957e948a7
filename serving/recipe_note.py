"""Note about the recipe of nights that name none, for pages that must not open the lake."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.atomic_write import write_atomic
from storage.clock import WallTime, iso
from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class RecipeNote:
    """Which recipe a night without one would have used, and when that was checked."""

    recipe: str
    """Empty where no recipe could be chosen."""
    text: str
    """Why this one was chosen, or what each recipe lacks."""
    at: str
    """Time of the check, UTC."""


def write_recipe_note(settings: Settings, *, recipe: str, text: str, now_ns: int | None = None) -> None:
    """Replace the note; a home without Airflow gets none."""
    path = _path(settings)
    if path.parent.exists():
        note = RecipeNote(recipe, text, iso(WallTime().now_ns() if now_ns is None else now_ns))
        write_atomic(path, json.dumps(asdict(note)), is_synced=False)


def read_recipe_note(settings: Settings) -> RecipeNote | None:
    """Return the note, if there is a readable one."""
    try:
        return RecipeNote(**json.loads(_path(settings).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _path(settings: Settings) -> Path:
    return settings.home.resolve() / "airflow" / "recipe.json"
