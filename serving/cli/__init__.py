"""Command line `tickwalk`: top-level options, the table of commands, and error output.

Modules are imported when their command runs, so that `tickwalk --help` prints at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from serving.cli.lazy import LazyGroup
from storage.errors import SettingsError, TickwalkError

app = typer.Typer(
    name="tickwalk",
    cls=LazyGroup,
    help="Exchange ticks to bars, features and a PyTorch model that is retrained and evaluated every night.",
    epilog=(
        "Start here: [bold]tickwalk demo[/] runs the whole pipeline on a simulated market and writes a report.\n\n"
        "Settings come from tickwalk.toml, then TICKWALK_* variables, then options; "
        "[bold]tickwalk settings[/] lists them."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",  # "markdown" loads a parser, which would cost a tenth of the help's time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(version("tickwalk"))
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder for everything that tickwalk writes; default ./var.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file; default ./tickwalk.toml.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override one setting, such as bars.widths=1m,5m; repeatable."
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    from serving.cli.context import CommandContext
    from storage.logs import configure_logs
    from storage.settings import load_settings

    configure_logs(level=log_level)
    overrides: dict[str, object] = {"home": home}
    for item in values or []:
        key, sign, value = item.partition("=")
        if not sign:
            raise SettingsError(f"--set {item!r} has no value", hint="write --set bars.grace_ms=2000")
        overrides[key] = value
    context.obj = CommandContext(load_settings(config, overrides))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; print a known error as message and hint, and exit with code 2."""
    try:
        refuse_foreign_packages()
        code = app(args=arguments, standalone_mode=False)
        if isinstance(code, int) and code:  # `typer.Exit`, where Click does not end the process itself
            sys.exit(code)
    except TickwalkError as error:
        _print_error(error.message, error.hint)
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
        if isinstance(error.__cause__, KeyboardInterrupt):  # how DuckDB reports Ctrl-C during a query
            sys.exit(130)
        # Click's own usage errors print themselves; anything else is a defect and keeps its traceback.
        if not hasattr(error, "show"):
            from storage.project import place_in_project

            if (place := place_in_project(error)) is not None:
                _print_error(
                    f"{type(error).__name__}: {error} ({place})", "correct the project, and run it again"
                )
                sys.exit(2)
            raise
        error.show()
        sys.exit(int(getattr(error, "exit_code", 1)))


def refuse_foreign_packages() -> None:
    """Refuse to run where another distribution installed a package with one of our generic names.

    Raises:
        SettingsError: one of our packages would be imported from elsewhere.
    """
    import importlib.util

    from storage.code_version import PACKAGES

    root = Path(__file__).resolve().parents[2]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        parent = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if parent != root:
            raise SettingsError(
                f"the package {package!r} belongs to something else: {parent}",
                hint="install tickwalk into an environment of its own, as `make setup` does",
            )


def _print_error(message: str, hint: str) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    console.print(f"[bold red]error:[/] {_plain(message)}", highlight=False)
    if hint:
        console.print(f"[bold]next:[/]  {_plain(hint)}", highlight=False)


def _plain(text: str) -> str:
    """Escape Rich markup."""
    return text.replace("[", "\\[")
