"""Names of all recipes, without loading them: a DAG file is parsed again and again and must not load torch."""

from __future__ import annotations

from typing import Final

from storage.errors import ProjectError
from storage.project import current_project

BUILT_IN: Final = ("demo", "candles", "hyperliquid-1m", "gaiaex-mid")
"""Keys of `training.recipe.RECIPES`; a test compares them."""


def listed_recipes() -> tuple[str, ...]:
    """Return the built-in recipes and those of the project folder, or the former alone where it cannot be read."""
    try:
        project = current_project()
    except ProjectError:
        return BUILT_IN
    return (*BUILT_IN, *(name for name in (project.recipe_paths if project else ()) if name not in BUILT_IN))
