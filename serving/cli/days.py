"""Commands `seal` and `quality`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from serving.cli.context import console, notes, print_rows, settings_of


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(seal)
    app.command()(quality)


def seal(
    context: typer.Context,
    day: Annotated[str, typer.Argument(help="UTC day that is over, such as 2026-11-22.")],
    accept: Annotated[
        bool, typer.Option("--accept", help="Seal it although its validation finds bars that break a rule.")
    ] = False,
) -> None:
    """Repair, certify and validate a UTC day, and write its coverage.

    Sealing a day again adds nothing. What the venue's API no longer serves stays missing.

    Example: `tickwalk seal 2026-11-22`
    """
    from serving.day_jobs.seal import seal_day

    with notes.status(f"sealing {day}"):
        done = seal_day(settings_of(context), day, accept=accept)
    coverage = done["coverage"]
    states = ", ".join(f"{coverage[name]} {name}" for name in ("complete", "repaired", "partial", "missing"))
    console.print(f"{day}: {coverage['instruments']} instruments, {states}", highlight=False)
    console.print(
        f"hours     {coverage['covered_h']:,g} covered, {coverage['missing_h']:,g} missing, of which the venue "
        f"still serves {coverage['repairable_h']:,g}",
        highlight=False,
    )
    console.print(f"certified {done['certified']:,} bars; {done['differ']:,} differ", highlight=False)
    for line in done["lacking"]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if "failed" in done["repair"]:
        notes.print(f"not repaired: {done['repair']['failed']}", highlight=False, markup=False)
    if done["archive"]:
        notes.print(f"in the paid archive, if anywhere: {done['archive']}", highlight=False, markup=False)


def quality(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="First day, UTC; default: a week ago.")] = None,
    until: Annotated[str | None, typer.Option(help="End, exclusive; default: now.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, see docs/quality.md.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of --json.")] = False,
) -> None:
    """Coverage, incidents, latency and open gaps by instrument and day.

    Prints the sealed days; `--json` has the rest too, in a documented schema.

    Example: `tickwalk quality --since 2026-11-01 --json`
    """
    import json

    from serving.day_jobs.quality import quality_schema, read_quality
    from storage.clock import parse_time_ns

    if schema:
        sys.stdout.write(json.dumps(quality_schema(), indent=1) + "\n")
        return
    found = read_quality(
        settings_of(context),
        since_ns=parse_time_ns(since) if since else None,
        until_ns=parse_time_ns(until) if until else None,
    )
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
        return
    rows = [_row(day) for day in found["days"]]
    if rows:
        print_rows(
            rows, "table", columns=list(rows[0]), numeric={name for name in rows[0] if name.endswith("_h")}
        )
    else:
        notes.print("no day is sealed yet: run tickwalk seal DAY, or start Airflow", highlight=False)
    open_h = sum(gap["hours"] for gap in found["open_gaps"])
    fillable_h = sum(gap["hours"] for gap in found["open_gaps"] if gap["is_repairable"])
    notes.print(
        f"{len(found['incidents']):,} incidents; {open_h:,.2f} instrument-hours are missing, of which "
        f"{fillable_h:,.2f} can still be filled: tickwalk backfill gaps",
        highlight=False,
    )


def _row(day: dict[str, Any]) -> dict[str, Any]:
    causes = ", ".join(f"{name} {hours:.2f}" for name, hours in day["causes"].items())
    figures = {"missing_h": day["missing_h"], "fillable_h": day["repairable_h"]}
    return {name: day[name] for name in ("day", "instrument", "state")} | figures | {"causes": causes}
