"""Inputs of features: panel columns with missing bars masked, and values derived from them.

Features name their inputs; nothing else of the panel reaches them. An input is a column masked by the status of its
bars, or a derived value that many features share, such as the last price.

- A bar is *observed* where it is `printed` or `quiet`; any other status (`blind`, `unknown`, `halted`,
  `unlisted`) counts as missing altogether, even if part of the bar was observed.
  - In a quiet bar provably nothing traded: volume, flow and prints are zeros, and the bar has no price of its own. The
    last price is carried through quiet bars only, never across a hole, and `price_age` gives its age. Where
      the venue has no trade feed (GaiaEx) silence proves nothing: volume, flow and prints are missing.
  - A state as of the close (quote, context, book, last payment, relay lag) is missing once it is known to be older
    than its limit; its age is a separate input.
  - A missing value is NaN, not a value with a separate mask: arithmetic propagates it, an exported graph has half the
    inputs, and a forgotten mask shows up as a hole instead of as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from features.ops.rolling import carry, shift
from features.panel.asof_join import PAID_NS, RELAY_NS
from features.panel.panel import AMOUNTS, COLUMNS, CONTEXTS, PRICES, PRINTED, QUIET, QUOTES, Panel
from storage.clock import DAY_NS, MS_NS, NS

CARRY_BARS: Final = 32
"""A last price is carried forward at most `CARRY_BARS - 1` bars; a power of two."""
QUOTE_LIMIT_MS: Final = 300_000
"""A quote unchanged for longer is missing: venues send one at each change, and active books keep changing."""
CONTEXT_LIMIT_MS: Final = 120_000
"""A context older than this is missing: venues send one every few seconds."""
CADENCES: Final = {"fast": (0.0, 1_000.0, 5_000.0), "slow": (2_500.0, 10_000.0, 30_000.0)}
"""Book cadences by name: minimum and maximum milliseconds between two books, and the age from which one is missing.
Hyperliquid sent 20 levels every 0.5 s until 2026-06; its archive and the `fast` books of 5 levels still come at that
rate; its slow books come every 5 s since 2026-07-25."""

LEADERS: Final = {"btc": "BTC", "eth": "ETH"}
"""Symbols that other instruments may follow, by the prefix of their inputs."""
_RELAYED: Final = {"gaiaex": "hyperliquid"}
"""Venues that relay another venue's books, and therefore follow its leaders."""

_HOUR_NS: Final = 3_600 * NS
_WEEK_NS: Final = 7 * DAY_NS
_SUNDAY_NS: Final = 3 * DAY_NS  # 1970-01-04; the epoch was a Thursday

CLOCK: Final = "panel.ts_close_ns"
STATUS: Final = "panel.status"
LEAVES: Final = (
    CLOCK,
    STATUS,
    *(f"panel.{name}" for name in COLUMNS),
    *(f"panel.{name}_row" for name in LEADERS),
)
"""Unprocessed contents of a panel; features read the inputs derived from these."""


