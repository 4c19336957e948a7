"""The same features as plain loops over one cell at a time: slow, and written from the formulas alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from features.panel import Panel
from storage.clock import DAY_NS
from storage.contracts import STATUSES

Cell = float | None
CARRIED_BARS = 31


class Rows:
    """A panel as lists, with the rules of what may be read."""

    def __init__(self, panel: Panel) -> None:
        self.n_instruments = panel.n_instruments
        self._values = {name: value.tolist() for name, value in panel.values.items()}
        self._status = panel.status.tolist()
        self._close_ns = panel.ts_close_ns.tolist()

    def status(self, s: int, t: int) -> str:
        return STATUSES[self._status[s][t]] if t >= 0 else "unknown"

    def is_observed(self, s: int, t: int) -> bool:
        return self.status(s, t) in ("printed", "quiet")

    def _raw(self, name: str, s: int, t: int) -> Cell:
        value = self._values[name][s][t]
        return None if math.isnan(value) else float(value)

    def price(self, name: str, s: int, t: int) -> Cell:
        return self._raw(name, s, t) if self.status(s, t) == "printed" else None

    def amount(self, name: str, s: int, t: int) -> Cell:
        if self.status(s, t) == "quiet":
            return 0.0
        return self._raw(name, s, t) if self.status(s, t) == "printed" else None

    def state(self, name: str, s: int, t: int, age: str, limit_ms: float) -> Cell:
        age_ms = self._raw(age, s, t)
        if not self.is_observed(s, t) or (age_ms is not None and age_ms > limit_ms):
            return None
        return self._raw(name, s, t)

    def quote(self, name: str, s: int, t: int) -> Cell:
        return self.state(name, s, t, "quote_age_ms", 300_000)

    def context(self, name: str, s: int, t: int) -> Cell:
        return self.state(name, s, t, "context_age_ms", 120_000)

    def last(self, s: int, t: int) -> tuple[float, int] | None:
        """Return the last price and its age in bars, walking back through quiet bars only."""
        for age in range(CARRIED_BARS + 1):
            if self.status(s, t - age) == "printed":
                close = self.price("close", s, t - age)
                return None if close is None else (close, age)
            if self.status(s, t - age) != "quiet":
                return None
        return None

    def day_share(self, t: int) -> float:
        return float(self._close_ns[t] % DAY_NS) / DAY_NS


def _enough(found: int, bars: int) -> bool:
    return found >= 0.8 * bars - 1e-9


def _mean(cells: list[Cell]) -> Cell:
    found = [cell for cell in cells if cell is not None]
    return math.fsum(found) / len(found) if _enough(len(found), len(cells)) else None


def _window(t: int, bars: int) -> range:
    return range(t - bars + 1, t + 1)


def log_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now, then = rows.last(s, t), rows.last(s, t - bars)
    if (
        now is None
        or then is None
        or not _enough(sum(rows.is_observed(s, i) for i in _window(t, bars)), bars)
    ):
        return None
    return math.log(now[0]) - math.log(then[0])


def realised_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    changes: list[Cell] = []
    for i in _window(t, bars):
        change = log_return(rows, s, i, 1)
        changes.append(None if change is None else change**2)
    mean = _mean(changes)
    return None if mean is None else math.sqrt(mean)


def parkinson_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    ranges: list[Cell] = []
    for i in _window(t, bars):
        high, low = rows.price("high", s, i), rows.price("low", s, i)
        if rows.status(s, i) == "quiet":
            ranges.append(0.0)
        else:
            ranges.append(None if high is None or low is None else math.log(high / low) ** 2)
    mean = _mean(ranges)
    return None if mean is None else math.sqrt(mean / (4.0 * math.log(2.0)))


def volume_score(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now = rows.amount("volume", s, t)
    before = [rows.amount("volume", s, i) for i in range(t - bars, t)]
    roots = [math.sqrt(cell) for cell in before if cell is not None]
    if now is None or not _enough(len(roots), bars):
        return None
    mean = math.fsum(roots) / len(roots)
    deviation = math.sqrt(math.fsum((root - mean) ** 2 for root in roots) / len(roots))
    return (math.sqrt(now) - mean) / deviation


def empty_share(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _mean(
        [float(rows.status(s, i) == "quiet") if rows.is_observed(s, i) else None for i in _window(t, bars)]
    )


def price_age(rows: Rows, s: int, t: int) -> Cell:
    last = rows.last(s, t)
    return None if last is None else float(last[1])


def return_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = [log_return(rows, other, t, bars) for other in range(rows.n_instruments)]
    own, found = every[s], [cell for cell in every if cell is not None]
    if own is None or len(found) < 3:
        return None
    lower, equal = sum(cell < own for cell in found), sum(cell == own for cell in found) - 1
    return (lower + equal / 2.0) / (len(found) - 1) - 0.5


def market_residual(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = [log_return(rows, other, t, bars) for other in range(rows.n_instruments)]
    own, found = every[s], [cell for cell in every if cell is not None]
    if own is None or len(found) < 3:
        return None
    return own - math.fsum(found) / len(found)


def flow_imbalance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    pairs = [(rows.amount("buy_volume", s, i), rows.amount("volume", s, i)) for i in _window(t, bars)]
    known = [(buy, all_) for buy, all_ in pairs if buy is not None and all_ is not None]
    volume = math.fsum(all_ for _, all_ in known)
    if not _enough(len(known), bars) or volume == 0.0:
        return None
    bought = math.fsum(buy for buy, _ in known)
    return (bought - (volume - bought)) / volume


def vwap_distance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    last = rows.last(s, t)
    pairs = [(rows.amount("notional", s, i), rows.amount("volume", s, i)) for i in _window(t, bars)]
    known = [(paid, all_) for paid, all_ in pairs if paid is not None and all_ is not None]
    volume = math.fsum(all_ for _, all_ in known)
    if last is None or not _enough(len(known), bars) or volume == 0.0:
        return None
    return math.log(last[0]) - math.log(math.fsum(paid for paid, _ in known) / volume)


def print_rate(rows: Rows, s: int, t: int, bars: int) -> Cell:
    mean = _mean([rows.amount("trades", s, i) for i in _window(t, bars)])
    return None if mean is None else math.log(1.0 + mean)


def relative_spread(rows: Rows, s: int, t: int) -> Cell:
    bid, ask = rows.quote("bid", s, t), rows.quote("ask", s, t)
    if bid is None or ask is None or ask < bid:
        return None
    return 1e4 * (ask - bid) / ((bid + ask) / 2.0)


def queue_imbalance(rows: Rows, s: int, t: int) -> Cell:
    bid_size, ask_size = rows.quote("bid_size", s, t), rows.quote("ask_size", s, t)
    if bid_size is None or ask_size is None or bid_size + ask_size == 0.0:
        return None
    return (bid_size - ask_size) / (bid_size + ask_size)


def microprice_distance(rows: Rows, s: int, t: int) -> Cell:
    bid, ask = rows.quote("bid", s, t), rows.quote("ask", s, t)
    bid_size, ask_size = rows.quote("bid_size", s, t), rows.quote("ask_size", s, t)
    if bid is None or ask is None or bid_size is None or ask_size is None:
        return None
    if ask < bid or bid_size + ask_size == 0.0:
        return None
    mid = (bid + ask) / 2.0
    return 1e4 * ((bid * ask_size + ask * bid_size) / (bid_size + ask_size) - mid) / mid


def funding_level(rows: Rows, s: int, t: int) -> Cell:
    rate = rows.context("funding_rate", s, t)
    return None if rate is None else rate * 1e4


def mark_basis(rows: Rows, s: int, t: int) -> Cell:
    mark, oracle = rows.context("mark", s, t), rows.context("oracle", s, t)
    return None if mark is None or oracle is None else 1e4 * math.log(mark / oracle)


def hour_sin(rows: Rows, s: int, t: int) -> Cell:
    return math.sin(2.0 * math.pi * rows.day_share(t))


def hour_cos(rows: Rows, s: int, t: int) -> Cell:
    return math.cos(2.0 * math.pi * rows.day_share(t))


REFERENCES: dict[str, Callable[..., Cell]] = {
    function.__name__: function
    for function in (
        log_return,
        realised_volatility,
        parkinson_volatility,
        volume_score,
        empty_share,
        price_age,
        return_rank,
        market_residual,
        flow_imbalance,
        vwap_distance,
        print_rate,
        relative_spread,
        queue_imbalance,
        microprice_distance,
        funding_level,
        mark_basis,
        hour_sin,
        hour_cos,
    )
}
