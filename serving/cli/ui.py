"""Command `ui`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import console, notes, settings_of


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(ui)


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: a free one.", min=0, max=65_535)] = 8_090,
) -> None:
    """Show the pages of this home in a browser, without Airflow, until Ctrl-C.

    Morning, coverage, models and reports, as in Airflow's menu. It listens on 127.0.0.1 only, and the address has a
    token that no other user of the machine knows. It may run beside a recorder and beside nights.

    Example: `tickwalk ui --port 8090`
    """
    from serving.pages.local_server import serve

    def show(url: str) -> None:
        console.print(url, highlight=False, soft_wrap=True)
        notes.print("open this address; Ctrl-C ends", highlight=False)

    serve(settings_of(context), port=port, on_ready=show)
