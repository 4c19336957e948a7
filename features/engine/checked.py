"""Compiled programs, checked bit by bit against their feature functions.

Every program is run once on a random panel, in blocks and bar by bar, and compared with the functions themselves
(`features.feature.evaluate`). So a set that cannot be computed block by block is refused before it is used.

The comparison takes 1.5 s of processor time for a set of thirty features, and its result depends on the code, the
libraries and the processor alone. Once it holds, an empty file named after these says so to later processes, beside the
machine code that numba keeps for them.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import numba
import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor

from features.engine.block_executor import BlockExecutor
from features.engine.compiler import Program, compile_graph
from features.engine.sample_panel import SAMPLE_INSTRUMENTS, sample_panel
from features.engine.stream_executor import StreamExecutor
from features.engine.tracing import trace
from features.feature import Feature, deepest_lookback, evaluate
from features.inputs import InputView, leaves_of
from features.panel.panel import Panel
from features.versioning.fingerprint import fingerprint
from features.versioning.source_hash import features_code_hash
from storage.errors import ContractError

_CHECK_STEPS: Final = 40
"""Steps beyond the lookback on which a program is compared."""
_CHECK_BLOCK: Final = 64


@lru_cache
def checked_program(features: tuple[Feature, ...]) -> Program:
    """Return the checked program of these features, compiled once per process.

    Raises:
        ContractError: a feature cannot be traced to a graph, or looks back by other means than `features.ops.rolling`.
    """
    program = compile_graph(trace(features))
    marker = _marker(features)
    if not marker.exists():
        _compare(program, features)
        with suppress(OSError):  # nothing can be written beside the code: each process compares
            marker.parent.mkdir(exist_ok=True)
            marker.touch()
    return program


def _marker(features: tuple[Feature, ...]) -> Path:
    """Return the file that says that the program of these features was compared, by this code on this processor."""
    versions = [
        fingerprint(features),
        features_code_hash(),
        torch.__version__,
        numba.__version__,
        get_host_cpu_name(),
        torch.backends.cpu.get_cpu_capability(),
    ]
    digest = hashlib.sha256(json.dumps(versions).encode()).hexdigest()
    return Path(__file__).parent / "__pycache__" / f"checked-{digest[:32]}"


def _compare(program: Program, features: tuple[Feature, ...]) -> None:
    """Raise unless the program reproduces the bits of its functions, in blocks and bar by bar.

    It cannot where a feature reads other steps by itself (`cumsum`, `unfold`, a slice): such a function would take a
    block for the whole panel.
    """
    panel = comparison_panel(features)
    with torch.inference_mode():
        expected = evaluate(InputView(leaves_of(panel)), features, shape=(panel.n_instruments, panel.n_steps))
        tiles, rings = (
            BlockExecutor(program, SAMPLE_INSTRUMENTS, _CHECK_BLOCK, tile_rows=3),
            StreamExecutor(program, SAMPLE_INSTRUMENTS),
        )
        for got in (_run(tiles, panel, _CHECK_BLOCK), _run(rings, panel, 1)):
            for item, (value, mask), raw in zip(features, expected, got, strict=True):
                _require_equal(item, raw, value, mask)


def comparison_panel(features: tuple[Feature, ...]) -> Panel:
    """Return the random panel, a few whole blocks, on which a program of these features is compared."""
    deepest = deepest_lookback(features)
    return sample_panel(-(-(deepest + _CHECK_STEPS) // _CHECK_BLOCK) * _CHECK_BLOCK)


def _run(run: StreamExecutor | BlockExecutor, panel: Panel, steps: int) -> list[Tensor]:
    """Return the raw values of each feature, (S, T), computed block by block."""
    blocks = []
    for start in range(0, panel.n_steps, steps):
        leaves = leaves_of(panel.steps(start, start + steps))
        run.push([leaves[name] for name in run.program.leaves])
        blocks.append([raw.clone() for raw in run.raw()])
    return [torch.cat(parts, 1) for parts in zip(*blocks, strict=True)]


def _require_equal(item: Feature, raw: Tensor, value: Tensor, mask: Tensor) -> None:
    raw, value, mask = (part[:, item.lookback_bars :] for part in (raw, value, mask))
    is_same = torch.where(mask, raw, 0.0).view(torch.int64) == value.contiguous().view(torch.int64)
    if not bool((is_same & (mask == torch.isfinite(raw.to(torch.float32)))).all()):
        raise ContractError(
            f"feature {item.name} gives other values block by block than over a whole panel",
            hint="look back only with features.ops.rolling (shift, sum_over, carry, ...), declare the function's true "
            "lookback, and use no torch function whose last bit depends on the position in the tensor "
            "(sigmoid, pow, exp2, sinh, hypot, atan2, logaddexp)",
        )
