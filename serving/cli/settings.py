"""Command that lists the settings."""

from __future__ import annotations

import typer

from serving.cli.context import console, settings_of


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("settings")(show_settings)


def show_settings(context: typer.Context) -> None:
    """List every setting and its current value.

    Example: `tickwalk --set bars.grace_ms=3000 settings`
    """
    from storage.settings import known_keys, shown

    settings = settings_of(context)
    for key in known_keys():
        console.print(f"{key:28} {shown(settings, key)}", highlight=False, markup=False)
