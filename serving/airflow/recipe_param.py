"""The recipe of a night in Airflow's pages: the field of the trigger form, and a paragraph of the DAG's page."""

from __future__ import annotations

from airflow.sdk import Param

from serving.recipe_note import RecipeNote, read_recipe_note
from storage.settings import Settings
from training.recipe_list import listed_recipes


def recipe_param(settings: Settings) -> Param:
    """Return the form's field: it proposes the known recipes, and accepts the path of a TOML file too."""
    default = _default(settings).replace("`", "")  # Airflow draws code over the line above
    return Param(
        None,
        type=["null", "string"],
        title="Recipe",
        description_md=f"A name, or the path of a TOML file. Empty: {default}",
        examples=list(listed_recipes()),
    )


def recipe_paragraph(settings: Settings) -> str:
    """Return what the DAG's page says: which recipe nights use, or that they fail since there is none."""
    note = read_recipe_note(settings)
    if settings.training.recipe or note is None or note.recipe:
        return f"**Recipe of nights that name none:** {_default(settings)}\n\n"
    lines = "\n".join(f"> {line}  " for line in note.text.splitlines())
    return (
        f"> **No recipe was chosen ({note.at}), so nights that name none fail.** Set `training.recipe`, or name one in "
        f"the trigger form. `tickwalk recipes check` repeats this check:  \n>\n{lines}\n\n"
    )


def _default(settings: Settings) -> str:
    if settings.training.recipe:
        return f"`{settings.training.recipe}` (setting `training.recipe`)."
    return _noted(read_recipe_note(settings))


def _noted(note: RecipeNote | None) -> str:
    rule = "the only recipe that fits the lake (or set `training.recipe`)"
    if note is None:
        return f"{rule}."
    if not note.recipe:
        return f"{rule}. **None was chosen at {note.at}; a night without a recipe fails.**"
    # Without the time, since each change makes a new version of the DAG.
    return f"{rule}; at the last check that was `{note.recipe}`."
