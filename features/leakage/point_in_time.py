"""Does anything in a panel, or in its features, come from what was not yet knowable?

The proof on a panel (features/leakage/perturbation.py) cannot see a label that was merged into a column before the
panel was made. This one begins in the lake: it hides every row that became knowable after a bar's grace, loads the
panel anew from what is left, by the same code, and nothing at or before that bar may move. A loader that joins with
the wrong sign of a shift reads rows that are hidden now.

What no hiding can find is a row that lies about when it was knowable. For that, each feature is compared with the
returns that come after it: nobody foretells a return to the last digit.
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
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake.lake import Lake

logger = get_logger(__name__)

Load: TypeAlias = "Callable[[Lake], Panel]"
"""Makes a panel of a lake, as it is made for training: the same range, width, snapshot and joins."""

HORIZONS: Final = (1, 5, 15, 60)
"""Bars ahead over which a feature is compared with the return that came."""
CERTAIN: Final = 0.99
"""Rank correlation with a later return from which on a feature is that return.

Honest features stay far below: the bounce between bid and ask makes returns foretell half of the next at most
(Roll, 1984), and a relay's quote foretells its source's copy to some 0.9."""
SUSPECT: Final = 0.8
"""From here on a person should look; a label scaled by volatility lies here."""
_LEAST_PAIRS: Final = 200
_MOST_INSTRUMENTS: Final = 16
_CUTS: Final = 3
_TRIES: Final = 24


@dataclass(frozen=True, slots=True)
class PointInTimeResult:
    """What was proven from the lake.

    Args:
        seed: of the cuts.
        cuts: bars (open, ISO 8601) after whose grace everything was hidden.
        compared: valid values compared with those of the reduced lake.
        foretold: pairs of a feature and a later return that were compared.
        canaries_caught: how often a planted label was caught.
        suspects: (feature, bars ahead, rank correlation) of features that foretell suspiciously well.
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
    """A lake from which everything that became knowable after an instant is hidden, whatever is asked of it."""

    def __init__(self, lake: Lake, known_at_ns: int) -> None:
        self._lake = lake
        self._known_at_ns = known_at_ns

    def query(self, sql: str, params: Sequence[object] = (), *, at: int | None = None) -> pa.Table:
        """Run a query on what was known."""
        return self._lake.query(sql, params, at=at, known_at_ns=self._known_at_ns)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)


