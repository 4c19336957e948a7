"""Commands `recipes list|show|check`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from serving.cli.context import Format, console, print_rows

group = typer.Typer(no_args_is_help=True, help="List recipes, show one with all keys, and check a TOML file.")

Form = Annotated[Format, typer.Option("--format", help="Output format.")]
_COLUMNS = ("recipe", "source", "feature_set", "width", "horizon_bars", "challengers")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(group, name="recipes")


@group.command("list")
def list_recipes(form: Form = "table") -> None:
    """List the built-in recipes and those of the project folder."""
    from training.recipe import get_recipe, recipe_names

    rows: list[dict[str, Any]] = []
    for name, source in recipe_names().items():
        recipe = get_recipe(name)
        rows.append(
            {
                "recipe": name,
                "source": source,
                "feature_set": recipe.feature_set,
                "width": recipe.width,
                "horizon_bars": recipe.label.horizon_bars,
                "challengers": ", ".join(recipe.challengers),
            }
        )
    print_rows(rows, form, columns=_COLUMNS, numeric={"horizon_bars"})


@group.command("show")
def show_recipe(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
) -> None:
    """Print a recipe with all of its keys, as a TOML file that can be edited."""
    from training.night.project_restore import recipe_lines
    from training.recipe import get_recipe

    for line in recipe_lines(get_recipe(recipe).to_plain()):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@group.command("check")
def check_recipe(path: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe.")]) -> None:
    """Check a recipe: an unknown key is refused with the nearest known one.

    Example: `tickwalk recipes check candles-2h.toml`
    """
    from training.recipe import get_recipe

    found = get_recipe(path)
    console.print(f"{path} is a valid recipe, {found.name}", highlight=False, markup=False, soft_wrap=True)
