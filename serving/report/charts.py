"""Inline SVG charts: elements, scales, ticks and lines, with text of constant size.

A picture fills the width of its container. Rectangles, ticks and text are placed in percent of the width; lines are in
a nested `<svg>` of 1000 units that is stretched to it, with strokes that do not scale. Heights are pixels. So the page
is readable on a phone, on a screen and on paper. All data passes through `markupsafe`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from storage.clock import DAY_NS, NS

WIDTH: Final = 1000.0
"""Units across a stretched picture."""

_MINUTE_NS: Final = 60 * NS
_STEPS_NS: Final = (
    *(n * _MINUTE_NS for n in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)),
    *(n * DAY_NS for n in (1, 2, 3, 7, 14, 28, 56, 112, 364)),
)


def el(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element; text and attributes are escaped, an attribute of `None` is omitted.

    A trailing underscore is dropped from an attribute's name (`class_`), others become hyphens.

    >>> el("text", "a < b", class_="note", x=1.50)
    Markup('<text class="note" x="1.5">a &lt; b</text>')
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{number(value) if isinstance(value, float) else escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{attribute_text}>{inner}</{name}>" if inner else f"<{name}{attribute_text}/>")  # noqa: S704 - escaped above


def number(value: float) -> str:
    """Return a coordinate with at most two decimals, the same on every machine.

    >>> [number(v) for v in (3.0, 0.126, -0.001)]
    ['3', '0.13', '0']
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def percent(share: float) -> str:
    """Return a share of the width as a CSS percentage.

    >>> percent(0.12345)
    '12.35%'
    """
    return f"{number(100 * share)}%"


def picture(*children: object, height: float, label: str, class_: str = "") -> Markup:
    """Return an `<svg>` of full width; `label` is its text for screen readers and its tooltip."""
    return el(
        "svg",
        el("title", label),
        *children,
        class_=f"pic {class_}".strip(),
        width="100%",
        height=float(height),
        role="img",
        aria_label=label,
    )


def stretched(*children: object, height: float) -> Markup:
    """Return a layer for lines: `WIDTH` units wide, and pixels high."""
    return el(
        "svg",
        *children,
        width="100%",
        height=float(height),
        viewBox=f"0 0 {number(WIDTH)} {number(height)}",
        preserveAspectRatio="none",
    )


def block(start: float, stop: float, *, top: float, height: float, class_: str, title: str = "") -> Markup:
    """Return a rectangle between two shares of the width."""
    return el(
        "rect",
        *([el("title", title)] if title else []),
        class_=class_,
        x=percent(start),
        y=float(top),
        width=percent(max(stop - start, 0)),
        height=float(height),
    )


def sliver(start: float, stop: float, *, top: float, height: float, class_: str, title: str = "") -> Markup:
    """Return a rectangle between two shares of the width that is at least 2 pixels wide.

    It has a stroke of 2 pixels in its own colour at the edge `start`; if `start` exceeds `stop`, that is the right one.
    """
    left, right = min(start, stop), max(start, stop)
    edge = el("line", x1=percent(start), x2=percent(start), y1=float(top), y2=float(top + height))
    return el(
        "g",
        *([el("title", title)] if title else []),
        block(left, right, top=top, height=height, class_="zone"),
        edge,
        class_=class_,
    )


@dataclass(frozen=True, slots=True)
class Linear:
    """A scale from values to a share of the length; `low` and `high` differ."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], *, include: Sequence[float] = (), pad: float = 0.04) -> Linear:
        """Return a scale that covers all finite values and `include`, padded at both ends."""
        known = [value for value in (*values, *include) if math.isfinite(value)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        margin = (high - low) * pad or max(abs(high) * pad, 1e-9)
        return cls(low - margin, high + margin)

    def share(self, value: float) -> float:
        """Return the position of a value, 0 to 1 within the scale."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Return at most `most` round values within the scale.

        >>> Linear(-0.3, 1.02).ticks(4)
        [0.0, 0.5, 1.0]
        """
        raw = (self.high - self.low) / max(most, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100):
            step = factor * power
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            if last - first + 1 <= most:
                return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]
        return [0.0]


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """A scale from times to a share of the width."""

    start_ns: int
    stop_ns: int

    def share(self, at_ns: int) -> float:
        """Return the position of a time, 0 to 1 within the axis."""
        return (at_ns - self.start_ns) / max(self.stop_ns - self.start_ns, 1)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return at most `most` round times as (share, text), as dates if the steps are days."""
        fitting = [step for step in _STEPS_NS if (self.stop_ns - self.start_ns) / step <= most]
        step = fitting[0] if fitting else _STEPS_NS[-1] * 4
        first = -(-self.start_ns // step)
        found = range(first * step, self.stop_ns + 1, step)
        return [(self.share(at), _tick_text(at, step)) for at in found]


def time_ticks(axis: TimeAxis, *, height: float = 18.0, most: int = 6) -> Markup:
    """Return the labels of a time axis, placed under a picture."""
    marks = [
        el("text", text, x=percent(share), y=13.0, text_anchor=_anchor(share), class_="tick")
        for share, text in axis.ticks(most)
    ]
    return el("svg", *marks, class_="pic", width="100%", height=float(height), aria_hidden="true")


def value_ticks(scale: Linear, texts: Sequence[tuple[float, str]], *, height: float = 18.0) -> Markup:
    """Return the labels of a horizontal value axis, placed under a picture."""
    marks = [
        el(
            "text",
            text,
            x=percent(scale.share(at)),
            y=13.0,
            text_anchor="middle",
            class_="tick",
        )
        for at, text in texts
    ]
    return el("svg", *marks, class_="pic", width="100%", height=float(height), aria_hidden="true")


def rules_down(shares: Iterable[float], *, height: float) -> Markup:
    """Return vertical grid lines at shares of the width."""
    lines = [
        el("line", x1=percent(share), x2=percent(share), y1=0.0, y2=float(height), class_="grid")
        for share in shares
    ]
    return Markup("").join(lines)


def rules_across(downs: Iterable[float]) -> Markup:
    """Return horizontal grid lines at pixels from the top."""
    lines = [el("line", x1="0", x2="100%", y1=down, y2=down, class_="grid") for down in downs]
    return Markup("").join(lines)


def texts_at_left(marks: Iterable[tuple[float, str]]) -> Markup:
    """Return the labels of horizontal grid lines, at the left and above everything drawn."""
    texts = [el("text", text, x=0.0, y=down - 3, class_="tick over") for down, text in marks]
    return Markup("").join(texts)


def path(points: Iterable[tuple[float, float]], *, class_: str, title: str = "") -> Markup:
    """Return a line through points (share of the width, pixels from the top); a non-finite point breaks it."""
    parts: list[str] = []
    is_pen_down = False
    for share, down in points:
        if not (math.isfinite(share) and math.isfinite(down)):
            is_pen_down = False
            continue
        parts.append(f"{'L' if is_pen_down else 'M'}{share * WIDTH:.0f} {number(round(down, 1))}")
        is_pen_down = True
    children = [el("title", title)] if title else []
    return el("path", *children, class_=class_, d="".join(parts))


def _anchor(share: float) -> str:
    return "start" if share < 0.03 else "end" if share > 0.97 else "middle"


def _tick_text(at_ns: int, step_ns: int) -> str:
    moment = datetime.fromtimestamp(at_ns // NS, UTC)
    if step_ns >= DAY_NS or at_ns % DAY_NS == 0:
        return f"{moment:%m-%d}"
    return f"{moment:%H:%M}"
