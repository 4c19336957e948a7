"""Command `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.context import Format, console, print_rows, settings_of

if TYPE_CHECKING:
    from training.evaluation.metrics import Estimate


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(compare)


def compare(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="A night (its challenger), or NIGHT:MODEL.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; the figures are B less A.")],
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Tell whether B is better than A: does a feature, a model or a setting help?

    Both are compared on the test rows and in the periods that they share. Intervals (95 %) come from blocks of time
    that are drawn for both at once. Whoever compares often finds something by chance: what counts is the gate.

    Example: `tickwalk compare candles-1a2b3c4d5e6f:ridge candles-1a2b3c4d5e6f:mlp`
    """
    from storage.clock import HOUR_NS, iso
    from training.night.comparison import compare_models

    found = compare_models(settings_of(context), a, b)
    unit = "hour" if found.period_ns == HOUR_NS else "day"
    rows = [
        _row("IC", found.ic, found.answer(found.ic)),
        _row(f"net a {unit}", found.net, found.answer(found.net)),
    ]
    if form != "table":
        facts: dict[str, Any] = {
            name: getattr(found, name) for name in ("a", "b", "rows", "only_a", "only_b", "periods")
        }
        print_rows([facts | row for row in rows], form, columns=(), numeric=set())
        return
    console.print(f"A  {found.a}\nB  {found.b}", highlight=False, markup=False)
    span = f"{iso(found.since_ns)[:16]} to {iso(found.until_ns)[:16]}" if found.rows else "no rows"
    console.print(
        f"{found.rows:,} test rows of both, {span}; left out: {found.only_a:,} of A, {found.only_b:,} of B; "
        f"{found.periods} {unit}s",
        highlight=False,
        markup=False,
    )
    if not found.same_labels:
        console.print("Their labels differ, so their ICs cannot be compared.", highlight=False)
    print_rows(
        rows,
        form,
        columns=("figure", "b_less_a", "low", "high", "answer"),
        numeric={"b_less_a", "low", "high"},
    )


def _row(name: str, figure: Estimate, answer: str) -> dict[str, Any]:
    shown = {"b_less_a": figure.value, "low": figure.low, "high": figure.high}
    return {
        "figure": name,
        **{key: None if value != value else round(value, 6) for key, value in shown.items()},
        "answer": answer,
    }
