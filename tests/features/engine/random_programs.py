"""Random features and panels of unusual numbers for property tests of compiled programs."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from features.feature import Feature
from features.inputs import lookback_of, of_leader
from features.ops.cross_section import market_of, rank_of
from features.ops.rolling import carry, count_over, mean_over, means_over, observed_over, shift, sum_over
from features.ops.rolling_stats import decayed_means_over, decayed_sum_over, max_over, moments_over
from features.panel.panel import COLUMNS, Panel
from storage.contracts.tables import STATUSES
from tests.features.panels import MINUTE_NS, START_NS

ODD = (0.0, -0.0, 1.0, -1.5, 5e-324, -1e-310, 3e300, math.inf, -math.inf, math.nan)
FILLS = (math.nan, 0.0, -0.0, -math.inf, 1.5)
BARS = st.one_of(st.integers(1, 9), st.integers(10, 140))
SCALARS = st.sampled_from((0.0, -0.0, 1.0, -2.0, 0.1, 3, math.inf, math.nan))

FLOAT, BOOL, INT, BYTE, ROW, FLAT, PLACE = "float", "bool", "int", "byte", "row", "flat", "place"
"""Type of a node: (S, T) of four types, (1, T) or (T,) float64, or (S, T) int64."""
INPUTS = {
    "panel.close": FLOAT, "panel.volume": FLOAT, "volume": FLOAT, "log_price": FLOAT, "btc_log_price": FLOAT,
    "observed": BOOL, "btc_observed": BOOL, "panel.status": BYTE, "hour_share": FLAT, "panel.btc_row": PLACE,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One operation of a random feature.

    Args:
        function: takes tensors of the kinds `takes`, then what is drawn from `knobs`.
        makes: the kind of what it returns.
        back: from the knobs, how many bars it looks back.
    """

    function: Callable[..., Tensor]
    takes: tuple[str, ...]
    makes: str = FLOAT
    knobs: tuple[st.SearchStrategy[Any], ...] = ()
    back: Callable[..., int] = lambda *knobs: 0


def _windows() -> list[Step]:
    fills = st.sampled_from(FILLS)

    def whole(bars: int, *_: Any) -> int:
        return bars

    def within(bars: int, *_: Any) -> int:
        return bars - 1

    return [
        Step(lambda x, n, fill: shift(x, n, fill=fill), (FLOAT,), FLOAT, (BARS, fills), whole),
        Step(lambda x, n, fill: shift(x, n, fill=fill), (ROW,), ROW, (BARS, fills), whole),
        Step(lambda x, n, fill: shift(x, n, fill=fill), (BOOL,), BOOL, (BARS, fills), whole),
        Step(
            lambda x, n, fill: shift(x, n, fill=fill), (INT,), INT, (BARS, st.sampled_from((0, -1.5))), whole
        ),
        Step(lambda x, n: shift(torch.zeros_like(x), n), (FLOAT,), FLOAT, (BARS,), whole),
        Step(lambda x, n: shift(x, n) - shift(x, n, fill=0.0), (FLOAT,), FLOAT, (BARS,), whole),
        Step(sum_over, (FLOAT,), FLOAT, (BARS,), within),
        Step(sum_over, (BOOL,), BOOL, (BARS,), within),
        Step(count_over, (BOOL,), INT, (BARS,), within),
        Step(observed_over, (BOOL,), BOOL, (BARS,), within),
        Step(mean_over, (FLOAT,), FLOAT, (BARS,), within),
        Step(lambda x, y, n: means_over([x, y], n)[1], (FLOAT, FLOAT), FLOAT, (BARS,), within),
        # The maximum of a zero and a negative zero is ambiguous; neither occurs here.
        Step(lambda x, n: max_over(x + 0.0, n), (FLOAT,), FLOAT, (BARS,), within),
        Step(lambda x, n: decayed_sum_over(x, n, 4.0), (FLOAT,), FLOAT, (BARS,), within),
        Step(lambda x, y, n: decayed_means_over([x, y], n, 9.0)[0], (FLOAT, FLOAT), FLOAT, (BARS,), within),
        Step(lambda x, y, n: moments_over(x, y, n)[0], (FLOAT, FLOAT), FLOAT, (BARS,), within),
        Step(lambda x, y, n: moments_over(x, y, n)[2], (FLOAT, ROW), FLOAT, (BARS,), within),
        Step(
            lambda x, through, power, ageing: carry(x, through, 2**power, ageing=ageing),
            (FLOAT, BOOL),
            FLOAT,
            (st.integers(0, 5), st.sampled_from((0.0, 1.0))),
            lambda power, ageing: 2**power - 1,
        ),
    ]


