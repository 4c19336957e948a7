"""How are features computed block after block, each bar once?

A stream runs a plan over stretches of `block_steps` bars and remembers, of every tensor that is shifted, the last
blocks that a shift may ask for. A shift by whole blocks is then one of those as it stands; any other is put
together from two. Nothing is computed twice, however long the windows: a block of one bar is the live step
(features/step.py), and blocks that fit the cache are the build (features/build.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor, fx

from features.inputs import View, leaves_of
from features.panel import COLUMNS, PRINTED, Panel
from features.plan import compiled, placeholders, shifts, trace
from features.spec import Feature, evaluate
from storage.clock import NS
from storage.contracts import STATUSES
from storage.errors import ContractError

_CHECK_INSTRUMENTS: Final = 4
_CHECK_STEPS: Final = 40
"""Steps beyond the lookback on which a plan is compared with the functions it was made of."""


class Stream:
    """Raw values of features over panels that follow each other without a gap.

    Args:
        features: what to compute.
        block_steps: T of every block.

    Raises:
        ContractError: a feature looks back by other means than `features.windows`.
    """

    def __init__(self, features: Sequence[Feature], *, block_steps: int) -> None:
        self._plan = plan(tuple(features))
        self._past = self._plan.past(block_steps)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The leaves that are read."""
        return self._plan.leaves

    def push(self, leaves: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the raw value of each feature on the next block, (S, T) or (T,) float64, NaN where unknown.

        What a feature reads before the first block is missing to it; the caller knows how many blocks there were.

        Args:
            leaves: as `features.inputs.leaves_of` returns them, of `block_steps` steps; they must not be changed
                afterwards.
        """
        return self._plan.run(*(leaves[name] for name in self._plan.leaves), *self._past)


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph whose shifts are handed to it.

    Args:
        leaves: what it reads, by name.
        run: takes these leaves, then what `past` returned; returns the raw value of each feature.
        shifted: for each tensor that is shifted, what stands before the first bar, and by how many bars.
    """

    leaves: tuple[str, ...]
    run: Callable[..., tuple[Tensor, ...]]
    shifted: tuple[tuple[float, tuple[int, ...]], ...]

    def past(self, block_steps: int) -> list[Callable[[Tensor], Tensor]]:
        """Return an empty memory for blocks of so many steps."""
        made: list[Callable[[Tensor], Tensor]] = []
        for fill, bars in self.shifted:
            past = _Past(fill, bars, block_steps)
            made += [past.push, *(past.back(n) for n in bars)]
        return made


@lru_cache
def plan(features: tuple[Feature, ...]) -> Plan:
    """Return the plan of these features, compared with the functions themselves on a drawn panel."""
    graph = trace(features)
    leaves = placeholders(graph)
    by_source: dict[tuple[fx.Node, str], list[fx.Node]] = {}
    for node in shifts(graph):
        by_source.setdefault((node.args[0], repr(node.kwargs["fill"])), []).append(node)  # type: ignore[arg-type]
    first = next(node for node in graph.nodes if node.op != "placeholder")
    shifted = []
    for place, ((source, fill), readers) in enumerate(by_source.items()):
        with graph.inserting_before(first):
            push = graph.placeholder(f"push_{place}")
            backs = [graph.placeholder(f"back_{place}_{node.args[1]}") for node in readers]
        with graph.inserting_after(source if source.op != "placeholder" else first.prev):
            kept = graph.call_method("__call__", (push, source))
        for back, node in zip(backs, readers, strict=True):
            node.op, node.target, node.args, node.kwargs = "call_method", "__call__", (back, kept), {}
        shifted.append((float(fill), tuple(int(back.name.rpartition("_")[2]) for back in backs)))
    made = Plan(leaves, compiled(graph), tuple(shifted))
    _compare(made, features)
    return made


class _Past:
    """What one tensor was before, for the shifts that ask for it.

    A shift by whole blocks is a block as it came. For the others the newest stretch lies in one piece of memory,
    longer than a block by the deepest of them, and each is a view of it. Two such pieces take turns, since no
    part of one can be copied over itself.

    Args:
        fill: what stands before the first block.
        bars: how far back each shift reaches.
        block_steps: T of a block.
    """

    def __init__(self, fill: float, bars: Sequence[int], block_steps: int) -> None:
        self._fill, self._steps = fill, block_steps
        self._depth = max((n for n in bars if n % block_steps), default=0)
        self._blocks = 1 + max((n // block_steps for n in bars if n % block_steps == 0), default=0)
        self._at = 0
        self._is_part = False
        self._ring: list[Tensor] = []
        self._pieces: list[Tensor] = []

    def push(self, x: Tensor) -> Tensor:
        """Take the next block."""
        if not self._ring:
            self._begin(x)
        self._at += 1
        if self._depth:
            old, new = self._pieces[(self._at - 1) % 2], self._pieces[self._at % 2]
            new[:, : self._depth] = old[:, self._steps :]
            new[:, self._depth :] = x
        if self._blocks > 1:
            self._ring[self._at % self._blocks] = x.clone() if self._is_part else x
        return x

    def back(self, bars: int) -> Callable[[Tensor], Tensor]:
        """Return a function that returns what the newest block was `bars` bars earlier."""
        whole, rest = divmod(bars, self._steps)
        if not rest:
            return lambda _: self._ring[(self._at - whole) % self._blocks]
        start = self._depth - bars
        return lambda _: self._pieces[self._at % 2][:, start : start + self._steps]

    def _begin(self, x: Tensor) -> None:
        # A block that is a view, as that of another shift, would change under us.
        self._is_part = x.untyped_storage().nbytes() > x.nbytes
        self._ring = [torch.full_like(x, self._fill)] * self._blocks
        shape = (x.shape[0], self._depth + self._steps)
        self._pieces = [torch.full(shape, self._fill, dtype=x.dtype, device=x.device) for _ in range(2)]


def _compare(made: Plan, features: tuple[Feature, ...]) -> None:
    """Refuse a plan that does not give the bits of the functions it was made of.

    It cannot where a feature reaches for other steps by itself (`cumsum`, `unfold`, a slice): such a function
    would see a block and take it for the panel.
    """
    deepest = max(item.lookback_bars for item in features)
    panel = _drawn(deepest + _CHECK_STEPS)
    shape = (panel.n_instruments, panel.n_steps)
    with torch.inference_mode():
        expected = evaluate(View(leaves_of(panel)), features, shape=shape)
        past = made.past(_CHECK_STEPS // 2)
        blocks = []
        for start in range(panel.n_steps % (_CHECK_STEPS // 2), panel.n_steps, _CHECK_STEPS // 2):
            leaves = leaves_of(panel.steps(start, start + _CHECK_STEPS // 2))
            blocks.append(made.run(*(leaves[name] for name in made.leaves), *past))
        for place, (item, (value, mask)) in enumerate(zip(features, expected, strict=True)):
            got = torch.cat([block[place].expand(shape[0], _CHECK_STEPS // 2) for block in blocks[-2:]], 1)
            known = mask[:, -_CHECK_STEPS:]
            same = torch.where(known, got, 0.0).contiguous().view(torch.int64)
            wanted = value[:, -_CHECK_STEPS:].contiguous().view(torch.int64)
            if not torch.equal(same, wanted) or bool((known != torch.isfinite(got.to(torch.float32))).any()):
                raise ContractError(
                    f"feature {item.name} gives other values block by block than over a whole panel",
                    hint="look back by features.windows alone (shift, sum_over, carry, ...), or declare the lookback "
                    "that the function has",
                )


def _drawn(steps: int) -> Panel:
    """Return a panel of noise: most bars printed, some quiet, some missing."""
    random = torch.Generator().manual_seed(0)
    shape = (_CHECK_INSTRUMENTS, steps)
    values = {name: torch.exp(torch.randn(shape, generator=random, dtype=torch.float64)) for name in COLUMNS}
    drawn = torch.rand(shape, generator=random)
    status = torch.full(shape, PRINTED, dtype=torch.uint8)
    status[drawn < 0.2] = STATUSES.index("quiet")
    status[drawn < 0.02] = STATUSES.index("blind")
    clock = 60 * NS * np.arange(steps, dtype=np.int64)
    names = tuple(str(row) for row in range(_CHECK_INSTRUMENTS))
    return Panel(names, 60 * NS, clock, values, status)
