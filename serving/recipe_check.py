"""Check at each start of Airflow which recipe a night without one uses: `python -m serving.recipe_check`."""

from __future__ import annotations

import sys

from serving.nightly import pick_recipe
from serving.recipe_note import write_recipe_note
from storage.errors import TickwalkError
from storage.settings import Settings, load_settings


def check_recipe(settings: Settings) -> None:
    """Choose a recipe as a night would, and write the note about it."""
    try:
        choice = pick_recipe(settings)
    except TickwalkError as error:
        write_recipe_note(settings, recipe="", text=error.message)
    else:
        write_recipe_note(settings, recipe=choice.recipe, text=choice.reason)


if __name__ == "__main__":
    check_recipe(load_settings())
    sys.exit(0)