def _numbers() -> list[Step]:
    arithmetic = (operator.add, operator.sub, operator.mul, operator.truediv)
    compared = (operator.eq, operator.ne, operator.ge, operator.gt, operator.le, operator.lt)
    numbers = [Step(function, (FLOAT, other)) for function in arithmetic for other in (FLOAT, ROW, FLAT)]
    numbers += [Step(function, (FLOAT,), FLOAT, (SCALARS,)) for function in arithmetic]
    numbers += [
        Step(lambda x, y, f=function: f(y, x), (FLOAT,), FLOAT, (SCALARS,)) for function in arithmetic
    ]  # type: ignore[misc]
    numbers += [Step(function, (FLOAT, FLOAT), BOOL) for function in compared]
    numbers += [
        Step(function, (INT,), BOOL, (st.sampled_from((2, 4.5, 4.0 + 1e-9)),)) for function in compared
    ]
    numbers += [
        Step(function, (FLOAT,))
        for function in (torch.log, torch.log1p, torch.exp, torch.sqrt, torch.sign, torch.abs, operator.neg)
    ]
    return [
        *numbers,
        Step(operator.ge, (FLOAT, ROW), BOOL),
        Step(operator.eq, (BYTE,), BOOL, (st.integers(0, len(STATUSES)),)),
        Step(lambda x, y: torch.maximum(x + 0.0, y + 0.0), (FLOAT, FLOAT)),
        Step(lambda x, y: torch.minimum(x + 0.0, y + 0.0), (FLOAT, FLOAT)),
        Step(lambda x, least: torch.clamp(x, min=least, max=2.0), (FLOAT,), FLOAT, (st.sampled_from((-1.0, 0.0)),)),
        Step(torch.isnan, (FLOAT,), BOOL),
        Step(lambda x: ~torch.isnan(x), (FLOAT,), BOOL),
        Step(torch.where, (BOOL, FLOAT, FLOAT)),
        Step(torch.where, (BOOL, FLOAT, ROW)),
        Step(torch.where, (BOOL, FLOAT), FLOAT, (SCALARS,)),
        Step(torch.where, (BOOL, INT, FLOAT)),
        Step(lambda x: torch.zeros_like(x), (FLOAT,)),
    ]  # fmt: skip


def _kinds() -> list[Step]:
    return [
        *(Step(function, (BOOL, BOOL), BOOL) for function in (operator.and_, operator.or_, operator.eq)),
        *(Step(function, (BOOL, BOOL), BOOL) for function in (operator.add, operator.mul, operator.xor)),
        Step(operator.invert, (BOOL,), BOOL),
        Step(lambda x: x.to(torch.float64), (BOOL,)),
        Step(lambda x: x.to(torch.float64), (INT,)),
        Step(lambda x: x.to(torch.int32), (BOOL,), INT),
        Step(lambda x: x.to(torch.int32), (BYTE,), INT),
        Step(lambda x: x.to(torch.bool), (INT,), BOOL),
        Step(lambda x: x.to(torch.bool), (BYTE,), BOOL),
        Step(operator.sub, (BYTE,), BYTE, (st.integers(0, 3),)),
        *(Step(function, (INT, INT), INT) for function in (operator.add, operator.sub, operator.mul)),
        Step(operator.mul, (FLOAT, INT)),
        Step(operator.truediv, (FLOAT, INT)),
    ]


