"""Top-level command group that imports a command's module only when the command runs."""

from __future__ import annotations

import importlib
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class CommandEntry(NamedTuple):
    """One line of the top-level help, and the module that holds the command."""

    panel: str
    name: str
    module: str
    """Module of `serving.cli` whose `add_to` adds the command."""
    summary: str
    """First line of the command's own help; a test compares them."""


COMMANDS: Final = tuple(
    CommandEntry(*entry)
    for entry in (
        ("Record", "record", "record", "Record the venues' public feeds until Ctrl-C."),
        ("Record", "watch", "alert", "Show the running recorders of this home live."),
        ("Record", "gaps", "record", "List gaps in the recorded trades, with cause and repair."),
        ("Record", "probe", "probe", "Test every endpoint and channel of the live venues."),
        ("Record", "backfill", "backfill", "Download history from the venue's API and archives."),
        ("Record", "import", "data", "Import history from files."),
        ("Record", "replay", "data", "Load captures or recordings into the tables."),
        ("Record", "serve-venue", "venue", "Simulate Hyperliquid and GaiaEx on this machine."),
        ("Record", "serve-tape", "venue", "Serve a capture as a venue would."),
        ("Lake", "sql", "data", "Query the tables with SQL, read-only."),
        ("Lake", "instruments", "data", "List instruments."),
        ("Lake", "reference", "reference", "Point-in-time reference data: fees, listings, the universe."),
        ("Lake", "explain", "explain", "Trace a bar, or a feature's value, back to its source rows."),
        ("Lake", "certify", "certify", "Compare recorded bars with the venue's candles."),
        ("Lake", "seal", "days", "Repair, certify and validate a UTC day, and write its coverage."),
        ("Lake", "quality", "days", "Coverage, incidents, latency and open gaps by instrument and day."),
        ("Lake", "lake", "lake", "Inspect, pin, compact, verify and rebuild the lake."),
        ("Lake", "quarantine", "quarantine", "Inspect rejected rows and retry them."),
        ("Features", "features", "features", "List, build, test and follow feature sets."),
        ("Train", "nightly", "models", "Retrain, evaluate and report once, without Airflow."),
        ("Train", "judge", "judge", "Judge predictions that were made elsewhere."),
        (
            "Train",
            "recipes",
            "recipes",
            "List recipes, show one, and check them against the home's data.",
        ),
        (
            "Train",
            "models",
            "registry",
            "List, compare, promote, retire, roll back and rebuild model versions.",
        ),
        ("Train", "nights", "registry", "List retraining nights, show one, and replay them over history."),
        (
            "Train",
            "compare",
            "compare",
            "Tell whether B is better than A: does a feature, a model or a setting help?",
        ),
        ("Train", "trials", "trials", "List every model that was evaluated on test rows."),
        (
            "Train",
            "holdout",
            "holdout",
            "Seal a range of time that no recipe may read, open it, and show its state.",
        ),
        ("Train", "report", "models", "Write the report of a night again."),
        ("Train", "demo", "models", "Run the whole pipeline on a simulated market."),
        ("Operate", "ui", "ui", "Show the pages of this home in a browser, without Airflow, until Ctrl-C."),
        ("Operate", "alert", "alert", "Alert when a recorder fails."),
        ("Operate", "keep", "journal", "Back up the journal, delete old recordings, estimate disk use."),
        ("Operate", "backup", "backup", "Back up a home, and restore it into an empty one."),
        ("Operate", "airflow", "airflow", "Run Airflow on this machine, without Docker."),
        ("Operate", "settings", "settings", "List every setting and its current value."),
    )
)


class LazyGroup(TyperGroup):
    """A group that lists commands from `COMMANDS` and imports one when it is looked up."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands.update((entry.name, _Stub(entry)) for entry in COMMANDS)
        self._is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # Click's signature
        """Return the names of all commands, in the order of the help."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, imported on first use, or None for an unknown name."""
        command = super().get_command(ctx, cmd_name)
        if isinstance(command, _Stub) and not self._is_listing:
            self.commands.update(_load(command.module))
            command = self.commands[cmd_name]
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help from `COMMANDS` alone, without importing any command."""
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False


class _Stub(TyperCommand):
    """Name, summary and panel of a command that is not imported yet."""

    def __init__(self, entry: CommandEntry) -> None:
        super().__init__(entry.name, help=entry.summary, rich_help_panel=entry.panel)
        self.module = entry.module


def _load(module: str) -> dict[str, Any]:
    """Import a module of `serving.cli` and return its commands by name."""
    app = typer.Typer(rich_markup_mode="markdown")
    importlib.import_module(f"serving.cli.{module}").add_to(app)
    return dict(typer.main.get_group(app).commands)
