"""Commands that look at a recorder from outside: alerts, and the live view."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from serving.cli.context import console, run_until_stopped, settings_of

alert = typer.Typer(no_args_is_help=True, help="Notice that the recorder is dead, and call someone.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(watch)
    app.add_typer(alert, name="alert")


def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Draw it once and end.")] = False,
) -> None:
    """Show the recorders that run in this home, live, from any terminal of this machine."""
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
    tell: Annotated[bool, typer.Option("--tell", help="Also tell what changed since the last look.")] = False,
) -> None:
    """Say what is wrong with the recorders of this home; ends with status 1 if anything is.

    With `--tell` it runs `alert.command` and posts to `alert.webhook`, each alert once: for a systemd timer or cron.
    """
    from serving.monitoring.alerting import judge_home, look_once
    from storage.clock import WallTime

    settings, now_ns = settings_of(context), WallTime().now_ns()
    look = look_once if tell else judge_home
    troubles = look(settings, now_ns=now_ns)
    for trouble in troubles:
        whose = f" (shard {trouble.shard})" if trouble.shard else ""
        console.print(f"{trouble.kind}{whose}: {trouble.detail}", highlight=False, markup=False)
    if troubles:
        raise typer.Exit(1)
    console.print("all well", highlight=False)


@alert.command("watch")
def watch_alerts(context: typer.Context) -> None:
    """Look every `alert.check_s` and tell of each change, until Ctrl-C; a process of its own, beside the recorder.

    Each alert goes as JSON to the standard input of `alert.command` and by POST to `alert.webhook`: when it begins,
    again after `alert.repeat_s`, and once when it is over.
    """
    from serving.monitoring.alerting import watch_forever

    settings = settings_of(context)

    async def work(stop: asyncio.Event) -> None:
        await watch_forever(settings, stop)

    run_until_stopped(work)
