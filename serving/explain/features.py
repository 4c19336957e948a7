"""Lineage of a feature value: value, mask, the rows of its window, and when they were knowable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from features.feature import Feature
from features.inputs import InputView, leaves_of
from features.leakage.comparison import evaluate_on
from features.panel.panel import UNKNOWN, Panel, load_panel
from features.sets import columns_of
from serving.explain.bars import find_instrument
from serving.feature_jobs.catalog import columns_read, find_feature
from storage.clock import NS, US_NS, floor_ns, iso, width_ns
from storage.contracts.contract import ORIGINS
from storage.contracts.tables import STATUSES
from storage.lake.lake import Lake
from storage.lake.point_in_time import is_known, known_bars

_MOST_ROWS: Final = 16
_MOST_COLUMNS: Final = 5

_FIRST: Final = """
    SELECT epoch_us(min(ts_open)) * 1000 AS first_ns FROM bars WHERE width = ? AND list_contains(?, origin)
"""
# As in `features.panel.panel.load_panel`: the row that counts of those knowable at the bar's close plus grace.
_ROW: Final = ("ts_open", "ts_close", "revision", "cause", "origin", "ts_knowable_ns")
_IN_TIME: Final = f"""
    instrument = ? AND width = ? AND list_contains(?, origin)
    AND ts_open >= make_timestamptz(?) AND ts_open <= make_timestamptz(?) AND {is_known("served")}
"""
_SERVED: Final = f"""
    SELECT epoch_us(ts_open) * 1000 AS open_ns, epoch_us(ts_close) * 1000 AS close_ns, revision, cause, origin,
           ts_knowable_ns
    FROM ({known_bars(_ROW, where=_IN_TIME)}) ORDER BY ts_open
"""


def explain_cell(lake: Lake, *, feature: str, name: str, at_ns: int, width: str, grace_ns: int) -> list[str]:
    """Return lines of text about a feature's value at the bar that contains a time.

    Args:
        lake: holds the bars.
        feature: its name, in any set.
        name: an instrument id, or the venue's name if only one instrument has it.
        at_ns: a time inside the bar.
        width: width of the bar.
        grace_ns: as in `features.panel.panel.load_panel`.

    Raises:
        SettingsError: there is no such feature.
        InstrumentError: no instrument, or several, have bars under that name.
        RangeError: it has no bar at that time.
    """
    item, step_ns = find_feature(feature), width_ns(width)
    open_ns = floor_ns(at_ns, step_ns)
    instrument = find_instrument(lake, name, width, open_ns)
    # A block starts at the lake's first bar, and is masked where a lookback reaches before it.
    first_ns = lake.query(_FIRST, (width, list(ORIGINS)))["first_ns"][0].as_py()
    since_ns = max(open_ns - item.lookback_bars * step_ns, first_ns or open_ns)
    panel = load_panel(
        lake,
        width=width,
        since_ns=since_ns,
        until_ns=open_ns + step_ns,
        joined=columns_of([item]),
        grace_ns=grace_ns,
    )
    row = panel.instruments.index(instrument)
    bounds = (since_ns // US_NS, open_ns // US_NS)
    revisions = lake.query(_SERVED, (instrument, width, list(ORIGINS), *bounds, grace_ns)).to_pylist()
    served = {found["open_ns"]: found for found in revisions}
    with torch.inference_mode():
        return list(_lines(item, panel, row, served))


def _lines(item: Feature, panel: Panel, row: int, served: dict[int, dict[str, Any]]) -> Iterator[str]:
    [(values, masks)] = evaluate_on(panel, [item])
    value, is_known = float(values[row, -1]), bool(masks[row, -1])
    last_ns = int(panel.ts_open_ns[-1])
    yield f"{panel.instruments[row]}, bar {iso(last_ns)} to {iso(int(panel.ts_close_ns[-1]))}"
    yield f"{item.name}: {item.summary}"
    text = f"{value:.12g} {item.unit}; mask 1 (known)" if is_known else "mask 0 (missing); a model reads 0"
    yield f"  value     {text}"
    yield f"  formula   {item.formula}"
    yield f"  missing   {item.missing}"
    influential = _influential_steps(item, panel, row)
    yield f"  knowable  {_knowable(panel, served, influential)}"
    yield f"  inputs    {', '.join(_inputs(item, panel, row))}"
    yield f"  window    {_window(item, panel, row)}"
    if others := _others(item, panel, row):
        yield f"  others    {others}"
    yield from _rows(item, panel, row, served, influential)


def _influential_steps(item: Feature, panel: Panel, row: int) -> set[int]:
    """Return the steps of the window whose removal, one at a time, changes the value."""
    [before] = evaluate_on(panel, [item])
    influential = set()
    for step in range(panel.n_steps):
        status = panel.status.clone()
        status[row, step] = UNKNOWN
        without = replace(panel, status=status, values=_without(panel, row, step))
        [after] = evaluate_on(without, [item])
        if any(bool(a[row, -1] != b[row, -1]) for a, b in zip(before, after, strict=True)):
            influential.add(step)
    return influential


def _without(panel: Panel, row: int, step: int) -> dict[str, torch.Tensor]:
    values = {name: value.clone() for name, value in panel.values.items()}
    for value in values.values():
        value[row, step] = torch.nan
    return values


def _knowable(panel: Panel, served: dict[int, dict[str, Any]], influential: set[int]) -> str:
    """Return when the last of the rows that determine the value, including the bar's own, became knowable."""
    steps = influential | {panel.n_steps - 1}
    rows = [found for step in steps if (found := served.get(int(panel.ts_open_ns[step]))) is not None]
    if not rows:
        return "never in time: no row of the window was knowable at its close plus the grace period"
    last_ns = max(found["ts_knowable_ns"] for found in rows)
    after_s = (last_ns - int(panel.ts_close_ns[-1])) / NS
    return f"{iso(last_ns)} (close {after_s:+,.3f} s), the latest of the {len(rows)} rows that determine the value"


