"""Commands `airflow up|down|status|worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import console, notes, settings_of

if TYPE_CHECKING:
    from serving.airflow.status import StackStatus

airflow = typer.Typer(no_args_is_help=True, help="Run Airflow on this machine, on SQLite and without Docker.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(airflow, name="airflow")


@airflow.command()
def up(
    context: typer.Context,
    unpause: Annotated[bool, typer.Option(help="Enable the DAGs' schedules, which start paused.")] = False,
    record: Annotated[
        bool, typer.Option(help="Start the recorder too; it needs network access to the venue.")
    ] = False,
) -> None:
    """Start Airflow's daemons and wait until they are healthy.

    Example: `tickwalk airflow up --unpause`
    """
    from serving.airflow.launcher import up as start

    settings = settings_of(context)
    with notes.status("starting Airflow (half a minute; the first start also creates its database)"):
        stack = start(settings, unpause=unpause, record=record)
    _print(stack)
    if stack.new_password is not None:
        console.print(
            f"log in as admin with password {stack.new_password} (shown only once)", highlight=False
        )


@airflow.command()
def down(context: typer.Context) -> None:
    """Stop every daemon that `up` started."""
    from serving.airflow.launcher import down as stop

    with notes.status("stopping Airflow"):
        stopped = stop(settings_of(context))
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running", highlight=False)


@airflow.command()
def status(context: typer.Context) -> None:
    """Show which daemons run and are healthy; exit code 1 if one is not."""
    from serving.airflow.launcher import status as stack_status

    stack = stack_status(settings_of(context))
    _print(stack)
    if not stack.is_up:
        raise typer.Exit(1)


@airflow.command()
def worker(
    context: typer.Context,
    queue: Annotated[
        list[str], typer.Option("--queue", help="Queue whose tasks to run: gpu or backfill; repeatable.")
    ],
    concurrency: Annotated[int, typer.Option(help="Tasks at a time.")] = 1,
    name: Annotated[
        str, typer.Option(help="Name on Airflow's page of workers; default: host and process.")
    ] = "",
) -> None:
    """Run tasks for an Airflow on this or another machine, until Ctrl-C or SIGTERM.

    It needs that Airflow's address (`airflow.server`) and secret (`airflow.secret_file`), and there the setting
    `airflow.worker_queues`. It opens no port, and does not need Airflow's database. SIGTERM lets running tasks end.

    Example: `tickwalk airflow worker --queue gpu`
    """
    from serving.airflow.worker import WorkerOptions, run_worker

    run_worker(settings_of(context), WorkerOptions(tuple(queue), concurrency, name))


def _print(stack: StackStatus) -> None:
    for daemon in stack.daemons:
        state = "healthy" if daemon.is_healthy else "running, unhealthy" if daemon.pid else "stopped"
        console.print(f"{daemon.name:14} {state:18} {daemon.log}", highlight=False, soft_wrap=True)
    if stack.is_up:
        console.print(f"UI:    {stack.url}", highlight=False)
    if stack.dags:
        console.print(f"DAGs:  {', '.join(stack.dags)}", highlight=False)
