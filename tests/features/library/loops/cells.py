"""Access to a panel's cells, and helpers shared by the reference loops."""

from __future__ import annotations

import math
from functools import cache

from features.panel.panel import Panel
from storage.clock import DAY_NS, NS
from storage.contracts.tables import SESSIONS, STATUSES

Cell = float | None
CARRIED_BARS = 31


class Rows:
    """A panel as lists, with the rules for what may be read."""

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

    def leader(self, symbol: str, s: int) -> int | None:
        venue = self.instruments[s].split("|")[0]
        found = [i for i, name in enumerate(self.instruments) if name == f"{venue}|perp|{symbol}"]
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

    def mid(self, s: int, t: int) -> Cell:
        bid, ask = (self.quote(name, s, t) if t >= 0 else None for name in ("bid", "ask"))
        return None if bid is None or ask is None or ask < bid else (bid + ask) / 2.0

    def day_share(self, t: int) -> float:
        return float(self._close_ns[t] % DAY_NS) / DAY_NS

    def week_share(self, t: int) -> float:
        # 2023-01-01 00:00 UTC was a Sunday.
        return float((self._close_ns[t] - 1_672_531_200 * NS) % (7 * DAY_NS)) / (7 * DAY_NS)


def enough(found: int, bars: int) -> bool:
    return found >= 0.8 * bars - 1e-9


def mean_of(cells: list[Cell]) -> Cell:
    found = [cell for cell in cells if cell is not None]
    return math.fsum(found) / len(found) if enough(len(found), len(cells)) else None


def window(t: int, bars: int) -> range:
    return range(t - bars + 1, t + 1)


@cache
def step_return(rows: Rows, s: int, t: int) -> Cell:
    now, then = rows.last(s, t), rows.last(s, t - 1)
    return None if now is None or then is None else math.log(now[0]) - math.log(then[0])


def steps_of(rows: Rows, s: int, t: int, bars: int) -> list[Cell]:
    return [step_return(rows, s, i) for i in window(t, bars)]


def squares_of(cells: list[Cell]) -> list[Cell]:
    return [None if cell is None else cell**2 for cell in cells]


def ratio_of(above: Cell, below: Cell) -> Cell:
    return None if above is None or not below else above / below


def moments_of(pairs: list[tuple[Cell, Cell]]) -> tuple[float, float, float] | None:
    """Return covariance and both variances of the complete pairs, if there are enough; a variance may be zero."""
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    if not enough(len(known), len(pairs)):
        return None
    n = len(known)
    mean_x, mean_y = math.fsum(x for x, _ in known) / n, math.fsum(y for _, y in known) / n
    covariance = math.fsum((x - mean_x) * (y - mean_y) for x, y in known) / n
    var_x = math.fsum((x - mean_x) ** 2 for x, _ in known) / n
    var_y = math.fsum((y - mean_y) ** 2 for _, y in known) / n
    return covariance, var_x, var_y
