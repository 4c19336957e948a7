"""Point-in-time proof: no panel or feature uses rows of the lake that were not yet knowable.

The proof on a panel (features/leakage/perturbation.py) cannot detect a label that was merged into a column before the
panel was made. This proof starts at the lake: it hides every row that became knowable after a bar's grace, reloads the
panel from the rest with the same code, and requires every value at or before that bar to be unchanged. A loader that
joins with the wrong sign of a shift would have read rows that are now hidden.

Hiding rows cannot detect a row with a wrong `ts_knowable`. For that, each feature is compared with the returns that
follow it: no honest feature predicts a return to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import pyarrow as pa
import torch
from torch import Tensor

from features.build import single_thread
from features.feature import Feature
from features.inputs import InputView, leaves_of
from features.leakage.comparison import (
    Results,
    evaluate_on,
    first_difference,
    leak_error,
    missed_canary_error,
)
from features.panel.panel import PRINTED, Panel
from storage.clock import iso
from storage.errors import InstrumentError, LeakError, RangeError
from storage.lake.point_in_time import Basis
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake.lake import Lake

logger = get_logger(__name__)

Load: TypeAlias = "Callable[[Lake], Panel]"
"""Loads a panel from a lake exactly as for training: same range, width, snapshot and joins."""

HORIZONS: Final = (1, 5, 15, 60)
"""Horizons in bars over which a feature is compared with the following return."""
CERTAIN: Final = 0.99
"""Rank correlation with a later return from which on a feature is considered to be that return.

