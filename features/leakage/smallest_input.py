"""The smallest input that shows a leak: bars of few instruments, steps and columns, as a Parquet file.

A failed proof changed data that must not matter, and a value moved. The same can be shown on less: the value is
computed on the bars of the file, and on those bars without what must not matter. Bars, instruments and columns are left
out as long as it still moves.

    from features.leakage.smallest_input import reproduce
    print(reproduce("leak-my_feature.parquet"))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.build import single_thread
from features.feature import Feature
from features.leakage.comparison import evaluate_on, first_difference
from features.leakage.point_in_time import CERTAIN, HORIZONS, log_mid, rank_correlation
from features.panel.panel import Panel, panel_from_table
from features.sets import columns_of, feature_sets
from storage.clock import DAY_NS, NS, US_NS, iso
from storage.contracts.tables import SESSIONS, STATUSES
from storage.errors import ContractError, LeakError
from storage.logs import get_logger

logger = get_logger(__name__)

_KEY: Final = b"tickwalk"
_SCALED: Final = 1.5


@dataclass(frozen=True, slots=True)
class LeakCase:
    """One value that moves with what must not matter.

    Args:
        feature: its name.
        feature_set: the set that has it.
        change: what is changed; a key of `_CHANGES`, or `foretold`.
        instrument, ts_open_ns: the value's bar.
    """

    feature: str
    feature_set: str
    change: str
    instrument: str
    ts_open_ns: int

    def step(self, panel: Panel) -> int:
        """Return the step of the value's bar."""
        return int((self.ts_open_ns - panel.ts_open_ns[0]) // panel.width_ns)


def _without_later(panel: Panel, step: int, _: int) -> tuple[Panel, int]:
    return panel.steps(0, step + 1), step


def _later_scaled(panel: Panel, step: int, _: int) -> tuple[Panel, int]:
    return _scaled(panel, slice(step + 1, None)), step


def _without_earlier(panel: Panel, step: int, lookback: int) -> tuple[Panel, int]:
    first = max(step - lookback, 0)
    return panel.steps(first, None), step - first


def _earlier_scaled(panel: Panel, step: int, lookback: int) -> tuple[Panel, int]:
    return _scaled(panel, slice(0, max(step - lookback, 0))), step


def _reversed(panel: Panel, step: int, _: int) -> tuple[Panel, int]:
    return panel.select(range(panel.n_instruments - 1, -1, -1)), step


def _days_later(panel: Panel, step: int, _: int) -> tuple[Panel, int]:
    return replace(panel, ts_open_ns=panel.ts_open_ns + 3 * DAY_NS), step


def _scaled(panel: Panel, steps: slice) -> Panel:
    values = {name: value.clone() for name, value in panel.values.items()}
    for value in values.values():
        value[:, steps] *= _SCALED
    return replace(panel, values=values)


_CHANGES: Final[dict[str, tuple[str, Callable[[Panel, int, int], tuple[Panel, int]]]]] = {
    "without later bars": ("future", _without_later),
    "later bars scaled": ("future", _later_scaled),
    "without bars before the lookback": ("past", _without_earlier),
    "bars before the lookback scaled": ("past", _earlier_scaled),
    "instruments reversed": ("shuffle", _reversed),
    "clock moved by days": ("shift", _days_later),
}
_FORETOLD: Final = "foretold"


def write_smallest_input(
    error: LeakError, panel: Panel, features: Sequence[Feature], feature_set: str, folder: Path
) -> LeakError:
    """Write the smallest input that shows a leak, and return the error with its path.

    An error that no bars alone can show, such as a missed canary or a join that reads later rows of the lake, is
    returned as it is.

    Args:
        error: of a failed proof.
        panel: the bars of the proof.
        features: the set's features.
        feature_set: its name.
        folder: where the file is written.
    """
    named = {item.name: item for item in features}
    item = named.get(str(error.facts.get("feature")))
    if item is None or error.facts.get("instrument") not in panel.instruments:
        return error
    with torch.inference_mode(), single_thread():
        case = next(_cases(error, panel, item, feature_set), None)
        if case is None:
            return error
        small = _shrink(panel, case, item)
        path = folder / f"leak-{item.name}.parquet"
        _write(path, small, case)
    logger.info(
        "smallest input written", path=str(path), instruments=small.n_instruments, steps=small.n_steps
    )
    bars = small.n_instruments * small.n_steps
    return LeakError(
        error.message,
        hint=f"{error.hint}; {bars} bars that show it are in {path}, try: python -c "
        f"\"from features.leakage.smallest_input import reproduce; print(reproduce('{path}'))\"",
        **error.facts | {"input": str(path)},
    )


def reproduce(path: str | Path, *, feature: Feature | None = None) -> str:
    """Return what moves on the bars of a file, in a sentence.

    Args:
        path: a file of `write_smallest_input`.
        feature: the feature (default: the one of that name in the sets of this release and of the user's project).

    Raises:
        ContractError: the file is none of these, or no set has the feature.
        LeakError: never; a leak that is gone is a sentence too.
    """
    table = pq.read_table(path)
    kept = (table.schema.metadata or {}).get(_KEY)
    if kept is None:
        raise ContractError(f"{path} shows no leak", hint="pass a file that a failed proof wrote")
    facts: dict[str, Any] = json.loads(kept)
    width = facts.pop("width")
    case = LeakCase(**facts)
    panel = panel_from_table(table, width=width)
    item = feature or _find(case)
    with torch.inference_mode(), single_thread():
        found = _values(panel, case, item)
    where = f"{case.feature} of {case.instrument} at {iso(case.ts_open_ns)}"
    if case.change == _FORETOLD:
        is_leaking = _moves(panel, case, item)
        return f"{where} {'is' if is_leaking else 'is not'} a return of the bars after it"
    if not _moves(panel, case, item):
        return f"{where} is {found[0]} with and without the change ({case.change}): no leak"
    return f"{where} is {found[0]}, and {found[1]} when changed ({case.change})"


def _find(case: LeakCase) -> Feature:
    for features in feature_sets().values():
        for item in features:
            if item.name == case.feature:
                return item
    raise ContractError(
        f"no feature set has the feature {case.feature!r}",
        hint="run it in the directory of the project that defines it",
    )


def _cases(error: LeakError, panel: Panel, item: Feature, feature_set: str) -> Iterator[LeakCase]:
    """Yield cases that show the leak on the whole panel, the likeliest first."""
    check = str(error.facts.get("check"))
    start = LeakCase(
        item.name, feature_set, _FORETOLD, str(error.facts["instrument"]), int(str(error.facts["ts_open_ns"]))
    )
    if check == _FORETOLD:
        if _moves(panel, start, item):
            yield start
        return
    changes = sorted(_CHANGES, key=lambda name: _CHANGES[name][0] != check)
    before = evaluate_on(panel, [item])[0]
    for change in changes:
        # The bar of the error first; any bar of which the change must not matter may show it better.
        for step in dict.fromkeys((start.step(panel), panel.n_steps // 2, panel.n_steps - 9)):
            if not 0 <= step < panel.n_steps:
                continue
            changed, at = _CHANGES[change][1](panel, step, item.lookback_bars)
            after = evaluate_on(changed, [item])[0]
            order = [panel.instruments.index(name) for name in changed.instruments]
            place = first_difference(
                (before[0][order][:, step : step + 1], before[1][order][:, step : step + 1]),
                (after[0][:, at : at + 1], after[1][:, at : at + 1]),
            )
            if place is not None:
                name, opens_ns = changed.instruments[place[0]], int(panel.ts_open_ns[step])
                yield replace(start, change=change, instrument=name, ts_open_ns=opens_ns)


def _values(panel: Panel, case: LeakCase, item: Feature) -> tuple[str, str]:
    """Return the value with and without the change as text."""
    step = case.step(panel)
    if case.instrument not in panel.instruments or not 0 <= step < panel.n_steps:
        return "", ""
    if case.change == _FORETOLD:
        return "", ""
    changed, at = _CHANGES[case.change][1](panel, step, item.lookback_bars)
    found = []
    for bars, place in ((panel, step), (changed, at)):
        value, mask = evaluate_on(bars, [item])[0]
        row = bars.instruments.index(case.instrument)
        found.append(f"{float(value[row, place]):.17g}" if bool(mask[row, place]) else "unknown")
    return found[0], found[1]


def _moves(panel: Panel, case: LeakCase, item: Feature) -> bool:
    """Return whether the value moves on these bars."""
    if case.change == _FORETOLD:
        return case.instrument in panel.instruments and _is_foretold(panel, case, item)
    found = _values(panel, case, item)
    return found[0] != found[1]


def _is_foretold(panel: Panel, case: LeakCase, item: Feature) -> bool:
    row = [panel.instruments.index(case.instrument)]
    price, (value, mask) = log_mid(panel)[row], evaluate_on(panel, [item])[0]
    for bars in HORIZONS:
        if bars < panel.n_steps:
            ahead = price[:, bars:] - price[:, :-bars]
            known = mask[row, :-bars] & (ahead.abs() > 0.0)
            agreed, _ = rank_correlation(value[row, :-bars], ahead, known)
            if float(agreed.abs().max()) >= CERTAIN:
                return True
    return False


def _shrink(panel: Panel, case: LeakCase, item: Feature) -> Panel:
    """Return a part of the panel that still shows the leak, and of which nothing more can be left out."""
    panel = replace(
        panel,
        values={
            name: value for name, value in panel.values.items() if name in columns_of([item]) | {"close"}
        },
    )
    size = -1
    while size != (size := panel.n_instruments * panel.n_steps * (len(panel.values) + 1)):
        for smaller in (_fewer_instruments, _fewer_steps, _fewer_columns):
            panel = smaller(panel, lambda part: _moves(part, case, item))
    return panel


def _fewer_steps(panel: Panel, moves: Callable[[Panel], bool]) -> Panel:
    for side in (0, 1):
        count = panel.n_steps // 2
        while count:
            if count < panel.n_steps:
                part = panel.steps(count, None) if side == 0 else panel.steps(0, panel.n_steps - count)
                if moves(part):
                    panel = part
                    continue
            count //= 2
    return panel


def _fewer_instruments(panel: Panel, moves: Callable[[Panel], bool]) -> Panel:
    row = 0
    while row < panel.n_instruments and panel.n_instruments > 1:
        part = panel.select([other for other in range(panel.n_instruments) if other != row])
        panel, row = (part, row) if moves(part) else (panel, row + 1)
    return panel


def _fewer_columns(panel: Panel, moves: Callable[[Panel], bool]) -> Panel:
    for name in list(panel.values):
        part = replace(panel, values={other: value for other, value in panel.values.items() if other != name})
        if moves(part):
            panel = part
    return panel


def _write(path: Path, panel: Panel, case: LeakCase) -> None:
    count = panel.n_steps
    columns: dict[str, Any] = {
        "instrument": np.repeat(panel.instruments, count),
        "ts_open": pa.array(
            np.tile(panel.ts_open_ns // US_NS, panel.n_instruments), pa.timestamp("us", "UTC")
        ),
        "status": np.array(STATUSES)[panel.status.flatten().numpy()],
    }
    for name, value in panel.values.items():
        flat = value.flatten().numpy()
        if name == "session":
            known = np.isfinite(flat)
            columns[name] = [
                SESSIONS[int(code)] if ok else None for code, ok in zip(flat, known, strict=True)
            ]
        else:
            columns[name] = pa.array(flat, from_pandas=True)
    facts = {
        "feature": case.feature,
        "feature_set": case.feature_set,
        "change": case.change,
        "instrument": case.instrument,
        "ts_open_ns": case.ts_open_ns,
        "width": f"{panel.width_ns // NS}s",
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