@dataclass(frozen=True, slots=True)
class Input:
    """A value that features can read.

    Args:
        name: its name in feature declarations.
        function: called with the tensors of `inputs` in order, then `params`; pure.
        inputs: names of leaves or of other inputs.
        lookback_bars: number of earlier bars that the function itself reads.
        params: keyword arguments of `function`.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    lookback_bars: int = 0
    params: tuple[tuple[str, float], ...] = ()


def printed(status: Tensor) -> Tensor:
    """Return where a watched bar has prints, (S, T) bool."""
    return status == PRINTED


def quiet(status: Tensor) -> Tensor:
    """Return where a watched bar has no prints, (S, T) bool."""
    return status == QUIET


def observed(printed: Tensor, quiet: Tensor) -> Tensor:
    """Return where the whole bar was watched, (S, T) bool."""
    return printed | quiet


def silent(quiet: Tensor, trades_applicable: Tensor) -> Tensor:
    """Return where provably nothing printed, (S, T) bool; false everywhere at a venue without a trade feed."""
    return quiet & (trades_applicable != 0.0)


def taped(printed: Tensor, silent: Tensor) -> Tensor:
    """Return where every print of the bar is known, (S, T) bool."""
    return printed | silent


def where_observed(x: Tensor, observed: Tensor) -> Tensor:
    """Return a value that does not depend on prints, masked where the bar was not watched."""
    return torch.where(observed, x, math.nan)


def where_printed(x: Tensor, printed: Tensor) -> Tensor:
    """Return a price, masked where nothing printed."""
    return torch.where(printed, x, math.nan)


def zero_where_silent(x: Tensor, printed: Tensor, silent: Tensor) -> Tensor:
    """Return an amount, zero where provably nothing printed and masked where that is unknown."""
    return torch.where(silent, 0.0, torch.where(printed, x, math.nan))


def while_fresh(x: Tensor, observed: Tensor, age_ms: Tensor, *, limit_ms: float) -> Tensor:
    """Return a state as of the close, masked where the bar was not watched or the state is known to be stale."""
    return torch.where(observed & ~(age_ms > limit_ms), x, math.nan)


def while_in_cadence(
    x: Tensor,
    observed: Tensor,
    age_ms: Tensor,
    cadence_ms: Tensor,
    *,
    least_ms: float,
    most_ms: float,
    limit_ms: float,
) -> Tensor:
    """Return a book state as of the close, masked where books arrive at another cadence."""
    is_regime = (cadence_ms >= least_ms) & (cadence_ms <= most_ms)
    return torch.where(observed & is_regime & (age_ms <= limit_ms), x, math.nan)


def last_log_price(close: Tensor, quiet: Tensor) -> Tensor:
    """Return the log price of the last print, carried through quiet bars."""
    return carry(torch.log(close), quiet, CARRY_BARS)


def last_price_age(close: Tensor, quiet: Tensor) -> Tensor:
    """Return the number of bars since the last print; 0 where this bar printed."""
    return carry(torch.where(torch.isnan(close), close, 0.0), quiet, CARRY_BARS, ageing=1.0)


def log_mid(bid: Tensor, ask: Tensor) -> Tensor:
    """Return the log of the mid of the closing quotes; missing where they are crossed."""
    return torch.where(ask >= bid, torch.log((bid + ask) / 2.0), math.nan)


def step_change(x: Tensor) -> Tensor:
    """Return the change over one bar."""
    return x - shift(x, 1)


def of_leader(x: Tensor, row: Tensor) -> Tensor:
    """Return the leader's value for each instrument, (S, T) float64; NaN where the panel lacks the leader.

    Args:
        row: (S, T) int64, the leader's index among the instruments; -1 where the panel lacks it.
    """
    return torch.where(row >= 0, torch.gather(x, 0, torch.clamp(row, min=0)), math.nan)


def is_leader_observed(observed: Tensor, row: Tensor) -> Tensor:
    """Return where each instrument's leader was observed, (S, T) bool."""
    return (row >= 0) & torch.gather(observed, 0, torch.clamp(row, min=0))


def share_of(ts_close_ns: Tensor, *, span_ns: float) -> Tensor:
    """Return the elapsed share of the UTC hour, day or week at each close, (T,) float64 in [0, 1).

    Args:
        span_ns: length of the hour, day or week; weeks begin on Sunday.
    """
    return ((ts_close_ns - _SUNDAY_NS) % int(span_ns)).to(torch.float64) / span_ns


def _declared() -> Iterable[Input]:
    yield Input("printed", printed, (STATUS,))
    yield Input("quiet", quiet, (STATUS,))
    yield Input("observed", observed, ("printed", "quiet"))
    yield Input("silent", silent, ("quiet", "panel.trades_applicable"))
    yield Input("taped", taped, ("printed", "silent"))
    yield from _prints()
    yield from _states()
    yield from _books()
    yield from _leaders()
    for name, span_ns in (("hour", _HOUR_NS), ("day", DAY_NS), ("week", _WEEK_NS)):
        yield Input(f"{name}_share", share_of, (CLOCK,), params=(("span_ns", span_ns),))


def _prints() -> Iterable[Input]:
    for name in PRICES:
        yield Input(name, where_printed, (f"panel.{name}", "printed"))
    for name in AMOUNTS:
        yield Input(name, zero_where_silent, (f"panel.{name}", "printed", "silent"))
    yield Input("log_price", last_log_price, ("close", "quiet"), lookback_bars=CARRY_BARS - 1)
    yield Input("price_age", last_price_age, ("close", "quiet"), lookback_bars=CARRY_BARS - 1)
    yield Input("step_return", step_change, ("log_price",), lookback_bars=1)


