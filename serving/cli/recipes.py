"""Commands `recipes list|show|check`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from serving.cli.context import Format, console, print_rows, settings_of

group = typer.Typer(
    no_args_is_help=True, help="List recipes, show one, and check them against the home's data."
)

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
def check_recipe(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe, or a TOML file; default: every recipe.")
    ] = None,
    form: Form = "table",
) -> None:
    """Check a recipe, and whether the home's data fits it; exit code 1 if it does not.

    An unknown key is refused with the nearest known one. Without a name, list for each recipe what it lacks: a
    night that names none uses the only one that fits.

    Example: `tickwalk recipes check candles-2h.toml`
    """
    from storage.clock import iso
    from storage.errors import LakeError
    from storage.lake.lake import Lake
    from training.night.recipe_choice import check_recipes
    from training.recipe import get_recipe, recipe_names

    if recipe is not None and form == "table":
        found = get_recipe(recipe)
        _print(f"{recipe} is a valid recipe, {found.name}")
    settings = settings_of(context)
    try:
        with Lake.open(settings, read_only=True) as lake:
            fits = check_recipes(settings, lake, recipe_names() if recipe is None else [recipe])
    except LakeError as error:
        if recipe is None:
            raise
        _print(f"the data was not checked: {error.message}")
        return
    if form == "table":
        for fit in fits:
            _print(fit.summary)
    else:
        rows = [
            {
                "recipe": fit.recipe,
                "fits": fit.is_fitting,
                "width": fit.width,
                "venues": ", ".join(fit.venues),
                "instruments": len(fit.instruments),
                "since": "" if fit.since_ns is None else iso(fit.since_ns),
                "days": round(fit.days, 1),
                "folds": fit.folds,
                "lacks": "; ".join(fit.missing),
            }
            for fit in fits
        ]
        print_rows(rows, form, columns=list(rows[0]), numeric={"instruments", "days", "folds"})
    if recipe is not None and not fits[0].is_fitting:
        raise typer.Exit(1)


def _print(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
