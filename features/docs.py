"""The generated page docs/features.md."""

from __future__ import annotations

import sys
from typing import Final

from features.feature import Feature, deepest_lookback
from features.sets import FEATURE_SETS

_PURPOSE: Final = {
    "candles": "What candle history carries: prices and volume, without prints, sides, quotes or contexts.",
    "live": "What the recorder sees of every perp: the candle set, then sides, prints, quotes and contexts.",
    "wide": "All there is: the live set, then more of each family and what only some recordings hold: books of a "
    "cadence, payments, relays and sessions.",
}
_HEAD: Final = """\
# Features

<!-- Written by `python -m features.docs`; change the declarations in features/, not this page. -->

A feature is a small torch function over a panel of bars; it looks back only, and the proof of that
(`features/leakage/perturbation.py`) runs on every retraining night.
Bars are steps of the clock, so a window of 30 bars of one minute is half an hour whether or not anything printed.

What a missing print looks like:

- A bar that was watched throughout is `printed` or `quiet`; every other status is missing, and a feature that
  needs it is masked, never zero.
- A quiet bar is proven silence: volume, flow and prints are zero, and the last price is carried through it, at
  most 31 bars, with its age beside it.
- A quote, a context, a book, a payment or a relay's lag counts until it is older than its limit; its age stands
  beside it.
- No price is carried over a hole, and no one-bar return spans one.
- A window is known where at least 80 % of its bars were observed.
- A step whose lookback reaches before the panel is masked, so no value depends on where a panel was cut.

The lookback is in bars before the bar itself, and includes how far a carried price may reach back.
"""


def describe_sets() -> str:
    """Return the page that lists every set and every feature, in Markdown."""
    lines = [_HEAD]
    for name, features in FEATURE_SETS.items():
        deepest = deepest_lookback(features)
        lines += [
            f"## Set `{name}`",
            "",
            f"{_PURPOSE[name]}",
            f"{len(features)} features, {deepest} bars deep.",
            "",
        ]
        lines += ["| # | feature | unit | lookback, bars | inputs |", "|---|---|---|---|---|"]
        lines += [
            f"| {place} | `{item.name}` | {item.unit} | {item.lookback_bars} | {', '.join(item.inputs)} |"
            for place, item in enumerate(features)
        ]
        lines.append("")
    lines += [
        "## Definitions",
        "",
        "| feature | what | formula | missing | source |",
        "|---|---|---|---|---|",
    ]
    told: dict[str, list[Feature]] = {}
    for item in {item.name: item for features in FEATURE_SETS.values() for item in features}.values():
        told.setdefault(item.function.__qualname__, []).append(item)
    for members in told.values():
        first = members[0]
        names = ", ".join(f"`{item.name}`" for item in members)
        cells = (names, first.summary, first.formula, first.missing, first.source)
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(describe_sets())