Honest features stay far below: the bid-ask bounce lets a return predict at most half of the next (Roll, 1984), and a
relay's quote predicts its source's copy with about 0.9."""
SUSPECT: Final = 0.8
"""Rank correlation that a person should investigate; a label scaled by volatility reaches it."""
_MIN_PAIRS: Final = 200
_MAX_INSTRUMENTS: Final = 16
_CUTS: Final = 3
_TRIES: Final = 24


@dataclass(frozen=True, slots=True)
class PointInTimeResult:
    """Outcome of a point-in-time proof.

    Args:
        seed: seed of the cuts.
        cuts: bars (open, ISO 8601) after whose grace everything was hidden.
        compared: number of valid values compared with those of the reduced lake.
        foretold: number of pairs of a feature value and a later return that were compared.
        canaries_caught: number of times a planted label was caught.
        suspects: (feature, bars ahead, rank correlation) of features that predict returns suspiciously well.
    """

    seed: int
    cuts: tuple[str, ...]
    compared: int
    foretold: int
    canaries_caught: int
    suspects: tuple[tuple[str, int, float], ...]

    def to_dict(self) -> dict[str, object]:
        """Return the result for JSON."""
        return asdict(self) | {"cuts": list(self.cuts), "suspects": [list(item) for item in self.suspects]}


class PointInTimeLake:
    """A view of a lake that hides everything that became known after an instant, in every query.

    Bars are hidden by the clock of the basis by which they are read, all other rows by `ts_knowable`.
    """

    def __init__(self, lake: Lake, known_at_ns: int, rows: Basis = "served") -> None:
        self._lake = lake
        self._known_at_ns = known_at_ns
        self._rows = rows

    def query(self, sql: str, params: Sequence[object] = (), *, at: int | None = None) -> pa.Table:
        """Run a query on the visible rows."""
        return self._lake.query(sql, params, at=at, known_at_ns=self._known_at_ns, rows=self._rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)


def prove_point_in_time(
    lake: Lake,
    load: Load,
    features: Sequence[Feature],
    *,
    grace_ns: int,
    seed: int,
    rows: Basis = "served",
) -> PointInTimeResult:
    """Prove that no value at or before a bar uses a row of the lake that became knowable after the bar's grace.

    A second panel, whose column `open_interest` holds the return of the following bars, is planted and must be caught.

    Args:
        lake: holds the rows.
        load: loads the panel; called with views that hide a part of the lake. If it requires instruments that a view
            does not have yet, that cut is skipped.
        features: the features to prove.
        grace_ns: the grace that `load` uses.
        seed: seed of the cuts.
        rows: the basis by which `load` reads bars.

    Raises:
        LeakError: a value changed, or is a later return; it names feature, instrument and bar. Or a planted label was
            missed.
        RangeError: there is no bar to cut at.
    """
    panel = load(lake)
    random = torch.Generator().manual_seed(seed)
    with torch.inference_mode(), single_thread():
        before, planted = evaluate_on(panel, features), _with_label(panel)
        cuts, compared, caught = [], 0, 0
        for cut in _steps_to_cut(panel, random):
            if caught == _CUTS:
                break
            known_at_ns = int(panel.ts_close_ns[cut]) + grace_ns
            try:
                known = load(cast("Lake", PointInTimeLake(lake, known_at_ns, rows)))
            except (InstrumentError, RangeError):
                continue  # the loader requires an instrument, or a range, that did not exist yet
            compared += _require_unchanged(panel, before, known, features, cut)
            _require_caught(planted, _with_label(known), cut)
            cuts.append(iso(int(panel.ts_open_ns[cut])))
            caught += 1
        if not cuts:
            raise RangeError(
                f"none of {panel.n_steps} steps can be proven from the lake", hint="use a longer range"
            )
        foretold, suspects = _refuse_labels(panel, before, features)
    logger.info("point in time proven", cuts=len(cuts), compared=compared, suspects=len(suspects))
    return PointInTimeResult(seed, tuple(cuts), compared, foretold, caught, suspects)


def _steps_to_cut(panel: Panel, random: torch.Generator) -> list[int]:
    """Return random steps with a price at the step and the next, where a one-bar label exists that can be hidden."""
    priced = torch.isfinite(_label_price(panel))
    inside = (priced[:, :-1] & priced[:, 1:]).any(dim=0).nonzero().flatten()
    return [int(step) for step in inside[torch.randperm(len(inside), generator=random)][:_TRIES]]


def _require_unchanged(
    panel: Panel, before: Results, known: Panel, features: Sequence[Feature], cut: int
) -> int:
    """Compare the features of the reduced lake's panel with those of the full one, up to a step."""
    start = int((known.ts_open_ns[0] - panel.ts_open_ns[0]) // panel.width_ns)
    rows = [panel.instruments.index(name) for name in known.instruments]
    stop = min(cut + 1, start + known.n_steps)
    event = f"all that became knowable after step {cut} was hidden in the lake"
    compared = 0
    for item, whole, new in zip(features, before, evaluate_on(known, features), strict=True):
        # A panel that starts later because its first rows are hidden is masked over the lookback.
        seen = slice(item.lookback_bars if start else 0, stop - start)
        expected = (whole[0][rows, start:stop], whole[1][rows, start:stop])
        place = first_difference(
            (expected[0][:, seen], expected[1][:, seen]), (new[0][:, seen], new[1][:, seen])
        )
        if place is not None:
            raise leak_error("hindsight", item, known, (place[0], place[1] + seen.start), event)
        compared += int(expected[1][:, seen].sum())
    return compared


def _with_label(panel: Panel) -> Panel:
    """Return the panel with the following returns merged into a column, as by a join with the wrong sign."""
    price = _label_price(panel)
    ahead = torch.full_like(price, torch.nan)
    ahead[:, : -HORIZONS[0]] = torch.log(price[:, HORIZONS[0] :] / price[:, : -HORIZONS[0]])
    return replace(panel, values=panel.values | {"open_interest": ahead})


def _label_price(panel: Panel) -> Tensor:
    """Return closes, and for instruments that never print (GaiaEx has no trade feed) the mid of the closing quotes."""
    close = panel.column("close")
    mid = (panel.column("bid") + panel.column("ask")) / 2.0
    return torch.where(torch.isfinite(close).any(dim=1, keepdim=True), close, mid)


def _require_caught(planted: Panel, known: Panel, cut: int) -> None:
    start = int((known.ts_open_ns[0] - planted.ts_open_ns[0]) // planted.width_ns)
    rows = [planted.instruments.index(name) for name in known.instruments]
    stop = min(cut + 1, start + known.n_steps)
    whole = planted.column("open_interest")[rows, start:stop]
    reduced = known.column("open_interest")[:, : stop - start]
    before, after = ((torch.nan_to_num(part), torch.isfinite(part)) for part in (whole, reduced))
    if first_difference(before, after) is None:
        raise missed_canary_error("lake", "a label that was merged into a column")


# Features that predict later returns too well.


def _refuse_labels(
    panel: Panel, before: Results, features: Sequence[Feature]
) -> tuple[int, tuple[tuple[str, int, float], ...]]:
    """Compare every feature with the returns that follow it; raise if one is such a return."""
    price = log_mid(panel)[:_MAX_INSTRUMENTS]
    compared, suspects = 0, []
    for item, (value, mask) in zip(features, before, strict=True):
        for bars in HORIZONS:
            if bars >= panel.n_steps:
                continue
            ahead = price[:, bars:] - price[:, :-bars]
            agreed, pairs = rank_correlation(
                value[: len(price), :-bars], ahead, mask[: len(price), :-bars] & (ahead.abs() > 0.0)
            )
            compared += pairs
            worst = int(agreed.abs().argmax()) if len(agreed) else 0
            found = float(agreed[worst]) if len(agreed) else 0.0
            if abs(found) >= CERTAIN:
                step = int(mask[worst].nonzero()[0])
                raise _label_error(item, panel, (worst, step), bars, found)
            if abs(found) >= SUSPECT:
                suspects.append((item.name, bars, round(found, 4)))
    return compared, tuple(suspects)


def log_mid(panel: Panel) -> Tensor:
    """Return the log of the closing mid, or, for an instrument without quotes, of the bar's own last print.

    Carried prices are not used: relative to a stale print, a quote predicts the next print without any leak.
    """
    view = InputView(leaves_of(panel))
    mid = torch.log((view["bid"] + view["ask"]) / 2.0)
    quoted = torch.isfinite(mid).any(dim=1, keepdim=True)
    printed = torch.where(panel.status == PRINTED, torch.log(panel.column("close")), torch.nan)
    return torch.where(quoted, mid, printed)


def rank_correlation(x: Tensor, y: Tensor, present: Tensor) -> tuple[Tensor, int]:
    """Return Spearman's correlation of each row over the present pairs, ties broken by order.

    Args:
        x, y: (S, T) float64.
        present: (S, T) bool.

    Returns:
        (S,) float64, 0.0 for a row with fewer than 200 pairs or without variation; and the number of pairs used.
    """
    present = present & torch.isfinite(x) & torch.isfinite(y)
    found = torch.zeros(len(x), dtype=torch.float64)
    used = 0
    for row in range(len(x)):
        if int(present[row].sum()) < _MIN_PAIRS:
            continue
        pair = torch.stack((x[row][present[row]], y[row][present[row]]))
        if bool((pair.amin(dim=1) == pair.amax(dim=1)).any()):
            continue
        ranks = pair.argsort(dim=1, stable=True).argsort(dim=1).to(torch.float64)
        found[row] = torch.corrcoef(ranks)[0, 1]
        used += pair.shape[1]
    return found, used


def _label_error(item: Feature, panel: Panel, place: tuple[int, int], bars: int, found: float) -> LeakError:
    row, step = place
    instrument, ts_open_ns = panel.instruments[row], int(panel.ts_open_ns[step])
    return LeakError(
        f"feature {item.name} of {instrument} is the return of the {bars} bars after it: their ranks agree to "
        f"{found:+.3f}, from bar {iso(ts_open_ns)} (step {step}) on",
        hint=f"one of its inputs ({', '.join(item.inputs)}) contains future information; check how that column "
        "gets into the lake",
        check="foretold",
        feature=item.name,
        instrument=instrument,
        ts_open_ns=ts_open_ns,
        step=step,
    )
