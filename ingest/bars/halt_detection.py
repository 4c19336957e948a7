"""Detection of silences that the rhythm of the coins does not explain: a halt of the venue, or one that is possible.

Each step of a coin speaks for a halt or against it: by the logarithm of how much more probable it is in a halt, where
the coin prints a tenth as often, than by the coin's own share of steps with prints (`print_shares`), in nats. A
stretch of steps that add up to `EVIDENCE_NATS` is improbable as a silence; of a coin by itself, to `_OWN_NATS`. Stray
prints and ragged edges cost evidence and do not end a stretch. The most probable division into stretches is found by
the Viterbi algorithm with two states (Forney, Proc. IEEE 61, 1973), in which a change of state costs as much.

The coins of a venue are added up. Half of that evidence must remain without the two coins that say most for a halt,
and without the one for a possible halt: one coin is no venue.

Measured 2026-11-30 on recorded minutes of Bitfinex (7 pairs, 1.21 million bars): the outages of 2018-03-21 09:31 to
12:32 and 2018-04-11 09:01 to 10:40 are one stretch each, although a pair printed in up to 22 minutes of them; 1.3 % of
the other silent bars are doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ingest.bars.print_shares import WAITS_ALLOWED, print_shares
from storage.jit import compiled

EVIDENCE_NATS: Final = WAITS_ALLOWED
"""By chance, one silence in a million is so improbable."""
_OTHERS_NATS: Final = EVIDENCE_NATS / 2
_OWN_NATS: Final = 9.0
"""Of a coin by itself, which only makes its own bars unknown; one silence in eight thousand (docs/adr/0031)."""
# Rate of prints within a halt, as a share of the coin's own.
_STRAY: Final = 0.1
_MOST_SHARE: Final = 0.9999
_ROUNDS: Final = 10

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Stretch = tuple[int, int]
"""First and last step."""


@dataclass(frozen=True, slots=True)
class CoinSteps:
    """What the candles of one coin state.

    Args:
        steps: (n,) numbers of the steps of which they state whether the coin printed, ascending.
        is_printed: (n,) whether it did.
    """

    steps: Ints
    is_printed: Flags


@dataclass(frozen=True, slots=True)
class ImprobableSilences:
    """Stretches that no rhythm explains.

    Args:
        halts: of the venue.
        possible_halts: two coins fell silent together, too few to speak for the venue.
        of_coins: of each coin by itself, in the given order.
    """

    halts: list[Stretch]
    possible_halts: list[Stretch]
    of_coins: list[list[Stretch]]


def find_silences(coins: Sequence[CoinSteps]) -> ImprobableSilences:
    """Return the improbable silences of the coins of one venue."""
    nats = [_step_nats(coin.is_printed) for coin in coins]
    found = ImprobableSilences(
        [], [], [_own_stretches(coin, own) for coin, own in zip(coins, nats, strict=True)]
    )
    if len(coins) < 2 or not sum(coin.steps.size for coin in coins):
        return found
    steps = np.sort(np.concatenate([coin.steps for coin in coins]), kind="stable")
    steps = steps[np.append(True, steps[1:] != steps[:-1])]
    places = [np.searchsorted(steps, coin.steps) for coin in coins]
    total = np.zeros(steps.size)
    for place, own in zip(places, nats, strict=True):
        total[place] += own
    for first, last in stretches(total):
        shares = sorted(
            float(own[np.searchsorted(place, first) : np.searchsorted(place, last, "right")].sum())
            for place, own in zip(places, nats, strict=True)
        )
        stretch = (int(steps[first]), int(steps[last]))
        if sum(shares[:-2]) >= _OTHERS_NATS:
            found.halts.append(stretch)
        elif sum(shares[:-1]) >= _OTHERS_NATS:
            found.possible_halts.append(stretch)
    return found


def _own_stretches(coin: CoinSteps, nats: Floats) -> list[Stretch]:
    """Return the improbable silences of one coin by itself; `nats` are those of its steps.

    What was found is left out and the rest judged again, since a rhythm is that outside of a halt: a print in the
    middle of a halt of two days has the halt on either side.
    """
    found: list[Stretch] = []
    steps, is_printed = coin.steps, coin.is_printed
    for _ in range(_ROUNDS):
        new = stretches(nats, _OWN_NATS)
        if not new:
            break
        found += [(int(steps[first]), int(steps[last])) for first, last in new]
        rest = np.ones(steps.size, np.bool_)
        for first, last in new:
            rest[first : last + 1] = False
        steps, is_printed = steps[rest], is_printed[rest]
        nats = _step_nats(is_printed)
    return found


def stretches(nats: Floats, evidence: float = EVIDENCE_NATS) -> list[Stretch]:
    """Return the first and last index of each stretch of improbable silence.

    Args:
        nats: (n,) what each step says for a halt.
        evidence: that a stretch needs, and a change of state costs.

    >>> stretches(np.array([-2.0, 9.0, 9.0, -2.0, 9.0, -2.0, -9.0, -9.0, 9.0]))
    [(1, 4)]
    """
    if not nats.size:
        return []
    inside = np.concatenate(([False], _is_inside(nats, evidence), [False]))
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def _step_nats(is_printed: Flags) -> Floats:
    """Return, for each step of a coin, how much it speaks for a halt; negative: against it."""
    share = np.minimum(print_shares(np.flatnonzero(is_printed), is_printed.size), _MOST_SHARE)
    silent = np.log1p(-_STRAY * share) - np.log1p(-share)
    return np.where(is_printed, np.log(_STRAY), silent[np.cumsum(is_printed)])


@compiled()
def _is_inside(nats, cost):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return whether the most probable state of each step is the halt."""
    lead = np.empty(nats.size)
    now = -cost
    for i in range(nats.size):
        # How far the halt leads the rhythm; neither leads by more than a change costs.
        now = min(max(now, -cost), 0.0) + nats[i]
        lead[i] = now
    inside = np.zeros(nats.size, np.bool_)
    state = lead[-1] > 0.0
    for i in range(nats.size - 1, -1, -1):
        inside[i] = state
        if i > 0:
            state = lead[i - 1] >= -cost if state else lead[i - 1] > 0.0
    return inside
