"""Perturbation proof that no feature looks ahead or depends on undeclared data.

The proof changes data that must not matter and compares the features bit by bit, in float64, before rounding to
float32. It adds features that break the rule (canaries); a proof that misses one is itself broken, and fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import torch

from features.build import single_thread
from features.feature import Feature, deepest_lookback
from features.leakage.canaries import canary_looks_ahead, canary_reaches_back, canary_remembers
from features.leakage.comparison import (
    ALL,
    Results,
    evaluate_on,
    first_difference,
    leak_error,
    missed_canary_error,
)
from features.leakage.parity import check_parity
from features.panel.panel import COLUMNS, PRINTED, Panel
from features.sets import get_set
from features.versioning.fingerprint import fingerprint
from storage.clock import DAY_NS
from storage.contracts.tables import STATUSES
from storage.errors import RangeError
from storage.logs import get_logger

logger = get_logger(__name__)

PROOF_STEPS: Final = 2000
"""Number of newest steps of a longer panel that are used."""
_CUTS: Final = 4
_MARGIN_STEPS: Final = 8
_NIGHTS: Final = 5
_LIVE_STEPS: Final = 24


@dataclass(frozen=True, slots=True)
class ProofResult:
    """Outcome of a proof.

    Args:
        feature_set: the set; empty for an unnamed list of features.
        fingerprint: version of the proven code.
        seed: seed of all random choices.
        instruments, steps: size of the panel.
        compared: number of valid values compared, by check.
        canaries_caught: number of times a planted leak was caught; the proof fails if one is missed.
        unproven: features without a valid value on this panel, of which only the mask was compared.
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


def prove(panel: Panel, feature_set: str, *, seed: int) -> ProofResult:
    """Prove a set on a panel (`prove_features`), and check the parity of built and live values (parity.py).

    Raises:
        LeakError: a value changed or differs; it names the feature, the instrument and the bar. Or a canary was missed.
        RangeError: the panel is shorter than the deepest lookback.
    """
    panel = panel.steps(-PROOF_STEPS, None)
    result = prove_features(panel, get_set(feature_set), seed=seed, feature_set=feature_set)
    return replace(result, compared=result.compared | check_parity(panel, feature_set))


