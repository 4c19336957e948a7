"""What may a feature read, and what does a missing print look like to it?

Features name their inputs; nothing else of the panel reaches them. An input is a column as the status of its
bar allows it to be read, or something that many features derive from columns, such as the last price.

- A bar is *observed* where it is `printed` or `quiet`; any other status (`blind`, `unknown`, `halted`,
  `unlisted`) is missing throughout, even where some of it was seen.
- A quiet bar is proven silence: its volume, flow and prints are zeros, and it has no price of its own. The
  last price is carried through quiet bars only, never over a hole, and `price_age` says for how long.
- A missing value is NaN, not a value with a mask beside it: arithmetic passes it on by itself, an exported
  graph has half the inputs, and a mask that somebody forgot shows as a hole instead of as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from features.panel import AGES, AMOUNTS, CONTEXTS, PRICES, PRINTED, QUIET, QUOTES, Panel
from features.windows import carry
from storage.clock import DAY_NS

CARRY_BARS: Final = 32
"""A last price is carried at most `CARRY_BARS - 1` bars; a power of two."""
QUOTE_LIMIT_MS: Final = 300_000
"""A quote that did not change for longer is missing: a venue sends one at each change, and books move."""
CONTEXT_LIMIT_MS: Final = 120_000
"""A context older than this is missing: venues send one every few seconds."""

CLOCK: Final = "panel.ts_close_ns"
STATUS: Final = "panel.status"
_COLUMNS: Final = (*PRICES, *AMOUNTS, *QUOTES, *CONTEXTS, *AGES)
LEAVES: Final = (CLOCK, STATUS, *(f"panel.{name}" for name in _COLUMNS))
"""What a panel itself holds, as it holds it; features read the inputs made from these."""


@dataclass(frozen=True, slots=True)
class Input:
    """Something that features read.

    Args:
        name: what features call it.
        function: takes the tensors of `inputs` in order, then `params`; pure.
        inputs: names of leaves or of other inputs.
        lookback_bars: how many bars before its own the function itself reads.
        params: keyword arguments of `function`.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    lookback_bars: int = 0
    params: tuple[tuple[str, float], ...] = ()


def printed(status: Tensor) -> Tensor:
    """Return where something printed while we watched, (S, T) bool."""
    return status == PRINTED


def quiet(status: Tensor) -> Tensor:
    """Return where nothing printed while we watched, (S, T) bool."""
    return status == QUIET


def observed(printed: Tensor, quiet: Tensor) -> Tensor:
    """Return where the whole bar was watched, (S, T) bool."""
    return printed | quiet


def where_printed(x: Tensor, printed: Tensor) -> Tensor:
    """Return a price: it exists where something printed."""
    return torch.where(printed, x, math.nan)


def zero_where_quiet(x: Tensor, printed: Tensor, quiet: Tensor) -> Tensor:
    """Return an amount: what printed, and a proven zero where nothing did."""
    return torch.where(quiet, 0.0, torch.where(printed, x, math.nan))


def while_fresh(x: Tensor, observed: Tensor, age_ms: Tensor, *, limit_ms: float) -> Tensor:
    """Return a state as of the close, where the bar was watched and the state is not known to be stale."""
    return torch.where(observed & ~(age_ms > limit_ms), x, math.nan)


def last_log_price(close: Tensor, quiet: Tensor) -> Tensor:
    """Return the log of the last print's price, carried through quiet bars."""
    return carry(torch.log(close), quiet, CARRY_BARS)


def last_price_age(close: Tensor, quiet: Tensor) -> Tensor:
    """Return how many bars ago the last price printed; 0 where it printed in this bar."""
    return carry(torch.where(torch.isnan(close), close, 0.0), quiet, CARRY_BARS, ageing=1.0)


def share_of_day(ts_close_ns: Tensor) -> Tensor:
    """Return which share of the UTC day has passed at each close, (T,) float64 in [0, 1)."""
    return (ts_close_ns % DAY_NS).to(torch.float64) / DAY_NS


def _declared() -> Iterable[Input]:
    yield Input("printed", printed, (STATUS,))
    yield Input("quiet", quiet, (STATUS,))
    yield Input("observed", observed, ("printed", "quiet"))
    for name in PRICES:
        yield Input(name, where_printed, (f"panel.{name}", "printed"))
    for name in AMOUNTS:
        yield Input(name, zero_where_quiet, (f"panel.{name}", "printed", "quiet"))
    for name in QUOTES:
        leaves = (f"panel.{name}", "observed", "panel.quote_age_ms")
        yield Input(name, while_fresh, leaves, params=(("limit_ms", QUOTE_LIMIT_MS),))
    for name in CONTEXTS:
        leaves = (f"panel.{name}", "observed", "panel.context_age_ms")
        yield Input(name, while_fresh, leaves, params=(("limit_ms", CONTEXT_LIMIT_MS),))
    yield Input("log_price", last_log_price, ("close", "quiet"), lookback_bars=CARRY_BARS - 1)
    yield Input("price_age", last_price_age, ("close", "quiet"), lookback_bars=CARRY_BARS - 1)
    yield Input("day_share", share_of_day, (CLOCK,))


INPUTS: Final[dict[str, Input]] = {item.name: item for item in _declared()}


def lookback_of(names: Iterable[str]) -> int:
    """Return how many bars before its own the deepest of these inputs reads, through all that it is made of."""
    deepest = 0
    for name in names:
        if name not in LEAVES:
            item = INPUTS[name]
            deepest = max(deepest, item.lookback_bars + lookback_of(item.inputs))
    return deepest


def reads_clock(names: Iterable[str]) -> bool:
    """Return whether any of these inputs is made from the time of day or date."""
    return any(name == CLOCK or (name in INPUTS and reads_clock(INPUTS[name].inputs)) for name in names)


def leaves_of(panel: Panel) -> dict[str, Tensor]:
    """Return what inputs are made from, by name."""
    leaves = {f"panel.{name}": panel.column(name) for name in _COLUMNS}
    leaves[STATUS] = panel.status
    leaves[CLOCK] = torch.from_numpy(panel.ts_close_ns).to(panel.status.device)
    return leaves


class View:
    """The inputs of one panel, each made once, when first asked for.

    Args:
        leaves: as `leaves_of` returns them.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self._made: dict[str, Tensor] = dict(leaves)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            item = INPUTS[name]
            self._made[name] = item.function(*(self[part] for part in item.inputs), **dict(item.params))
        return self._made[name]
