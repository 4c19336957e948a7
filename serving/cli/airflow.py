"""Commands that start and stop Airflow on this machine: `tickwalk airflow up|down|status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import console, notes, settings_of

if TYPE_CHECKING:
    from serving.airflow.status import StackStatus

app = typer.Typer(no_args_is_help=True, help="Airflow on this machine, on SQLite and without Docker.")


@app.command()
def up(
    context: typer.Context,
    unpause: Annotated[bool, typer.Option(help="Let the DAGs' schedules run; they begin paused.")] = False,
    record: Annotated[
        bool, typer.Option(help="Start the recorder too; it needs the venue's network.")
    ] = False,
) -> None:
    """Start Airflow's daemons and wait until they are well."""
    from serving.airflow.launcher import up as start

    settings = settings_of(context)
    with notes.status("starting Airflow (half a minute; the first time it makes its database)"):
        stack = start(settings, unpause=unpause, record=record)
    _print(stack)
    if stack.new_password is not None:
        console.print(f"log in as admin with password {stack.new_password} (told once)", highlight=False)


@app.command()
def down(context: typer.Context) -> None:
    """Stop everything that `up` started."""
    from serving.airflow.launcher import down as stop

    with notes.status("stopping Airflow"):
        stopped = stop(settings_of(context))
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running", highlight=False)


@app.command()
def status(context: typer.Context) -> None:
    """Say which daemons run and are well."""
    from serving.airflow.launcher import status as look

    stack = look(settings_of(context))
    _print(stack)
    if not stack.is_up:
        raise typer.Exit(1)


def _print(stack: StackStatus) -> None:
    for daemon in stack.daemons:
        state = "well" if daemon.is_well else "running, not well" if daemon.pid else "stopped"
        console.print(f"{daemon.name:14} {state:18} {daemon.log}", highlight=False, soft_wrap=True)
    if stack.is_up:
        console.print(f"pages: {stack.url}", highlight=False)
    if stack.dags:
        console.print(f"DAGs:  {', '.join(stack.dags)}", highlight=False)
