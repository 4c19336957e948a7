"""Compiled programs, compared bit by bit with random feature functions for any division into blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from features.engine.block_executor import BlockExecutor
from features.engine.compiler import Program, compile_graph
from features.engine.stream_executor import StreamExecutor
from features.engine.tracing import trace
from features.feature import Feature
from features.inputs import InputView, leaves_of
from features.ops.cross_section import market_of, rank_of
from features.ops.rolling import count_over, shift
from features.panel.panel import Panel
from tests.features.engine.random_programs import drawn_features, odd_panel


def by_functions(features: Sequence[Feature], panel: Panel) -> list[Tensor]:
    """Return the functions' raw values on the whole panel."""
    view, shape = InputView(leaves_of(panel)), (panel.n_instruments, panel.n_steps)
    return [item.function(*(view[name] for name in item.inputs)).expand(shape) for item in features]


def by_blocks(run: BlockExecutor | StreamExecutor, panel: Panel, steps: int) -> list[Tensor]:
    """Return a program's raw values over consecutive blocks; the last block is padded."""
    got: list[list[Tensor]] = [[torch.empty(panel.n_instruments, 0)] for _ in run.program.outputs]
    for start in range(0, panel.n_steps, steps):
        leaves = leaves_of(panel.steps(start, start + steps))
        short = steps - (min(start + steps, panel.n_steps) - start)
        blocks = [pad(leaves[name], (0, short)) for name in run.program.leaves]
        run.push(blocks)
        for known, raw in zip(got, run.raw(), strict=True):
            known.append(raw[:, : steps - short].clone())
    return [torch.cat(known, 1) for known in got]


def same_from(features: Sequence[Feature], expected: list[Tensor], got: list[Tensor], *, cut: int) -> int:
    """Check that the bits equal the functions', and return the number of known values; `cut` was the first step.

    A run that began with the panel has what stands before it as well, so nothing of it is left out.
    """
    known = 0
    for item, one, other in zip(features, expected, got, strict=True):
        late = item.lookback_bars if cut else 0
        one, other = one[:, cut + late :].to(torch.float64), other[:, late:].to(torch.float64)
        nan = torch.isnan(one)
        assert torch.equal(nan, torch.isnan(other)), item.name
        assert torch.equal(one[~nan].view(torch.int64), other[~nan].view(torch.int64)), item.name
        known += int((~nan).sum())
    return known


def program_of(features: Sequence[Feature]) -> Program:
    return compile_graph(trace(tuple(features)))


@given(
    features=drawn_features(),
    rows=st.integers(1, 9),
    steps=st.one_of(st.integers(0, 5), st.integers(6, 160)),
    block=st.one_of(st.integers(1, 40), st.integers(41, 130)),
    tile_rows=st.one_of(st.integers(1, 3), st.integers(4, 10)),
    cut=st.integers(0, 100),
    seed=st.integers(0, 9),
)
def check_program(
    features: tuple[Feature, ...], rows: int, steps: int, block: int, tile_rows: int, cut: int, seed: int
) -> None:
    panel, program = odd_panel(rows, steps, seed), program_of(features)
    cut = min(cut, steps)
    with torch.inference_mode():
        expected = by_functions(features, panel)
        for start in {0, cut}:
            rest = panel.steps(start)
            tiles = by_blocks(BlockExecutor(program, rows, block, tile_rows), rest, block)
            rings = by_blocks(StreamExecutor(program, rows), rest, 1)
            same_from(features, expected, tiles, cut=start)
            same_from(features, expected, rings, cut=start)


def test_some_programs_give_the_bits_of_their_functions() -> None:
    settings(max_examples=30, deadline=None)(check_program)()


@pytest.mark.drill
def test_any_program_gives_the_bits_of_its_functions() -> None:
    settings(max_examples=200, deadline=None)(check_program)()


def collide(x: Tensor) -> Tensor:
    ranked, market = rank_of(x * 2.0), market_of(x)
    return torch.nextafter(ranked, market + 1.0)


def view_apart(x: Tensor) -> Tensor:
    """Return a tuple of views of a value whose memory another one reuses."""
    parts = (x * 2.0).unbind(0)
    return (x + 1.0) * (x - 1.0) + parts[0]


def masked_rank(x: Tensor) -> Tensor:
    return rank_of(x > 1.0)


NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "a bare input": lambda x: x,
    "a bare shift": lambda x: shift(x, 3),
    "a bare logarithm": lambda x: torch.log(x),
    "a logarithm that is looked at across": lambda x: rank_of(torch.log(x)),
    "nothing but zeros": lambda x: torch.zeros_like(x),
    "a shift of zeros": lambda x: shift(torch.zeros_like(x), 70, fill=1.5),
    "shifts of a shift": lambda x: shift(shift(x, 2, fill=0.0), 2) + shift(x, 4),
    "two calls across of one place, in two segments": collide,
    "views in a tuple": view_apart,
    "zeros like a call": lambda x: torch.zeros_like(rank_of(x)),
    "the rank of truths": masked_rank,
    "the rank of a row": lambda x: rank_of(market_of(x)),
    "the market of a row": lambda x: market_of(market_of(x)),
    "a number as truth": lambda x: ((x > 0.0).to(torch.int32) * 3).to(torch.bool).to(torch.int32),
    "a number divided": lambda x: 0.1 / x,
    "a number divided, where enough is there": lambda x: torch.where(x >= 0.5, 0.1 / x, math.nan),
    "truths added up": lambda x: (x > 0.0) + (x > 1.0),
    "a count against a number that float32 rounds": lambda x: count_over(x > 0.0, 6) >= 4.0 + 1e-9,
    "what a truth is before the panel": lambda x: ~shift(x > 0.0, 3),
    "what a count is before the panel": lambda x: shift(count_over(x > 0.0, 5), 3, fill=-1.5),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(("rows", "block", "tile_rows"), [(5, 16, 2), (1, 300, 1), (4, 1, 4)])
def test_earlier_bugs_stay_fixed(name: str, rows: int, block: int, tile_rows: int) -> None:
    item = Feature("named", NAMED[name], ("panel.volume",), 0, "", "", "", "", "")
    panel, program = odd_panel(rows, 100, 1), program_of([item])
    with torch.inference_mode():
        expected = by_functions([item], panel)
        for run, steps in (
            (BlockExecutor(program, rows, block, tile_rows), block),
            (StreamExecutor(program, rows), 1),
        ):
            same_from([item], expected, by_blocks(run, panel, steps), cut=0)