def _across() -> list[Step]:
    return [
        Step(rank_of, (FLOAT,)),
        Step(rank_of, (BOOL,)),
        Step(rank_of, (ROW,), ROW),
        Step(lambda x: market_of(torch.clamp(x, min=-7.0, max=7.0)), (FLOAT,), ROW),
        Step(market_of, (ROW,), ROW),
        Step(of_leader, (FLOAT, PLACE)),
        Step(torch.nextafter, (FLOAT, FLOAT)),
        Step(lambda x: torch.flip(x, (0,)), (FLOAT,)),
        Step(lambda x: (x + 0.0).amax(dim=0, keepdim=True), (FLOAT,), ROW),
        Step(lambda x: (x + 0.0).sort(dim=0).values, (FLOAT,)),
        Step(lambda x: x[:1], (FLOAT,), ROW),
        Step(lambda x: x[0], (FLOAT,), FLAT),
        Step(lambda x: x.unbind(0)[0], (FLOAT,), FLAT),
        Step(lambda x, y: torch.stack((x + 0.0, y + 0.0)).amax(dim=0), (FLOAT, FLOAT)),
    ]


STEPS = (*_windows(), *_numbers(), *_kinds(), *_across())


@st.composite
def drawn_features(draw: st.DrawFn) -> tuple[Feature, ...]:
    """Return features of a few operations each, which share intermediate results."""
    kinds, backs = list(INPUTS.values()), [lookback_of([name]) for name in INPUTS]
    nodes: list[tuple[Step, list[int], list[Any]]] = []
    for _ in range(draw(st.integers(0, 10))):
        step = draw(st.sampled_from([item for item in STEPS if set(item.takes) <= set(kinds)]))
        chosen = []
        for kind in step.takes:
            places = [place for place, known in enumerate(kinds) if known == kind]
            chosen.append(draw(st.sampled_from(places[::-1])))
        knobs = [draw(knob) for knob in step.knobs]
        nodes.append((step, chosen, knobs))
        kinds.append(step.makes)
        backs.append(max(backs[place] for place in chosen) + step.back(*knobs))

    def output(place: int) -> Callable[..., Tensor]:
        def function(*inputs: Tensor) -> Tensor:
            found = list(inputs)
            for step, chosen, knobs in nodes[: max(place - len(INPUTS) + 1, 0)]:
                found.append(step.function(*(found[at] for at in chosen), *knobs))
            return found[place]

        return function

    open_to = [place for place, kind in enumerate(kinds) if kind != PLACE][::-1]
    # The last nodes depend on the most others; the first ones may be plain inputs.
    output_places = st.one_of(st.sampled_from(open_to[:4]), st.sampled_from(open_to))
    outputs = draw(st.lists(output_places, min_size=1, max_size=4))
    formula = str([(STEPS.index(step), chosen, knobs) for step, chosen, knobs in nodes])
    return tuple(
        Feature(f"drawn_{place}", output(place), tuple(INPUTS), backs[place], "", "", "", formula, "")
        for place in outputs
    )


def odd_panel(rows: int, steps: int, seed: int) -> Panel:
    """Return a panel with unusual and plain numbers, blind stretches, and an instrument that never prints."""
    draw = np.random.default_rng(seed)
    shape = (rows, steps)
    values = {}
    for name in COLUMNS:
        plain = np.where(draw.random(shape) < 0.5, draw.normal(size=shape), draw.integers(0, 3, shape))
        values[name] = torch.from_numpy(np.where(draw.random(shape) < 0.3, draw.choice(ODD, shape), plain))
    status = draw.choice(len(STATUSES), shape, p=[0.5, *[0.5 / (len(STATUSES) - 1)] * (len(STATUSES) - 1)])
    status[0, steps // 3 : steps // 2] = STATUSES.index("blind")
    status[-1, :] = STATUSES.index("quiet")
    return Panel(
        tuple(f"hyperliquid|perp|{'BTC' if row == rows // 2 else row}" for row in range(rows)),
        MINUTE_NS,
        START_NS + MINUTE_NS * np.arange(steps, dtype=np.int64),
        values,
        torch.from_numpy(status.astype(np.uint8)),
    )
