"""Audit of what a night reads: its universe, the revisions of its bars, and its labels, each against its definition.

The proofs of features (features/leakage/) change data that must not matter. This audit does not: it states in a few
lines what each input must be, and compares. It shares no code with what it checks, so that a mistake there does not
hide itself.

- *Universe*: the instruments with a bar that was known by its close plus the grace, delisted ones too.
- *Revisions*: of bars with rows that became known later, every value stands in a row that was known in time.
- *Labels*: the return from entry to exit by the clocks of the recipe, over a scale that needs no later bar.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from features.panel.panel import AMOUNTS, CONTEXTS, PRICES, QUOTES, UNKNOWN, Panel
from storage.clock import US_NS, iso
from storage.contracts.tables import STATUSES
from storage.errors import LeakError
from storage.lake.lake import Lake
from storage.lake.point_in_time import CLOCKS, Basis
from training.data.labels import BASIS_MID, LabelRule, Labels, prices_at_close, trailing_scale
from training.recipe import Recipe

INPUT_AUDIT: Final = "input_audit.json"
_COLUMNS: Final = (*PRICES, *AMOUNTS, *QUOTES, *CONTEXTS)
_LATE_BARS: Final = 5_000
_SCALE_CUTS: Final = 4
_TOLERANCE: Final = 1e-5
"""Of a label, which is float32; relative, and absolute in units of volatility."""


@dataclass(frozen=True, slots=True)
class InputAudit:
    """Number of instruments, bars with later rows, and labels that were compared."""

    instruments: int
    late_bars: int
    labels: int

    def to_dict(self) -> dict[str, int]:
        """Return the value of `input_audit.json`."""
        return asdict(self)


def check_universe(panel: Panel, lake: Lake, recipe: Recipe, *, at: int, grace_ns: int) -> int:
    """Compare the instruments of a night with those that had a bar in time; return their number.

    A recipe's own list of instruments is the user's choice, of which nothing can be known; of it too, every instrument
    with a bar must be there.

    Raises:
        LeakError: the universe is another.
    """
    rows = lake.query(
        "SELECT instrument, epoch_us(min(ts_open)) AS first_us, epoch_us(max(ts_open)) AS last_us FROM bars "
        "WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?) "
        "AND list_contains(?, origin) AND ts_knowable_ns <= epoch_us(ts_close) * 1000 + ? "
        "GROUP BY instrument ORDER BY instrument",
        (*_bounds(panel, recipe), grace_ns),
        at=at,
    ).to_pylist()
    known = {row["instrument"]: row for row in rows}
    if recipe.instruments:
        known = {name: row for name, row in known.items() if name in recipe.instruments}
    else:
        known = {name: row for name, row in known.items() if recipe.accepts(name)}
    hint = "a universe may use no later knowledge; check how the night chooses its instruments (open_night)"
    for name in sorted(set(known) - set(panel.instruments)):
        first, last = (iso(known[name][key] * US_NS) for key in ("first_us", "last_us"))
        raise LeakError(
            f"the universe is from the future: {name} had bars from {first} to {last} and is left out, although "
            "nobody knew at their time what would become of it",
            hint=hint,
            check="universe",
            instrument=name,
        )
    for name in sorted(set(panel.instruments) - set(known)):
        raise LeakError(
            f"the universe is from the future: {name} is in it, and no bar of it was known by its close plus the grace",
            hint=hint,
            check="universe",
            instrument=name,
        )
    return len(known)


def check_revisions(
    panel: Panel, lake: Lake, recipe: Recipe, *, at: int, grace_ns: int, rows: Basis = "served"
) -> int:
    """Compare bars that have later rows with their rows that were known in time; return the number of such bars.

    Of more than 5,000 bars with later rows, as many are drawn by the hash of their key.

    Args:
        panel: the bars.
        lake: has all rows.
        recipe: width and origins.
        at: snapshot of the lake.
        grace_ns: from a bar's close until it must be known.
        rows: whose clock says what was known.

    Raises:
        LeakError: a value stands in no row that was known in time.
    """
    columns = [name for name in _COLUMNS if name in panel.values]
    found = lake.query(
        f"""
        WITH rows AS (
            SELECT instrument, ts_open, status, {", ".join(columns)},
                {CLOCKS[rows]} <= epoch_us(ts_close) * 1000 + ? AS is_timely
            FROM bars WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
                AND list_contains(?, origin) AND list_contains(?, instrument)
        ), late AS (
            SELECT DISTINCT instrument, ts_open FROM rows WHERE NOT is_timely
            ORDER BY hash(instrument, ts_open), instrument, ts_open LIMIT {_LATE_BARS}
        )
        SELECT epoch_us(ts_open) AS open_us, rows.* EXCLUDE (ts_open)
        FROM rows SEMI JOIN late USING (instrument, ts_open)
        """,
        (grace_ns, *_bounds(panel, recipe), list(panel.instruments)),
        at=at,
    )
    if not found.num_rows:
        return 0
    place = {name: row for row, name in enumerate(panel.instruments)}
    row = np.array([place[str(name)] for name in found["instrument"].to_pylist()])
    step = (found["open_us"].to_numpy() * US_NS - panel.ts_open_ns[0]) // panel.width_ns
    cell, bar = np.unique(row * panel.n_steps + step, return_inverse=True)
    timely = np.array(found["is_timely"].to_pylist(), dtype=bool)
    status = np.array([STATUSES.index(name) for name in found["status"].to_pylist()])
    here = panel.status.flatten().numpy()[cell]
    _require_known(panel, cell, here == UNKNOWN, bar, timely & (status == here[bar]), "status")
    for name in columns:
        value = found[name].to_numpy(zero_copy_only=False).astype(np.float64)
        here = panel.column(name).flatten().numpy()[cell]
        _require_known(panel, cell, np.isnan(here), bar, timely & (value == here[bar]), name)
    return len(cell)


def _require_known(
    panel: Panel, cell: np.ndarray, is_nothing: np.ndarray, bar: np.ndarray, agrees: np.ndarray, column: str
) -> None:
    """Require that each bar says nothing, or what one of its timely rows says."""
    is_known = is_nothing | (np.bincount(bar, weights=agrees, minlength=len(cell)) > 0)
    if is_known.all():
        return
    row, step = divmod(int(cell[~is_known][0]), panel.n_steps)
    instrument, ts_open_ns = panel.instruments[row], int(panel.ts_open_ns[step])
    raise LeakError(
        f"a revision is from the future: {column} of {instrument} at {iso(ts_open_ns)} stands in no row of that bar "
        f"that was known by its close plus the grace, and so do {int((~is_known).sum()) - 1} more bars",
        hint="check the conditions by which features.panel.panel.load_panel chooses rows",
        check="revisions",
        instrument=instrument,
        ts_open_ns=ts_open_ns,
        column=column,
    )


def _bounds(panel: Panel, recipe: Recipe) -> tuple[Any, ...]:
    """Return width, bounds of `ts_open` in microseconds, and origins."""
    bounds = int(panel.ts_open_ns[0]) // US_NS, int(panel.ts_close_ns[-1]) // US_NS
    return (recipe.width, *bounds, list(recipe.origins))


def check_labels(panel: Panel, labels: Labels, rule: LabelRule, *, grace_ns: int) -> int:
    """Compare labels with the definition of the recipe's rule; return the number of labels.

    Raises:
        LeakError: a clock, a label or the scale of a label is another.
    """
    enter = _check_clocks(panel, labels, rule, grace_ns)
    leave, n_steps = enter + rule.horizon_bars, panel.n_steps
    mid = (panel.column("bid") + panel.column("ask")) / 2
    returns = np.full(labels.mask.shape, np.nan)
    for row in range(panel.n_instruments):
        steps = torch.nonzero(labels.mask[row]).squeeze(-1)
        if len(steps) and int(steps[-1]) + leave >= n_steps:
            raise _label_error(
                panel, row, int(steps[-1]), "has a label, and its exit lies behind the last bar"
            )
        is_mid = labels.basis[row, steps] == BASIS_MID
        ends = [
            torch.where(is_mid, mid[row, steps + bars], panel.column("close")[row, steps + bars])
            for bars in (enter, leave)
        ]
        returns[row, steps.numpy()] = torch.log(ends[1] / ends[0]).numpy()
    if rule.target == "excess":
        returns -= _market(returns)
    for row in range(panel.n_instruments):
        steps = torch.nonzero(labels.mask[row]).squeeze(-1)
        expected = returns[row, steps.numpy()] / labels.scale[row, steps].numpy()
        given = labels.label[row, steps].to(torch.float64).numpy()
        differs = ~np.isclose(given, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
        if differs.any():
            at = int(np.flatnonzero(differs)[0])
            raise _label_error(
                panel,
                row,
                int(steps[at]),
                f"has the label {given[at]:+.4f}, and the return from its entry {enter} bars later to its exit "
                f"{leave} bars later is {expected[at]:+.4f} in units of its volatility",
            )
    _check_scale(panel, labels, rule)
    return int(labels.mask.sum())


def _market(returns: np.ndarray) -> np.ndarray:
    """Return the mean of the labelled returns of each step, (T,)."""
    count = np.isfinite(returns).sum(axis=0)
    mean: np.ndarray = np.nansum(returns, axis=0) / np.maximum(count, 1)
    return mean


def _check_clocks(panel: Panel, labels: Labels, rule: LabelRule, grace_ns: int) -> int:
    """Compare the clocks of all steps, and return the bars from a close to the entry of its label."""
    wait_ns, enter = grace_ns + rule.delay_ms * 1_000_000, 1
    while enter * panel.width_ns < wait_ns:
        enter += 1
    start_ns = panel.ts_close_ns + enter * panel.width_ns
    clocks = {
        "decision": (labels.ts_decided_ns, panel.ts_close_ns + grace_ns),
        "entry": (labels.ts_span_start_ns, start_ns),
        "exit": (labels.ts_span_end_ns, start_ns + rule.horizon_bars * panel.width_ns),
    }
    for name, (given, expected) in clocks.items():
        if not np.array_equal(given, expected):
            step = int(np.flatnonzero(given != expected)[0])
            raise LeakError(
                f"the labels leak: the {name} of the bar at {iso(int(panel.ts_open_ns[step]))} is at "
                f"{iso(int(given[step]))}, and the recipe puts it at {iso(int(expected[step]))}",
                hint="purging and embargo use these clocks; check training/data/labels.py",
                check="labels",
            )
    return enter


def _check_scale(panel: Panel, labels: Labels, rule: LabelRule) -> None:
    """Compare the scale at some steps with that of the bars up to them alone."""
    for cut in np.linspace(0, panel.n_steps - 1, _SCALE_CUTS + 1).astype(int)[1:].tolist():
        known = panel.steps(max(cut - 2 * rule.volatility_bars, 0), cut + 1)
        expected = trailing_scale(prices_at_close(known), rule)[:, -1].numpy()
        given = labels.scale[:, cut].numpy()
        differs = ~((given == expected) | (np.isnan(given) & np.isnan(expected)))
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            raise _label_error(
                panel, row, cut, f"is scaled by {given[row]:g}, and the bars up to it give {expected[row]:g}"
            )


def _label_error(panel: Panel, row: int, step: int, what: str) -> LeakError:
    instrument, ts_open_ns = panel.instruments[row], int(panel.ts_open_ns[step])
    return LeakError(
        f"the labels leak: the bar of {instrument} at {iso(ts_open_ns)} {what}",
        hint="a label is the return after the decision, over the volatility known then; check training/data/labels.py",
        check="labels",
        instrument=instrument,
        ts_open_ns=ts_open_ns,
    )