def _states() -> Iterable[Input]:
    yield Input("session", where_observed, ("panel.session", "observed"))
    for names, age, limit_ms in (
        ((*QUOTES, "quote_age_ms"), "quote_age_ms", QUOTE_LIMIT_MS),
        ((*CONTEXTS, "context_age_ms"), "context_age_ms", CONTEXT_LIMIT_MS),
        (("paid_rate", "paid_age_ms"), "paid_age_ms", PAID_NS / MS_NS),
        (("relay_lag_ms", "relay_age_ms"), "relay_age_ms", RELAY_NS / MS_NS),
    ):
        for name in names:
            leaves = (f"panel.{name}", "observed", f"panel.{age}")
            yield Input(name, while_fresh, leaves, params=(("limit_ms", limit_ms),))
    yield Input("log_mid", log_mid, ("bid", "ask"))


def _books() -> Iterable[Input]:
    for cadence, (least_ms, most_ms, limit_ms) in CADENCES.items():
        for name in ("bid_depth", "ask_depth", "book_age_ms"):
            yield Input(
                f"{cadence}_{name}",
                while_in_cadence,
                (f"panel.{name}", "observed", "panel.book_age_ms", "panel.book_cadence_ms"),
                params=(("least_ms", least_ms), ("most_ms", most_ms), ("limit_ms", limit_ms)),
            )


def _leaders() -> Iterable[Input]:
    for name in LEADERS:
        yield Input(f"{name}_log_price", of_leader, ("log_price", f"panel.{name}_row"))
        yield Input(f"{name}_step_return", step_change, (f"{name}_log_price",), lookback_bars=1)
        yield Input(f"{name}_observed", is_leader_observed, ("observed", f"panel.{name}_row"))


INPUTS: Final[dict[str, Input]] = {item.name: item for item in _declared()}


def lookback_of(names: Iterable[str]) -> int:
    """Return the largest lookback of these inputs in bars, including their own inputs."""
    deepest = 0
    for name in names:
        if name not in LEAVES:
            item = INPUTS[name]
            deepest = max(deepest, item.lookback_bars + lookback_of(item.inputs))
    return deepest


def reads_clock(names: Iterable[str]) -> bool:
    """Return whether any of these inputs is derived from the clock."""
    return any(name == CLOCK or (name in INPUTS and reads_clock(INPUTS[name].inputs)) for name in names)


def leaves_of(panel: Panel) -> dict[str, Tensor]:
    """Return the leaves of a panel, by name."""
    leaves = {f"panel.{name}": panel.column(name) for name in COLUMNS}
    leaves[STATUS] = panel.status
    leaves[CLOCK] = torch.from_numpy(panel.ts_close_ns).to(panel.status.device)
    for name, symbol in LEADERS.items():
        row = leader_rows(panel.instruments, symbol).to(panel.status.device)
        leaves[f"panel.{name}_row"] = row[:, None].expand(panel.status.shape)
    return leaves


@lru_cache
def leader_rows(instruments: tuple[str, ...], symbol: str) -> Tensor:
    """Return the index of each instrument's leader among the instruments, (S,) int64; -1 where it is absent.

    The leader is the perp, or else the spot pair, of that symbol at the instrument's own venue, or at the relayed venue
    if the instrument's venue is a relay. The other instruments in a panel do not affect which one leads.

    >>> leader_rows(("bitfinex|spot|BTC", "gaiaex|perp|SOL", "hyperliquid|perp|BTC", "hyperliquid|spot|@1"), "BTC")
    tensor([0, 2, 2, 2])
    """
    place = {name: row for row, name in enumerate(instruments)}
    rows = []
    for name in instruments:
        venue = name.partition("|")[0]
        leaders = [f"{_RELAYED.get(venue, venue)}|{kind}|{symbol}" for kind in ("perp", "spot")]
        rows.append(next((place[leader] for leader in leaders if leader in place), -1))
    return torch.tensor(rows, dtype=torch.int64)


class InputView:
    """Lazily computed, cached inputs of one panel.

    Args:
        leaves: as `leaves_of` returns them.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self._computed: dict[str, Tensor] = dict(leaves)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._computed:
            item = INPUTS[name]
            self._computed[name] = item.function(*(self[part] for part in item.inputs), **dict(item.params))
        return self._computed[name]