def prove_features(
    panel: Panel, features: Sequence[Feature], *, seed: int, feature_set: str = ""
) -> ProofResult:
    """Prove that features read what they declare, and nothing else.

    - `future`: everything after a bar is replaced; no value at or before it changes.
    - `past`: everything older than a feature's lookback is replaced; no value from the bar on changes.
    - `cut`: a part of the panel gives the same bits as the whole.
    - `blocks`: so do consecutive nights, each computed from its own new bars and the lookback before them.
    - `stream`: so do single bars, each computed from itself and the lookback before it, as in live scoring.
    - `shuffle`: instruments in another order give the same values in that order.
    - `shift`: moving the clock by whole days changes only features that declare the clock.

    Args:
        panel: real bars; its newest `PROOF_STEPS` steps are used.
        seed: seed of the cuts, the order and the replacement values.

    Raises:
        LeakError: a value changed; it names the feature, the instrument and the bar. Or a canary was missed.
        RangeError: the panel is shorter than the deepest lookback.
    """
    panel = panel.steps(-PROOF_STEPS, None)
    with torch.inference_mode(), single_thread():
        proof = _Proof(panel, tuple(features), seed)
        compared = {
            "future": proof.future(),
            "past": proof.past(),
            "cut": proof.cut(),
            "blocks": proof.blocks(),
            "stream": proof.stream(),
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
    """Checks on one panel; each returns the number of valid values compared."""

    def __init__(self, panel: Panel, features: tuple[Feature, ...], seed: int) -> None:
        canaries = (canary_looks_ahead, canary_reaches_back, canary_remembers)
        deepest = deepest_lookback((*features, *canaries))
        if panel.n_steps < deepest + 2 * _MARGIN_STEPS or not panel.n_instruments:
            raise RangeError(
                f"a panel of {panel.n_instruments} instruments and {panel.n_steps} steps is too small to prove "
                f"features that reach {deepest} bars back; at least {deepest + 2 * _MARGIN_STEPS} steps are needed",
                hint="use a longer range",
            )
        self.caught = 0
        self._panel = panel
        self._features = features
        self._deepest = deepest
        self._random = torch.Generator().manual_seed(seed)
        self.before = evaluate_on(panel, features)
        self._cuts = [self._draw(deepest, panel.n_steps - _MARGIN_STEPS) for _ in range(_CUTS)]

    def future(self) -> int:
        compared = 0
        for cut in self._cuts:
            changed = self._replace(cut + 1, self._panel.n_steps)
            seen, event = slice(0, cut + 1), f"everything after step {cut} was replaced"
            compared += self._require_unchanged("future", changed, event, seen=seen)
            self._require_caught("future", canary_looks_ahead, changed, seen)
        return compared

    def past(self) -> int:
        compared = 0
        for lookback in sorted({item.lookback_bars for item in self._features}):
            cut = self._draw(lookback + 1, self._panel.n_steps - _MARGIN_STEPS)
            event = f"everything more than {lookback} bars before step {cut} was replaced"
            indices = [i for i, item in enumerate(self._features) if item.lookback_bars == lookback]
            changed = self._replace(0, cut - lookback)
            compared += self._require_unchanged("past", changed, event, seen=slice(cut, None), places=indices)
        cut, reach = self._cuts[0], canary_reaches_back.lookback_bars
        self._require_caught("past", canary_reaches_back, self._replace(0, cut - reach), slice(cut, None))
        return compared

    def cut(self) -> int:
        compared = 0
        for length in self._cuts:
            start = self._draw(1, self._panel.n_steps - length)
            stop = start + length
            piece, event = self._panel.steps(start, stop), f"the panel was cut to steps {start} to {stop}"
            whole = [(value[:, start:stop], mask[:, start:stop]) for value, mask in self.before]
            compared += self._require_unchanged("cut", piece, event, before=whole, from_lookback=True)
        return compared

    def blocks(self) -> int:
        edges = torch.linspace(0, self._panel.n_steps, _NIGHTS + 1).to(torch.int64).tolist()
        spans = [(int(start), int(stop)) for start, stop in itertools.pairwise(edges)]
        return self._piecewise("blocks", spans, "it was computed night by night")

    def stream(self) -> int:
        newest = self._panel.n_steps
        spans = [(step, step + 1) for step in range(max(newest - _LIVE_STEPS, self._deepest), newest)]
        return self._piecewise("stream", spans, "it was computed bar by bar")

    def _piecewise(self, check: str, spans: Sequence[tuple[int, int]], event: str) -> int:
        """Compare spans of steps, each computed from its own bars and the lookback before them, with the whole."""
        items = [*self._features, canary_remembers]
        found = []
        for start, stop in spans:
            first = max(start - self._deepest, 0)
            parts = evaluate_on(self._panel.steps(first, stop), items)
            found.append([(value[:, start - first :], mask[:, start - first :]) for value, mask in parts])
        seen, compared = slice(spans[0][0], spans[-1][1]), 0
        whole = [*self.before, *evaluate_on(self._panel, [canary_remembers])]
        for i, item in enumerate(items):
            joined = [torch.cat([part[i][side] for part in found], dim=1) for side in (0, 1)]
            before = (whole[i][0][:, seen], whole[i][1][:, seen])
            place = first_difference(before, (joined[0], joined[1]))
            if item is canary_remembers:
                if place is None:
                    raise missed_canary_error(check, item.name)
                self.caught += 1
            elif place is not None:
                raise leak_error(check, item, self._panel, (place[0], place[1] + spans[0][0]), event)
            else:
                compared += int(before[1].sum())
        return compared

    def shuffle(self) -> int:
        # A cyclic permutation of a random order, so that no instrument keeps its place by chance.
        ring = torch.randperm(self._panel.n_instruments, generator=self._random)
        order = torch.empty_like(ring)
        order[ring] = ring.roll(1)
        before = [(value[order], mask[order]) for value, mask in self.before]
        event = "the instruments were put in another order"
        return self._require_unchanged("shuffle", self._panel.select(order.tolist()), event, before=before)

    def shift(self) -> int:
        days = self._draw(1, 400)
        moved = replace(self._panel, ts_open_ns=self._panel.ts_open_ns + days * DAY_NS)
        timeless = [i for i, item in enumerate(self._features) if not item.is_clock]
        return self._require_unchanged("shift", moved, f"the clock was moved by {days} days", places=timeless)

    def _require_unchanged(
        self,
        check: str,
        changed: Panel,
        event: str,
        *,
        before: Results | None = None,
        seen: slice = ALL,
        from_lookback: bool = False,
        places: Sequence[int] | None = None,
    ) -> int:
        """Compare features on the changed panel with the original; return the number of valid values compared."""
        places = range(len(self._features)) if places is None else places
        before, compared = before or self.before, 0
        after = evaluate_on(changed, [self._features[i] for i in places])
        for i, new in zip(places, after, strict=True):
            if from_lookback:
                seen = slice(self._features[i].lookback_bars, None)
            if (place := first_difference(before[i], new, seen)) is not None:
                raise leak_error(check, self._features[i], changed, place, event)
            compared += int(before[i][1][:, seen].sum())
        return compared

    def _require_caught(self, check: str, canary: Feature, changed: Panel, seen: slice) -> None:
        before, after = evaluate_on(self._panel, [canary]), evaluate_on(changed, [canary])
        if first_difference(before[0], after[0], seen) is None:
            raise missed_canary_error(check, canary.name)
        self.caught += 1

    def _replace(self, start: int, stop: int) -> Panel:
        """Return the panel with everything in the steps `start` to `stop` replaced by random values.

        Both edges are printed bars, so that reading one bar too far finds a changed price.
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
