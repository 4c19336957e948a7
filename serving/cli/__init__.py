"""Which command does what: the door to every room.

Rooms are imported when their command runs, so that `tickwalk --help` answers at once.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serving.cli import (
    airflow,
    alert,
    backfill,
    certify,
    data,
    explain,
    features,
    lake,
    models,
    probe,
    quarantine,
    record,
    reference,
    venue,
)
from serving.cli import journal as keep
from serving.cli.context import CommandContext
from storage.code_version import PACKAGES
from storage.errors import SettingsError, TickwalkError
from storage.logs import configure_logs
from storage.settings import known_keys, load_settings, shown

app = typer.Typer(
    name="tickwalk",
    help="From exchange ticks to a retrained, proven model every night.",
    epilog="Settings come from tickwalk.toml, then TICKWALK_* variables, then flags. `tickwalk settings` lists them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _common(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder that everything is written below; default ./var.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file; default ./tickwalk.toml.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as in bars.widths=1m,5m."),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
) -> None:
    configure_logs(level=log_level)
    overrides: dict[str, object] = {"home": home}
    for item in values or []:
        key, sign, value = item.partition("=")
        if not sign:
            raise SettingsError(f"--set {item!r} has no value", hint="write --set bars.grace_ms=2000")
        overrides[key] = value
    context.obj = CommandContext(load_settings(config, overrides))


@app.command("settings")
def show_settings(context: typer.Context) -> None:
    """List every setting with the value in force."""
    chosen: CommandContext = context.obj
    console = Console()
    for key in known_keys():
        console.print(f"{key:28} {shown(chosen.settings, key)}", highlight=False, markup=False)


record.add_to(app)
data.add_to(app)
backfill.add_to(app)
models.add_to(app)
venue.add_to(app)
probe.add_to(app)
alert.add_to(app)
keep.add_to(app)
certify.add_to(app)
explain.add_to(app)
features.add_to(app)
reference.add_to(app)
lake.add_to(app)
quarantine.add_to(app)
app.add_typer(airflow.app, name="airflow")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake a person can mend ends with its message, its hint and code 2."""
    try:
        refuse_foreign_rooms()
        code = app(args=arguments, standalone_mode=False)
        if (
            isinstance(code, int) and code
        ):  # what `typer.Exit` becomes where Click does not end the process itself
            sys.exit(code)
    except TickwalkError as error:
        console = Console(stderr=True)
        console.print(f"[bold red]error:[/] {_plain(error.message)}", highlight=False)
        if error.hint:
            console.print(f"[bold]next:[/]  {_plain(error.hint)}", highlight=False)
        sys.exit(2)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # as DuckDB tells it, in the middle of a query
            sys.exit(130)
        # Click's own usage errors know how to show themselves; anything else is a defect and keeps its traceback.
        if not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(int(getattr(error, "exit_code", 1)))


def refuse_foreign_rooms() -> None:
    """Refuse to run where a room's generic name belongs to some other package.

    Raises:
        SettingsError: a room is imported from elsewhere.
    """
    here = Path(__file__).resolve().parents[2]
    for room in PACKAGES:
        found = importlib.util.find_spec(room)
        where = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if where != here:
            raise SettingsError(
                f"the package {room!r} belongs to something else: {where}",
                hint="install tickwalk into an environment of its own, as `make setup` does",
            )


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
