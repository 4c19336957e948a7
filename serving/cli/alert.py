"""Commands `watch` and `alert check|watch`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from serving.cli.context import console, run_until_stopped, settings_of

alert = typer.Typer(no_args_is_help=True, help="Alert when a recorder fails.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(watch)
    app.add_typer(alert, name="alert")


def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print the status once and exit.")] = False,
) -> None:
    """Show the running recorders of this home live.

    Works from any terminal of the machine. Example: `tickwalk watch --once`
    """
    from ingest.recorder.heartbeat import read_heartbeats
    from serving.monitoring.live_view import render_all, watch_home
    from storage.clock import WallTime

    settings = settings_of(context)
    if once:
        beats = read_heartbeats(settings)
        console.print(render_all(beats, WallTime().now_ns(), settings.alert, console))
        return

    async def work(stop: asyncio.Event) -> None:
        await watch_home(settings, console, stop)

    run_until_stopped(work)


@alert.command()
def check(
    context: typer.Context,
    tell: Annotated[
        bool, typer.Option("--tell", help="Also send alerts for changes since the last check.")
    ] = False,
) -> None:
    """Check the recorders of this home once; exit code 1 if anything is wrong.

    With `--tell` it also runs `alert.command` and posts to `alert.webhook`, once per alert; meant for a systemd timer
    or cron.

    Example: `tickwalk alert check --tell`
    """
    from serving.monitoring.alerting import check_home, check_once
    from storage.clock import WallTime

    settings, now_ns = settings_of(context), WallTime().now_ns()
    check_home = check_once if tell else check_home
    issues = check_home(settings, now_ns=now_ns)
    for issue in issues:
        shard = f" (shard {issue.shard})" if issue.shard else ""
        console.print(f"{issue.kind}{shard}: {issue.detail}", highlight=False, markup=False)
    if issues:
        raise typer.Exit(1)
    console.print("all well", highlight=False)


@alert.command("watch")
def watch_alerts(context: typer.Context) -> None:
    """Check every `alert.check_s` seconds and send alerts until Ctrl-C; run it beside the recorder.

    An alert is sent as JSON to the standard input of `alert.command` and by POST to `alert.webhook`: when the problem
    starts, again every `alert.repeat_s` seconds, and once when it is resolved.

    Example: `tickwalk --set alert.command=/usr/local/bin/page alert watch`
    """
    from serving.monitoring.alerting import watch_forever

    settings = settings_of(context)

    async def work(stop: asyncio.Event) -> None:
        await watch_forever(settings, stop)

    run_until_stopped(work)
