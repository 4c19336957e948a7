"""Markdown reference of all recipe keys, generated from the docstrings for docs/recipes.md."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Final, get_type_hints

from training.recipe import RECIPES, Recipe

_INTRODUCTION: Final = """\
# Recipes

<!-- Generated: python -m training.recipe_docs > docs/recipes.md -->

A recipe is the whole configuration of a night: data, labels, folds, models, costs.
It has a name, or is a TOML file that names another recipe as its `base` and gives the keys that differ:

```toml
base = "candles"
name = "candles-2h"
[label]
horizon_bars = 24
[position]
hold_bars = 24
```

`tickwalk recipes list` lists the built-in recipes and those of your [project folder](project.md).
`tickwalk recipes show NAME` prints one with all of its keys.
`tickwalk recipes check FILE` checks a file: an unknown key is refused with the nearest known one.
It also says whether the home's data fits the recipe, and what it lacks; without a file it checks every recipe.

`candles` is for imported candle history, `hyperliquid-1m` for what the recorder stores of Hyperliquid, `gaiaex-mid` for
GaiaEx, which has no trade feed (its features and labels are those of mids), and `demo` for the simulated market.
A night that names no recipe uses that of the setting `training.recipe`, or else the only one but `demo` that fits.

An empty value means that the recipe does not set the key."""
# One or more names, a colon, and a text that goes on in lines with a deeper indent.
_ARGUMENT: Final = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)

_PARTS: Final = frozenset(name for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind))
"""Fields of the recipe that are tables of their own."""


def describe_recipes() -> str:
    """Return the reference: one table of keys for the recipe and for each of its parts."""
    return "\n\n".join((_INTRODUCTION, *_sections())) + "\n"


def _sections() -> Iterator[str]:
    hints = get_type_hints(Recipe)
    parts = {item.name: hints[item.name] for item in fields(Recipe) if is_dataclass(hints[item.name])}
    yield _section("## Keys of the recipe", Recipe, "", skipped=set(parts))
    for name, kind in parts.items():
        yield _section(f"## `[{name}]`", kind, name, skipped=set())


def _section(heading: str, kind: Any, part: str, *, skipped: set[str]) -> str:
    """Return the table of a dataclass's keys.

    Args:
        heading: of the section.
        kind: the dataclass.
        part: its key in the recipe; empty for the recipe itself.
        skipped: fields with a section of their own.
    """
    summary = (inspect.getdoc(kind) or "").partition("\n")[0]
    described = _arguments(kind)
    lines = [
        heading,
        "",
        summary,
        "",
        f"| key | meaning | {' | '.join(RECIPES)} |",
        f"|---|---|{'---|' * len(RECIPES)}",
    ]
    for item in fields(kind):
        if item.name not in skipped:
            values = [
                getattr(getattr(recipe, part) if part else recipe, item.name) for recipe in RECIPES.values()
            ]
            shown = " | ".join("" if value is None else f"`{json.dumps(value)}`" for value in values)
            lines.append(f"| `{item.name}` | {described[item.name]} | {shown} |")
    return "\n".join(lines)


def _arguments(kind: Any) -> dict[str, str]:
    """Return what a docstring says of each field, which may share a line with others.

    Raises:
        ValueError: the docstring leaves a field out.
    """
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2]
    found = {}
    for names, said in _ARGUMENT.findall(text):
        sentence = " ".join(said.split()).replace("|", "\\|")
        for name in names.split(", "):
            found[name] = sentence
    if missing := [item.name for item in fields(kind) if item.name not in found and item.name not in _PARTS]:
        raise ValueError(f"the docstring of {kind.__name__} does not describe {', '.join(missing)}")
    return found


if __name__ == "__main__":
    sys.stdout.write(describe_recipes())