def prove_point_in_time(
    lake: Lake, load: Load, features: Sequence[Feature], *, grace_ns: int, seed: int
) -> PointInTimeResult:
    """Prove that nothing at or before a bar reads a row of the lake that became knowable after its grace.

    A panel whose column `open_interest` holds the return of the coming bars is planted beside the real one, and
    must be caught.

    Args:
        lake: holds the rows.
        load: makes the panel; it is given lakes with ever less in them. Where it insists on instruments, a cut
            before one of them began is left out.
        features: what is computed on it.
        grace_ns: of `load`.
        seed: of the cuts.

    Raises:
        LeakError: a value moved, or is a later return; it names feature, instrument and bar. Or a planted label
            was missed.
        RangeError: no bar is left to cut at.
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
                known = load(cast("Lake", PointInTimeLake(lake, known_at_ns)))
            except (InstrumentError, RangeError):
                continue  # the loader insists on an instrument, or a range, that was not there yet
            compared += _must_hold(panel, before, known, features, cut)
            _must_catch(planted, _with_label(known), cut)
            cuts.append(iso(int(panel.ts_open_ns[cut])))
            caught += 1
        if not cuts:
            raise RangeError(
                f"nothing is left of {panel.n_steps} steps to prove from the lake", hint="take a longer range"
            )
        foretold, suspects = _refuse_labels(panel, before, features)
    logger.info("hindsight proven", cuts=len(cuts), compared=compared, suspects=len(suspects))
    return PointInTimeResult(seed, tuple(cuts), compared, foretold, caught, suspects)


def _steps_to_cut(panel: Panel, random: torch.Generator) -> list[int]:
    """Return steps in a drawn order that have a price at them and at the next: a label of one bar is there to hide."""
    there = torch.isfinite(panel.column("close"))
    inside = (there[:, :-1] & there[:, 1:]).any(dim=0).nonzero().flatten()
    return [int(step) for step in inside[torch.randperm(len(inside), generator=random)][:_TRIES]]


def _must_hold(panel: Panel, before: Results, known: Panel, features: Sequence[Feature], cut: int) -> int:
    """Compare the features of a panel of the reduced lake with those of the whole, up to a step."""
    start = int((known.ts_open_ns[0] - panel.ts_open_ns[0]) // panel.width_ns)
    rows = [panel.instruments.index(name) for name in known.instruments]
    stop = min(cut + 1, start + known.n_steps)
    told = f"all that became knowable after step {cut} was hidden in the lake"
    compared = 0
    for item, whole, new in zip(features, before, evaluate_on(known, features), strict=True):
        # A panel that begins later because its first rows are hidden is masked where the lookback is missing.
        seen = slice(item.lookback_bars if start else 0, stop - start)
        held = (whole[0][rows, start:stop], whole[1][rows, start:stop])
        place = first_difference((held[0][:, seen], held[1][:, seen]), (new[0][:, seen], new[1][:, seen]))
        if place is not None:
            raise leak_error("hindsight", item, known, (place[0], place[1] + seen.start), told)
        compared += int(held[1][:, seen].sum())
    return compared


def _with_label(panel: Panel) -> Panel:
    """Return the panel with the return of the coming bars merged into a column, as a join with a wrong sign does."""
    close = panel.column("close")
    ahead = torch.full_like(close, torch.nan)
    ahead[:, : -HORIZONS[0]] = torch.log(close[:, HORIZONS[0] :] / close[:, : -HORIZONS[0]])
    return replace(panel, values=panel.values | {"open_interest": ahead})


def _must_catch(planted: Panel, known: Panel, cut: int) -> None:
    start = int((known.ts_open_ns[0] - planted.ts_open_ns[0]) // planted.width_ns)
    rows = [planted.instruments.index(name) for name in known.instruments]
    stop = min(cut + 1, start + known.n_steps)
    whole = planted.column("open_interest")[rows, start:stop]
    left = known.column("open_interest")[:, : stop - start]
    held, found = ((torch.nan_to_num(part), torch.isfinite(part)) for part in (whole, left))
    if first_difference(held, found) is None:
        raise missed_canary_error("lake", "a label that was merged into a column")


# What foretells too well.


def _refuse_labels(
    panel: Panel, before: Results, features: Sequence[Feature]
) -> tuple[int, tuple[tuple[str, int, float], ...]]:
    """Compare every feature with the returns that come after it; refuse one that is such a return."""
    price = log_mid(panel)[:_MOST_INSTRUMENTS]
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
                raise _label(item, panel, (worst, step), bars, found)
            if abs(found) >= SUSPECT:
                suspects.append((item.name, bars, round(found, 4)))
    return compared, tuple(suspects)


def log_mid(panel: Panel) -> Tensor:
    """Return the log of the closing mid, or, for an instrument without quotes, of the bar's own last print.

    Never a carried print: a quote beside a stale print foretells the next print without any leak.
    """
    view = InputView(leaves_of(panel))
    mid = torch.log((view["bid"] + view["ask"]) / 2.0)
    quoted = torch.isfinite(mid).any(dim=1, keepdim=True)
    printed = torch.where(panel.status == PRINTED, torch.log(panel.column("close")), torch.nan)
    return torch.where(quoted, mid, printed)


def rank_correlation(x: Tensor, y: Tensor, there: Tensor) -> tuple[Tensor, int]:
    """Return Spearman's correlation of each row over the pairs that are there, ties broken by order.

    Args:
        x, y: (S, T) float64.
        there: (S, T) bool.

    Returns:
        (S,) float64, 0.0 for a row with fewer than 200 pairs or without spread; and how many pairs were used.
    """
    there = there & torch.isfinite(x) & torch.isfinite(y)
    found = torch.zeros(len(x), dtype=torch.float64)
    used = 0
    for row in range(len(x)):
        if int(there[row].sum()) < _LEAST_PAIRS:
            continue
        pair = torch.stack((x[row][there[row]], y[row][there[row]]))
        if bool((pair.amin(dim=1) == pair.amax(dim=1)).any()):
            continue
        ranks = pair.argsort(dim=1, stable=True).argsort(dim=1).to(torch.float64)
        found[row] = torch.corrcoef(ranks)[0, 1]
        used += pair.shape[1]
    return found, used


def _label(item: Feature, panel: Panel, place: tuple[int, int], bars: int, found: float) -> LeakError:
    row, step = place
    instrument, ts_open_ns = panel.instruments[row], int(panel.ts_open_ns[step])
    return LeakError(
        f"feature {item.name} of {instrument} is the return of the {bars} bars after it: their ranks agree to "
        f"{found:+.3f}, from bar {iso(ts_open_ns)} (step {step}) on",
        hint=f"one of its inputs ({', '.join(item.inputs)}) holds what only the future knew; look at how that "
        "column gets into the lake",
        check="foretold",
        feature=item.name,
        instrument=instrument,
        ts_open_ns=ts_open_ns,
        step=step,
    )
