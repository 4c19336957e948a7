"""Does any feature look ahead, or depend on what it did not declare?

The proof changes what must not matter and compares every bit of what must not move, in float64, before
anything is rounded. It plants features that break the rule (canaries) among the real ones; a proof that does
not catch them is itself broken, and fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from features.build import on_one_core
from features.inputs import View, leaves_of
from features.panel import COLUMNS, PRINTED, Panel
from features.sets import fingerprint, get_set
from features.spec import Feature, evaluate, feature
from features.windows import shift
from storage.clock import DAY_NS, iso
from storage.contracts import STATUSES
from storage.errors import LeakError, RangeError
from storage.logs import get_logger

logger = get_logger(__name__)

PROOF_STEPS: Final = 2000
"""A longer panel is proven on its newest steps."""
_CUTS: Final = 4
_MARGIN_STEPS: Final = 8
_ALL: Final = slice(0, None)

Results: TypeAlias = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class ProofResult:
    """What was proven, and on how much.

    Args:
        feature_set: the set; empty for a list of features that has no name.
        fingerprint: the version of the code that was proven.
        seed: of every draw.
        instruments, steps: the size of the panel.
        compared: valid values compared, by check.
        canaries_caught: how often a planted leak was caught; the proof fails where one was missed.
        unproven: features that were nowhere valid on this panel, so that nothing but their mask was compared.
    """

    feature_set: str
    fingerprint: str
    seed: int
    instruments: int
    steps: int
    compared: dict[str, int]
    canaries_caught: int
    unproven: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the result for JSON."""
        return asdict(self) | {"unproven": list(self.unproven)}


@feature(lookback_bars=15, inputs=("log_price",), unit="log", source="planted: it must be caught")
def canary_looks_ahead(log_price: Tensor) -> Tensor:
    """Mean log price of a window centred on the bar.

    Formula: mean of ln p over t-15..t+15

    Missing: no price in the window.
    """
    ahead = pad(log_price, (15, 15), value=math.nan).unfold(1, 31, 1)
    return ahead.nanmean(dim=2)


@feature(lookback_bars=0, inputs=("log_price",), unit="log", source="planted: it must be caught")
def canary_reaches_back(log_price: Tensor) -> Tensor:
    """Log price one bar before the lookback that is declared.

    Formula: ln p[t-32], where 31 bars are declared

    Missing: no price there.
    """
    return shift(log_price, canary_reaches_back.lookback_bars + 1)


def prove(panel: Panel, feature_set: str, *, seed: int) -> ProofResult:
    """Prove a set on a panel; see `prove_features`."""
    return prove_features(panel, get_set(feature_set), seed=seed, feature_set=feature_set)


def prove_features(
    panel: Panel, features: Sequence[Feature], *, seed: int, feature_set: str = ""
) -> ProofResult:
    """Prove that features read what they declare, and nothing else.

    - `future`: everything after a bar is replaced; nothing at or before it moves.
    - `past`: everything older than a feature's lookback is replaced; nothing from the bar on moves.
    - `cut`: a piece of the panel gives the same bits as the whole.
    - `shuffle`: instruments in another order give the same values in that order.
    - `shift`: the clock moved by whole days moves nothing that did not declare the clock.

    Args:
        panel: real bars; its newest `PROOF_STEPS` steps are used.
        seed: of the cuts, the order and what replaces values.

    Raises:
        LeakError: a value moved; it names the feature, the instrument and the bar. Or a canary was missed.
        RangeError: the panel is shorter than the deepest lookback.
    """
    panel = panel.steps(-PROOF_STEPS, None)
    with torch.inference_mode(), on_one_core():
        proof = _Proof(panel, tuple(features), seed)
        compared = {
            "future": proof.future(),
            "past": proof.past(),
            "cut": proof.cut(),
            "shuffle": proof.shuffle(),
            "shift": proof.shift(),
        }
    result = ProofResult(
        feature_set=feature_set,
        fingerprint=fingerprint(tuple(features)),
        seed=seed,
        instruments=panel.n_instruments,
        steps=panel.n_steps,
        compared=compared,
        canaries_caught=proof.caught,
        unproven=tuple(
            item.name for item, (_, mask) in zip(features, proof.before, strict=True) if not bool(mask.any())
        ),
    )
    logger.info("features proven", feature_set=feature_set, unproven=len(result.unproven), **compared)
    return result


