"""Commands `airflow up|down|status|supervise|worker`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import console, notes, settings_of

if TYPE_CHECKING:
    from serving.airflow.status import StackStatus

airflow = typer.Typer(no_args_is_help=True, help="Run Airflow on this machine, without Docker.")


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
    """Stop the supervisor and every daemon that `up` started.

    Example: `tickwalk airflow down`
    """
    from serving.airflow.launcher import down as stop

    with notes.status("stopping Airflow"):
        stopped = stop(settings_of(context))
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running", highlight=False)


@airflow.command()
def status(context: typer.Context) -> None:
    """Show the supervisor and each daemon: state, pid, restarts, last exit; exit code 1 if one is not healthy.

    Example: `tickwalk airflow status`
    """
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


@airflow.command()
def supervise(
    context: typer.Context,
    record: Annotated[
        bool, typer.Option(help="Run the recorder too; it needs network access to the venue.")
    ] = False,
    guarded: Annotated[
        bool, typer.Option("--guarded", hidden=True, help="The parent process starts it again.")
    ] = False,
) -> None:
    """Run Airflow in the foreground, for systemd: start its daemons, and restart what dies or hangs.

    SIGTERM and Ctrl-C stop all of it. `up` starts this command in the background.

    Example: `tickwalk --log-level info airflow supervise`
    """
    from serving.airflow.supervise import supervise as run

    run(settings_of(context), record=record, is_guarded=guarded)


def _print(stack: StackStatus) -> None:
    rows = [("supervisor", stack.supervisor.state, stack.supervisor.pid, stack.supervisor.since_s, "", "")]
    rows += [
        (
            daemon.name,
            daemon.state,
            daemon.pid,
            daemon.since_s,
            f"{daemon.restarts} restart{'' if daemon.restarts == 1 else 's'}" if daemon.restarts else "",
            f"last: {daemon.last_exit}" if daemon.last_exit else "",
        )
        for daemon in stack.daemons
    ]
    for name, state, pid, since_s, restarts, last in rows:
        since = f"since {datetime.fromtimestamp(since_s, UTC):%Y-%m-%d %H:%M:%SZ}" if since_s else ""
        line = f"{name:14} {state:10} {pid or '':>8} {since:26} {restarts:11} {last}"
        console.print(line.rstrip(), highlight=False, soft_wrap=True, markup=False)
    if stack.supervisor.state != "running" and any(daemon.pid for daemon in stack.daemons):
        console.print("nothing restarts these daemons; run: make up", highlight=False)
    if stack.database:
        console.print(f"database: {stack.database}", highlight=False)
    console.print(f"logs:  {stack.daemons[0].log.parent}", highlight=False, soft_wrap=True)
    if stack.is_up:
        console.print(f"UI:    {stack.url}", highlight=False)
    if stack.dags:
        console.print(f"DAGs:  {', '.join(stack.dags)}", highlight=False)
