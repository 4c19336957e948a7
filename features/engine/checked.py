"""Does a program give the bits of the functions that it was made of?

Every program is run once, over blocks and bar by bar, on a drawn panel, and compared with the functions as they stand
(`features.feature.evaluate`). So a set that cannot be computed block after block is refused before it is used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from features.engine.block_executor import BlockExecutor
from features.engine.compiler import Program, compile_graph
from features.engine.sample_panel import SAMPLE_INSTRUMENTS, sample_panel
from features.engine.stream_executor import StreamExecutor
from features.engine.tracing import trace
from features.feature import Feature, deepest_lookback, evaluate
from features.inputs import InputView, leaves_of
from features.panel.panel import Panel
from storage.errors import ContractError

_CHECK_STEPS: Final = 40
"""Steps beyond the lookback on which a program is compared."""
_CHECK_BLOCK: Final = 64


@lru_cache
def checked_program(features: tuple[Feature, ...]) -> Program:
    """Return the program of these features, made and compared once a process.

    Raises:
        ContractError: a feature cannot be written down as a graph, or looks back by other means than
            `features.ops.rolling`.
    """
    made = compile_graph(trace(features))
    _compare(made, features)
    return made


def _compare(made: Program, features: tuple[Feature, ...]) -> None:
    """Refuse a program that does not give the bits of the functions it was made of, by blocks and bar by bar.

    It cannot where a feature reaches for other steps by itself (`cumsum`, `unfold`, a slice): such a function
    would see a block and take it for the panel.
    """
    panel = comparison_panel(features)
    with torch.inference_mode():
        expected = evaluate(InputView(leaves_of(panel)), features, shape=(panel.n_instruments, panel.n_steps))
        tiles, rings = (
            BlockExecutor(made, SAMPLE_INSTRUMENTS, _CHECK_BLOCK, tile_rows=3),
            StreamExecutor(made, SAMPLE_INSTRUMENTS),
        )
        for got in (_run(tiles, panel, _CHECK_BLOCK), _run(rings, panel, 1)):
            for item, (value, mask), raw in zip(features, expected, got, strict=True):
                _refuse_others(item, raw, value, mask)


def comparison_panel(features: tuple[Feature, ...]) -> Panel:
    """Return the drawn panel on which a program of these features is compared: a few whole blocks."""
    deepest = deepest_lookback(features)
    return sample_panel(-(-(deepest + _CHECK_STEPS) // _CHECK_BLOCK) * _CHECK_BLOCK)


def _run(run: StreamExecutor | BlockExecutor, panel: Panel, steps: int) -> list[Tensor]:
    """Return the raw values of each feature, (S, T), block after block."""
    blocks = []
    for start in range(0, panel.n_steps, steps):
        leaves = leaves_of(panel.steps(start, start + steps))
        run.push([leaves[name] for name in run.program.leaves])
        blocks.append([raw.clone() for raw in run.raw()])
    return [torch.cat(parts, 1) for parts in zip(*blocks, strict=True)]


def _refuse_others(item: Feature, raw: Tensor, value: Tensor, mask: Tensor) -> None:
    raw, value, mask = (part[:, item.lookback_bars :] for part in (raw, value, mask))
    is_same = torch.where(mask, raw, 0.0).view(torch.int64) == value.contiguous().view(torch.int64)
    if not bool((is_same & (mask == torch.isfinite(raw.to(torch.float32)))).all()):
        raise ContractError(
            f"feature {item.name} gives other values block by block than over a whole panel",
            hint="look back by features.ops.rolling alone (shift, sum_over, carry, ...), declare the lookback that the "
            "function has, and use no function of torch whose last bit depends on where in a tensor a number stands "
            "(sigmoid, pow, exp2, sinh, hypot, atan2, logaddexp)",
        )
