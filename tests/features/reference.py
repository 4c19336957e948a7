"""The same features as plain loops over one cell at a time: slow, and written from the formulas alone."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from features.panel import Panel
from storage.clock import DAY_NS, NS
from storage.contracts import SESSIONS, STATUSES

Cell = float | None
CARRIED_BARS = 31


class Rows:
    """A panel as lists, with the rules of what may be read."""

    def __init__(self, panel: Panel) -> None:
        self.instruments = panel.instruments
        self.n_instruments = panel.n_instruments
        self._values = {name: value.tolist() for name, value in panel.values.items()}
        self._status = panel.status.tolist()
        self._close_ns = panel.ts_close_ns.tolist()

    def status(self, s: int, t: int) -> str:
        return STATUSES[self._status[s][t]] if t >= 0 else "unknown"

    def __hash__(self) -> int:
        return id(self)

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

    def book(self, name: str, s: int, t: int, cadence: str) -> Cell:
        least_ms, most_ms, limit_ms = {"fast": (0, 1_000, 5_000), "slow": (2_500, 10_000, 30_000)}[cadence]
        every_ms, age_ms = self._raw("book_cadence_ms", s, t), self._raw("book_age_ms", s, t)
        if every_ms is None or age_ms is None or not least_ms <= every_ms <= most_ms or age_ms > limit_ms:
            return None
        return self._raw(name, s, t) if self.is_observed(s, t) else None

    def session(self, s: int, t: int) -> str | None:
        code = self._raw("session", s, t) if self.is_observed(s, t) else None
        return None if code is None else SESSIONS[int(code)]

    def leader(self, symbol: str) -> int | None:
        found = [s for s, name in enumerate(self.instruments) if name.endswith(f"|perp|{symbol}")]
        return found[0] if found else None

    @cache  # noqa: B019  (as long as the test)
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

    def week_share(self, t: int) -> float:
        # 2023-01-01 00:00 UTC was a Sunday.
        return float((self._close_ns[t] - 1_672_531_200 * NS) % (7 * DAY_NS)) / (7 * DAY_NS)


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


@cache
def step_return(rows: Rows, s: int, t: int) -> Cell:
    now, then = rows.last(s, t), rows.last(s, t - 1)
    return None if now is None or then is None else math.log(now[0]) - math.log(then[0])


def _steps(rows: Rows, s: int, t: int, bars: int) -> list[Cell]:
    return [step_return(rows, s, i) for i in _window(t, bars)]


def _squares(cells: list[Cell]) -> list[Cell]:
    return [None if cell is None else cell**2 for cell in cells]


def _ratio(above: Cell, below: Cell) -> Cell:
    return None if above is None or not below else above / below


def momentum(rows: Rows, s: int, t: int, bars: int) -> Cell:
    change, mean = log_return(rows, s, t, bars), _mean(_squares(_steps(rows, s, t, bars)))
    return _ratio(change, None if mean is None else math.sqrt(mean) * math.sqrt(bars))


def range_position(rows: Rows, s: int, t: int, bars: int) -> Cell:
    last = rows.last(s, t)
    highs = [cell for i in _window(t, bars) if (cell := rows.price("high", s, i)) is not None]
    lows = [cell for i in _window(t, bars) if (cell := rows.price("low", s, i)) is not None]
    if last is None or not highs or not lows or max(highs) <= min(lows):
        return None
    if not _enough(sum(rows.is_observed(s, i) for i in _window(t, bars)), bars):
        return None
    return math.log(last[0] / min(lows)) / math.log(max(highs) / min(lows))


def variance_ratio(rows: Rows, s: int, t: int, bars: int) -> Cell:
    ends: list[Cell] = []
    for i in _window(t, bars - 4):
        now, then = rows.last(s, i), rows.last(s, i - 5)
        ends.append(None if now is None or then is None else math.log(now[0] / then[0]) ** 2)
    ratio = _ratio(_mean(ends), _mean(_squares(_steps(rows, s, t, bars))))
    return None if ratio is None else ratio / 5.0 - 1.0


def _bipower(rows: Rows, s: int, t: int, bars: int) -> Cell:
    steps = _steps(rows, s, t, bars)
    pairs = [None if a is None or b is None else abs(a) * abs(b) for a, b in pairwise(steps)]
    mean = _mean(pairs)
    return None if mean is None else mean * math.pi / 2.0


def bipower_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    variance = _bipower(rows, s, t, bars)
    return None if variance is None else math.sqrt(variance)


def jump_share(rows: Rows, s: int, t: int, bars: int) -> Cell:
    whole, smooth = _mean(_squares(_steps(rows, s, t, bars))), _bipower(rows, s, t, bars)
    return None if smooth is None or not whole else max(whole - smooth, 0.0) / whole


def jump_balance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    signs: list[Cell] = []
    for i in _window(t, bars):
        change, usual = step_return(rows, s, i), _bipower(rows, s, i - 1, 60)
        if change is None or usual is None:
            signs.append(None)
        else:
            signs.append(math.copysign(1.0, change) if abs(change) > 4.0 * math.sqrt(usual) else 0.0)
    mean = _mean(signs)
    return None if mean is None else bars * mean


def semivariance_balance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    steps = [cell for cell in _steps(rows, s, t, bars) if cell is not None]
    whole = math.fsum(cell**2 for cell in steps)
    if not _enough(len(steps), bars) or whole == 0.0:
        return None
    return math.fsum(math.copysign(cell**2, cell) for cell in steps) / whole


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


def _signed(rows: Rows, s: int, t: int) -> Cell:
    buy, volume = rows.amount("buy_volume", s, t), rows.amount("volume", s, t)
    return None if buy is None or volume is None else buy - (volume - buy)


def signed_flow(rows: Rows, s: int, t: int, bars: int) -> Cell:
    mean = _mean([_signed(rows, s, i) for i in _window(t, bars)])
    return _ratio(
        None if mean is None else bars * mean, _mean([rows.amount("volume", s, i) for i in _window(t, 120)])
    )


def _moments(pairs: list[tuple[Cell, Cell]]) -> tuple[float, float, float] | None:
    """Return covariance and both variances of the pairs that exist, where enough do and both vary."""
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    if not _enough(len(known), len(pairs)):
        return None
    n = len(known)
    mean_x, mean_y = math.fsum(x for x, _ in known) / n, math.fsum(y for _, y in known) / n
    covariance = math.fsum((x - mean_x) * (y - mean_y) for x, y in known) / n
    var_x = math.fsum((x - mean_x) ** 2 for x, _ in known) / n
    var_y = math.fsum((y - mean_y) ** 2 for _, y in known) / n
    return (covariance, var_x, var_y) if var_x > 0.0 and var_y > 0.0 else None


def price_impact(rows: Rows, s: int, t: int, bars: int) -> Cell:
    moments = _moments([(step_return(rows, s, i), _signed(rows, s, i)) for i in _window(t, bars)])
    usual = _mean([rows.amount("volume", s, i) for i in _window(t, bars)])
    return None if moments is None or usual is None else 1e4 * usual * moments[0] / moments[2]


def empty_share(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _mean(
        [float(rows.status(s, i) == "quiet") if rows.is_observed(s, i) else None for i in _window(t, bars)]
    )


def price_age(rows: Rows, s: int, t: int) -> Cell:
    last = rows.last(s, t)
    return None if last is None else float(last[1])


def return_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _rank([log_return(rows, other, t, bars) for other in range(rows.n_instruments)], s)


def market_residual(rows: Rows, s: int, t: int, bars: int) -> Cell:
    own, mean = log_return(rows, s, t, bars), market_return(rows, s, t, bars)
    return None if own is None or mean is None else own - mean


def _over(every: list[Cell]) -> Cell:
    found = [cell for cell in every if cell is not None]
    return math.fsum(found) / len(found) if len(found) >= 3 else None


def _rank(every: list[Cell], s: int) -> Cell:
    own, found = every[s], [cell for cell in every if cell is not None]
    if own is None or len(found) < 3:
        return None
    lower, equal = sum(cell < own for cell in found), sum(cell == own for cell in found) - 1
    return (lower + equal / 2.0) / (len(found) - 1) - 0.5


def market_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _over([log_return(rows, other, t, bars) for other in range(rows.n_instruments)])


def market_dispersion(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = [log_return(rows, other, t, bars) for other in range(rows.n_instruments)]
    mean = _over(every)
    return None if mean is None else _over([None if cell is None else abs(cell - mean) for cell in every])


def volatility_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _rank([_mean(_squares(_steps(rows, other, t, bars))) for other in range(rows.n_instruments)], s)


def volume_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = []
    for other in range(rows.n_instruments):
        usual = _mean([rows.amount("volume", other, i) for i in range(t - bars, t)])
        every.append(_ratio(rows.amount("volume", other, t), usual))
    return _rank(every, s)


def _of_leader(loop: Callable[..., Cell], rows: Rows, symbol: str, t: int, *args: int) -> Cell:
    leader = rows.leader(symbol)
    return None if leader is None else loop(rows, leader, t, *args)


def btc_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _of_leader(log_return, rows, "BTC", t, bars)


def eth_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _of_leader(log_return, rows, "ETH", t, bars)


def _lead(rows: Rows, symbol: str, s: int, t: int, bars: int) -> Cell:
    moments = _moments(
        [
            (step_return(rows, s, i), _of_leader(step_return, rows, symbol, i - 1))
            for i in _window(t, bars - 1)
        ]
    )
    return None if moments is None else moments[0] / math.sqrt(moments[1] * moments[2])


def btc_lead(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _lead(rows, "BTC", s, t, bars)


def eth_lead(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _lead(rows, "ETH", s, t, bars)


def btc_beta(rows: Rows, s: int, t: int, bars: int) -> Cell:
    moments = _moments(
        [(step_return(rows, s, i), _of_leader(step_return, rows, "BTC", i)) for i in _window(t, bars)]
    )
    return None if moments is None else moments[0] / moments[2]


def btc_residual(rows: Rows, s: int, t: int, bars: int) -> Cell:
    own, led = log_return(rows, s, t, bars), _of_leader(log_return, rows, "BTC", t, bars)
    beta = btc_beta(rows, s, t, 120)
    return None if own is None or led is None or beta is None else own - beta * led


def _decayed(cells: list[Cell], half_life: float) -> Cell:
    """Return the weighted mean; the newest cell is the last."""
    weights = [2.0 ** (-age / half_life) for age in reversed(range(len(cells)))]
    known = [(cell, weight) for cell, weight in zip(cells, weights, strict=True) if cell is not None]
    weight = math.fsum(weight for _, weight in known)
    if weight < 0.8 * math.fsum(weights) - 1e-9:
        return None
    return math.fsum(cell * weight for cell, weight in known) / weight


def volatility_regime(rows: Rows, s: int, t: int, bars: int) -> Cell:
    squares = _squares(_steps(rows, s, t, bars))
    ratio = _ratio(_decayed(squares, 8.0), _decayed(squares, 40.0))
    return math.log(ratio) / 2.0 if ratio else None


def illiquidity_regime(rows: Rows, s: int, t: int, bars: int) -> Cell:
    sizes: list[Cell] = []
    traded: list[Cell] = []
    for i in _window(t, bars):
        change, last, volume = step_return(rows, s, i), rows.last(s, i), rows.amount("volume", s, i)
        is_known = change is not None and last is not None and volume is not None
        sizes.append(abs(change) if is_known and change is not None else None)
        traded.append(last[0] * volume if is_known and last is not None and volume is not None else None)
    short = _ratio(_decayed(sizes, 8.0), _decayed(traded, 8.0))
    ratio = _ratio(short, _ratio(_decayed(sizes, 40.0), _decayed(traded, 40.0)))
    return math.log(ratio) if ratio else None


def _state(ratio: Cell) -> Cell:
    return None if ratio is None else float((ratio > math.log(1.25)) - (ratio < -math.log(1.25)))


def volatility_state(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _state(volatility_regime(rows, s, t, bars))


def illiquidity_state(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _state(illiquidity_regime(rows, s, t, bars))


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


def _spread(rows: Rows, s: int, t: int) -> Cell:
    bid, ask = rows.quote("bid", s, t), rows.quote("ask", s, t)
    return None if bid is None or ask is None or ask < bid else (ask - bid) / (bid + ask)


def spread_ratio(rows: Rows, s: int, t: int, bars: int) -> Cell:
    ratio = _ratio(_spread(rows, s, t), _mean([_spread(rows, s, i) for i in _window(t, bars)]))
    return math.log(ratio) if ratio else None


def quote_flow(rows: Rows, s: int, t: int, bars: int) -> Cell:
    flows: list[Cell] = []
    queues: list[Cell] = []
    for i in _window(t, bars):
        now = [rows.quote(name, s, i) for name in ("bid", "ask", "bid_size", "ask_size")]
        then = [rows.quote(name, s, i - 1) for name in ("bid", "ask", "bid_size", "ask_size")]
        known = [cell for cell in (*now, *then) if cell is not None]
        if len(known) < 8:
            flows.append(None)
            queues.append(None)
            continue
        bid, ask, bid_size, ask_size, old_bid, old_ask, old_bid_size, old_ask_size = known
        flows.append(
            (bid >= old_bid) * bid_size
            - (bid <= old_bid) * old_bid_size
            - (ask <= old_ask) * ask_size
            + (ask >= old_ask) * old_ask_size
        )
        queues.append((bid_size + ask_size) / 2.0)
    mean = _mean(flows)
    return _ratio(None if mean is None else bars * mean, _mean(queues))


def quote_age(rows: Rows, s: int, t: int) -> Cell:
    age_ms = rows.quote("quote_age_ms", s, t)
    return None if age_ms is None else math.log(1.0 + age_ms / 1_000.0)


def depth_imbalance(rows: Rows, s: int, t: int, cadence: str) -> Cell:
    bid, ask = (rows.book(name, s, t, cadence) for name in ("bid_depth", "ask_depth"))
    return None if bid is None or ask is None or bid + ask == 0.0 else (bid - ask) / (bid + ask)


def book_depth(rows: Rows, s: int, t: int, cadence: str) -> Cell:
    deep = [rows.book(name, s, t, cadence) for name in ("bid_depth", "ask_depth")]
    best = [rows.quote(name, s, t) for name in ("bid", "ask")]
    known = [cell for cell in (*deep, *best) if cell is not None]
    whole = known[0] * known[2] + known[1] * known[3] if len(known) == 4 else 0.0
    return math.log(whole) if whole > 0.0 else None


def depth_behind(rows: Rows, s: int, t: int, cadence: str) -> Cell:
    deep = [rows.book(name, s, t, cadence) for name in ("bid_depth", "ask_depth")]
    best = [rows.quote(name, s, t) for name in ("bid_size", "ask_size")]
    known = [cell for cell in (*deep, *best) if cell is not None]
    ratio = _ratio(known[0] + known[1], known[2] + known[3]) if len(known) == 4 else None
    return math.log(ratio) if ratio else None


def book_age(rows: Rows, s: int, t: int, cadence: str) -> Cell:
    age_ms = rows.book("book_age_ms", s, t, cadence)
    return None if age_ms is None else math.log(1.0 + age_ms / 1_000.0)


def funding_level(rows: Rows, s: int, t: int) -> Cell:
    rate = rows.context("funding_rate", s, t)
    return None if rate is None else rate * 1e4


def mark_basis(rows: Rows, s: int, t: int) -> Cell:
    mark, oracle = rows.context("mark", s, t), rows.context("oracle", s, t)
    return None if mark is None or oracle is None else 1e4 * math.log(mark / oracle)


def mid_basis(rows: Rows, s: int, t: int) -> Cell:
    return _mid_above(rows, s, t, "oracle")


def mark_gap(rows: Rows, s: int, t: int) -> Cell:
    return _mid_above(rows, s, t, "mark")


def _mid_above(rows: Rows, s: int, t: int, name: str) -> Cell:
    bid, ask, other = rows.quote("bid", s, t), rows.quote("ask", s, t), rows.context(name, s, t)
    if bid is None or ask is None or other is None or ask < bid:
        return None
    return 1e4 * math.log((bid + ask) / 2.0 / other)


def funding_change(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now, then = rows.context("funding_rate", s, t), rows.context("funding_rate", s, t - bars)
    return None if now is None or then is None else 1e4 * (now - then)


def open_interest_change(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now, then = rows.context("open_interest", s, t), rows.context("open_interest", s, t - bars)
    return math.log(now) - math.log(then) if now and then else None


def context_age(rows: Rows, s: int, t: int) -> Cell:
    age_ms = rows.context("context_age_ms", s, t)
    return None if age_ms is None else math.log(1.0 + age_ms / 1_000.0)


def funding_paid(rows: Rows, s: int, t: int) -> Cell:
    rate = rows.state("paid_rate", s, t, "paid_age_ms", 9 * 3_600_000)
    return None if rate is None else 1e4 * rate


def funding_paid_age(rows: Rows, s: int, t: int) -> Cell:
    age_ms = rows.state("paid_age_ms", s, t, "paid_age_ms", 9 * 3_600_000)
    return None if age_ms is None else age_ms / 3_600_000


def funding_due(rows: Rows, s: int, t: int) -> Cell:
    hours = rows.day_share(t) * 24.0
    return math.floor(hours + 1e-9) + 1.0 - hours


def relay_lag(rows: Rows, s: int, t: int) -> Cell:
    lag_ms = rows.state("relay_lag_ms", s, t, "relay_age_ms", 300_000)
    return None if lag_ms is None else math.log(1.0 + lag_ms)


def relay_lag_age(rows: Rows, s: int, t: int) -> Cell:
    age_ms = rows.state("relay_age_ms", s, t, "relay_age_ms", 300_000)
    return None if age_ms is None else age_ms / 1_000.0


def week_sin(rows: Rows, s: int, t: int) -> Cell:
    return math.sin(2.0 * math.pi * rows.week_share(t))


def week_cos(rows: Rows, s: int, t: int) -> Cell:
    return math.cos(2.0 * math.pi * rows.week_share(t))


def session_regular(rows: Rows, s: int, t: int) -> Cell:
    return None if rows.session(s, t) is None else float(rows.session(s, t) == "regular")


def session_extended(rows: Rows, s: int, t: int) -> Cell:
    return None if rows.session(s, t) is None else float(rows.session(s, t) == "extended")


def session_internal(rows: Rows, s: int, t: int) -> Cell:
    return None if rows.session(s, t) is None else float(rows.session(s, t) == "internal")


def hour_sin(rows: Rows, s: int, t: int) -> Cell:
    return math.sin(2.0 * math.pi * rows.day_share(t))


def hour_cos(rows: Rows, s: int, t: int) -> Cell:
    return math.cos(2.0 * math.pi * rows.day_share(t))


REFERENCES: dict[str, Callable[..., Cell]] = {
    name: function
    for name, function in list(globals().items())
    if callable(function)
    and getattr(function, "__module__", "") == __name__
    and name[0] in string.ascii_lowercase
}