class _Proof:
    """The checks on one panel; each returns how many valid values it compared."""

    def __init__(self, panel: Panel, features: tuple[Feature, ...], seed: int) -> None:
        deepest = max(item.lookback_bars for item in (*features, canary_looks_ahead, canary_reaches_back))
        if panel.n_steps < deepest + 2 * _MARGIN_STEPS or not panel.n_instruments:
            raise RangeError(
                f"a panel of {panel.n_instruments} instruments and {panel.n_steps} steps is too small to prove "
                f"features that reach {deepest} bars back; at least {deepest + 2 * _MARGIN_STEPS} steps are needed",
                hint="take a longer range",
            )
        self.caught = 0
        self._panel = panel
        self._features = features
        self._random = torch.Generator().manual_seed(seed)
        self.before = _evaluate(panel, features)
        self._cuts = [self._draw(deepest, panel.n_steps - _MARGIN_STEPS) for _ in range(_CUTS)]

    def future(self) -> int:
        compared = 0
        for cut in self._cuts:
            changed = self._replace(cut + 1, self._panel.n_steps)
            seen, told = slice(0, cut + 1), f"everything after step {cut} was replaced"
            compared += self._must_hold("future", changed, told, seen=seen)
            self._must_catch("future", canary_looks_ahead, changed, seen)
        return compared

    def past(self) -> int:
        compared = 0
        for lookback in sorted({item.lookback_bars for item in self._features}):
            cut = self._draw(lookback + 1, self._panel.n_steps - _MARGIN_STEPS)
            told = f"everything more than {lookback} bars before step {cut} was replaced"
            alike = [i for i, item in enumerate(self._features) if item.lookback_bars == lookback]
            changed = self._replace(0, cut - lookback)
            compared += self._must_hold("past", changed, told, seen=slice(cut, None), places=alike)
        cut, reach = self._cuts[0], canary_reaches_back.lookback_bars
        self._must_catch("past", canary_reaches_back, self._replace(0, cut - reach), slice(cut, None))
        return compared

    def cut(self) -> int:
        compared = 0
        for length in self._cuts:
            start = self._draw(1, self._panel.n_steps - length)
            stop = start + length
            piece, told = self._panel.steps(start, stop), f"the panel was cut to steps {start} to {stop}"
            whole = [(value[:, start:stop], mask[:, start:stop]) for value, mask in self.before]
            compared += self._must_hold("cut", piece, told, before=whole, from_lookback=True)
        return compared

    def shuffle(self) -> int:
        # Each takes the place of the next in a ring, so that none can keep its own by chance.
        ring = torch.randperm(self._panel.n_instruments, generator=self._random)
        order = torch.empty_like(ring)
        order[ring] = ring.roll(1)
        before = [(value[order], mask[order]) for value, mask in self.before]
        told = "the instruments were put in another order"
        return self._must_hold("shuffle", self._panel.select(order.tolist()), told, before=before)

    def shift(self) -> int:
        days = self._draw(1, 400)
        moved = replace(self._panel, ts_open_ns=self._panel.ts_open_ns + days * DAY_NS)
        timeless = [i for i, item in enumerate(self._features) if not item.is_clock]
        return self._must_hold("shift", moved, f"the clock was moved by {days} days", places=timeless)

    def _must_hold(
        self,
        check: str,
        changed: Panel,
        told: str,
        *,
        before: Results | None = None,
        seen: slice = _ALL,
        from_lookback: bool = False,
        places: Sequence[int] | None = None,
    ) -> int:
        """Compare features on the changed panel with what they were; return how many valid values there were."""
        places = range(len(self._features)) if places is None else places
        before, compared = before or self.before, 0
        after = _evaluate(changed, [self._features[i] for i in places])
        for i, new in zip(places, after, strict=True):
            if from_lookback:
                seen = slice(self._features[i].lookback_bars, None)
            if (place := _first_move(before[i], new, seen)) is not None:
                raise _leak(check, self._features[i], changed, place, told)
            compared += int(before[i][1][:, seen].sum())
        return compared

    def _must_catch(self, check: str, canary: Feature, changed: Panel, seen: slice) -> None:
        before, after = _evaluate(self._panel, [canary]), _evaluate(changed, [canary])
        if _first_move(before[0], after[0], seen) is None:
            raise LeakError(
                f"the proof is blind: its check of the {check} did not catch {canary.name}",
                hint="mend features/proof.py before anything else; until then nothing is proven",
                check=check,
                feature=canary.name,
            )
        self.caught += 1

    def _replace(self, start: int, stop: int) -> Panel:
        """Return the panel with everything in the steps `start` to `stop` drawn anew.

        Both edges print, so that whoever reads one bar too far meets a price that moved.
        """
        panel, shape = self._panel, (self._panel.n_instruments, stop - start)
        values = {}
        for name in COLUMNS:
            drawn = 100.0 * torch.exp(torch.randn(shape, generator=self._random, dtype=torch.float64))
            if name != "close":
                drawn[torch.rand(shape, generator=self._random) < 0.1] = math.nan
            values[name] = panel.column(name).clone()
            values[name][:, start:stop] = drawn
        drawn = torch.randint(len(STATUSES), shape, generator=self._random, dtype=torch.uint8)
        drawn[torch.rand(shape, generator=self._random) < 0.5] = PRINTED
        drawn[:, [0, -1]] = PRINTED
        status = panel.status.clone()
        status[:, start:stop] = drawn
        return replace(panel, values=values, status=status)

    def _draw(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self._random))


def _evaluate(panel: Panel, features: Sequence[Feature]) -> Results:
    return evaluate(View(leaves_of(panel)), features, shape=(panel.n_instruments, panel.n_steps))


def _first_move(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], seen: slice
) -> tuple[int, int] | None:
    """Return instrument and step of the earliest value in `seen` whose bits or mask differ, if any."""
    bits = [value.contiguous().view(torch.int64) for value in (before[0], after[0])]
    moved = ((bits[0] != bits[1]) | (before[1] != after[1]))[:, seen]
    if not bool(moved.any()):
        return None
    step, row = moved.t().nonzero()[0].tolist()
    return int(row), int(step) + (seen.start or 0)


def _leak(check: str, item: Feature, panel: Panel, place: tuple[int, int], told: str) -> LeakError:
    row, step = place
    instrument, ts_open_ns = panel.instruments[row], int(panel.ts_open_ns[step])
    return LeakError(
        f"feature {item.name} of {instrument} moved at bar {iso(ts_open_ns)} (step {step}) when {told}",
        hint=f"it declares a lookback of {item.lookback_bars} bars of {', '.join(item.inputs)}; "
        "mend the function or its declaration",
        check=check,
        feature=item.name,
        instrument=instrument,
        ts_open_ns=ts_open_ns,
        step=step,
    )