def _inputs(item: Feature, panel: Panel, row: int) -> Iterator[str]:
    """Yield the function's inputs at the bar itself."""
    view = InputView(leaves_of(panel))
    for name in item.inputs:
        given = view[name].expand(panel.status.shape)[row, -1]
        yield f"{name} {_figure(float(given))}"


def _window(item: Feature, panel: Panel, row: int) -> str:
    counted = Counter(STATUSES[int(code)] for code in panel.status[row])
    statuses = ", ".join(f"{status} {counted[status]}" for status in STATUSES if counted[status])
    short = item.lookback_bars + 1 - panel.n_steps
    cut = f"; {short} more would be before the lake's first bar, so the value is missing" if short > 0 else ""
    return f"{panel.n_steps} bars since {iso(int(panel.ts_open_ns[0]))}: {statuses}{cut}"


def _others(item: Feature, panel: Panel, row: int) -> str:
    """Return how the other instruments affect the value, or nothing if they do not."""
    [(values, masks)] = evaluate_on(panel, [item])
    [(alone, known)] = evaluate_on(panel.select([row]), [item])
    if bool(masks[row, -1] == known[0, -1]) and bool(values[row, -1] == alone[0, -1]):
        return ""
    value_alone = f"{float(alone[0, -1]):.12g}" if bool(known[0, -1]) else "missing"
    count = panel.n_instruments - 1
    return f"it also reads the {count} other instruments of the panel; without them the value would be {value_alone}"


def _rows(
    item: Feature, panel: Panel, row: int, served: dict[int, dict[str, Any]], influential: set[int]
) -> Iterator[str]:
    """Yield the newest rows of the window, preferring those that change the value."""
    columns = [name for name in columns_read(item) if name in panel.values][:_MOST_COLUMNS]
    chosen = sorted(influential, reverse=True)[:_MOST_ROWS]
    chosen += [step for step in range(panel.n_steps - 1, -1, -1) if step not in influential][
        : _MOST_ROWS - len(chosen)
    ]
    yield f"rows of the window; removing one marked * changes the value ({len(influential)} of {panel.n_steps}):"
    yield _row_text("bar", "status", "revision", "knowable", columns)
    for step in sorted(chosen):
        open_ns = int(panel.ts_open_ns[step])
        found = served.get(open_ns)
        lag = (
            "not in time"
            if found is None
            else f"{(found['ts_knowable_ns'] - found['close_ns']) / NS:+,.3f} s"
        )
        yield _row_text(
            ("*" if step in influential else " ") + iso(open_ns),
            STATUSES[int(panel.status[row, step])],
            "" if found is None else f"{found['revision']} {found['origin']}",
            lag,
            [_figure(float(panel.values[name][row, step])) for name in columns],
        )
    if panel.n_steps > len(chosen):
        yield f"  and {panel.n_steps - len(chosen)} more"


def _row_text(bar: str, status: str, revision: str, knowable: str, figures: Sequence[str]) -> str:
    return f"  {bar:>26} {status:9} {revision:14} {knowable:>12} " + " ".join(
        f"{item:>14}" for item in figures
    )


def _figure(value: float) -> str:
    return "none" if value != value else f"{value:.8g}"
