"""Simulated streams of prints whose every silence is real, for the rate of false alarms.

Coins print as Poisson processes, in clusters, or with gaps of a lognormal distribution, from twice a day to once a
minute. The judge and the ledger get them as a recorder would: prints half a second late, quotes without pause, a tick
two seconds after each minute, and after each request for a new subscription the last 30 prints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest.bars.bar_status import QUIET, bar_status
from ingest.coverage.ledger import TRADES, CoverageLedger
from ingest.coverage.rhythm import LEAST_GAPS
from ingest.coverage.silence import SilenceJudge
from storage.clock import MS_NS, NS, parse_time_ns

START_NS: Final = parse_time_ns("2026-01-05T00:00:00Z")
MINUTE_NS: Final = 60 * NS
DAY_MINUTES: Final = 1_440
KINDS: Final = ("poisson", "clusters", "lognormal")
_LAG_NS: Final = NS // 2
_GRACE_NS: Final = 2 * NS
_RESENT: Final = 30
_LATER: Final = 10
_BEFORE_DAYS: Final = 30

Times = NDArray[np.int64]


@dataclass
class SimulatedStream:
    """One coin: its prints (ns, rising), and what became of its bars without a print."""

    instrument: str
    kind: str
    a_day: float
    times_ns: Times
    first_ns: int
    """Bars count from here on."""
    silent: int = 0
    at_grace: int = 0
    """Bars without a print that were not quiet when they were published."""
    later: int = 0
    """Those that were not quiet ten minutes later."""
    renewals: int = 0
    causes: dict[str, int] = field(default_factory=dict)


def streams(coins: int, days: float, seed: int) -> list[SimulatedStream]:
    """Return coins with rates from 2 a day to 1 a minute, evenly on a log scale, of each kind in turn."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(coins):
        kind = KINDS[number % len(KINDS)]
        share = number / max(1, coins - 1)
        a_day = math.exp(math.log(2) + share * math.log(DAY_MINUTES / 2))
        gaps_s = _gaps_s(rng, kind, a_day, round((days + _BEFORE_DAYS) * a_day * 1.5) + 200)
        times = np.cumsum(gaps_s) - _BEFORE_DAYS * 86_400
        times_ms = np.unique(np.round(times[times < days * 86_400] * 1000).astype(np.int64))
        times_ns = START_NS + times_ms * MS_NS
        found.append(SimulatedStream(f"hyperliquid|perp|C{number}", kind, a_day, times_ns, START_NS))
    return found


def _gaps_s(rng: np.random.Generator, kind: str, a_day: float, count: int) -> NDArray[np.float64]:
    mean_s = 86_400 / a_day
    if kind == "poisson":
        return rng.exponential(mean_s, count)
    if kind == "lognormal":
        return rng.lognormal(math.log(mean_s) - 1.125, 1.5, count)
    # Clusters of five on average, a second or two between their prints.
    is_new = rng.random(count) < 0.2
    return np.where(is_new, rng.exponential(5 * mean_s, count), rng.exponential(1.5, count))


class SimulatedRecorder:
    """A judge and a ledger with all streams on one connection."""

    def __init__(self, coins: Sequence[SimulatedStream], *, is_resent: bool) -> None:
        """Start at `START_NS`; the venue resends the last prints only if `is_resent` (else all coins are new)."""
        self.coins = {coin.instrument: coin for coin in coins}
        self.ledger = CoverageLedger(
            "made",
            silence_ns=120 * NS,
            lag_ns=1_100 * MS_NS,
            horizon_ns=4 * DAY_MINUTES * MINUTE_NS,
            is_inferred=False,
        )
        self.judge = SilenceJudge(self.ledger, 4 * DAY_MINUTES * MINUTE_NS)
        self.ledger.open(0)
        for coin in coins:
            self.ledger.subscribe(0, TRADES, coin.instrument, START_NS)
            if is_resent:
                before = coin.times_ns[coin.times_ns < START_NS][-_RESENT:].tolist()
                self.judge.add_resent(coin.instrument, before, oldest_ns=before[0], now_ns=START_NS + _LAG_NS)
            else:
                coin.times_ns = coin.times_ns[coin.times_ns >= START_NS]
                known = coin.times_ns[LEAST_GAPS : LEAST_GAPS + 1]
                coin.first_ns = int(known[0]) if len(known) else 1 << 62
        parts = [(coin.times_ns, self.judge.rhythm.code(coin.instrument)) for coin in coins]
        times = np.concatenate([part for part, _ in parts])
        codes = np.concatenate([np.full(len(part), code) for part, code in parts])
        order = np.argsort(times, kind="stable")
        self._times, self._codes = times[order], codes[order]

    def run(self, minutes: int) -> None:
        """Run for some minutes, and count."""
        cuts = np.searchsorted(
            self._times, START_NS + np.arange(minutes + 1) * MINUTE_NS + _GRACE_NS - _LAG_NS
        )
        cuts[0] = np.searchsorted(self._times, START_NS)
        waiting: list[list[tuple[SimulatedStream, int]]] = []
        for minute in range(minutes):
            part = slice(int(cuts[minute]), int(cuts[minute + 1]))
            open_ns = START_NS + minute * MINUTE_NS
            now_ns = open_ns + MINUTE_NS + _GRACE_NS
            times, codes = self._times[part], self._codes[part]
            self.judge.add_prints(codes, times, times + _LAG_NS)
            for instrument in self.coins:
                self.ledger.record_message(0, instrument, now_ns - NS, now_ns - NS // 2)
            self.judge.tick(now_ns)
            waiting.append(self._published(open_ns, now_ns))
            for renewal in self.judge.due_renewals(now_ns + NS):
                self._renew(renewal.instrument, now_ns + 2 * NS)
            if minute >= _LATER:
                for coin, bar_ns in waiting[minute - _LATER]:
                    coin.later += self._status(coin, bar_ns, now_ns)[0] != QUIET
                waiting[minute - _LATER] = []
            self.ledger.take_dirty()
            self.ledger.take_rows()

    def _published(self, open_ns: int, now_ns: int) -> list[tuple[SimulatedStream, int]]:
        """Count the bars without a print that are published now, and return them."""
        silent = []
        for coin in self.coins.values():
            bounds = np.searchsorted(coin.times_ns, (open_ns, open_ns + MINUTE_NS))
            if bounds[0] != bounds[1] or open_ns < coin.first_ns:
                continue
            coin.silent += 1
            status, cause = self._status(coin, open_ns, now_ns)
            if status != QUIET:
                coin.at_grace += 1
                coin.causes[cause] = coin.causes.get(cause, 0) + 1
            silent.append((coin, open_ns))
        return silent

    def _status(self, coin: SimulatedStream, open_ns: int, now_ns: int) -> tuple[str, str]:
        close_ns, proofs = open_ns + MINUTE_NS, self.judge.proofs(coin.instrument)
        watch = self.ledger.watch(coin.instrument, open_ns, close_ns, now_ns, TRADES, proofs)
        row: dict[str, Any] = {
            "trades": 0,
            "trades_applicable": True,
            "quote_age_ms": 0,
            "bid": 1.0,
            "ask": 1.0,
        }
        return bar_status(watch, row, self.judge.reason_unknown(coin.instrument, open_ns, close_ns))

    def _renew(self, instrument: str, now_ns: int) -> None:
        """Subscribe again: the venue resends its last prints, all of which were delivered."""
        coin = self.coins[instrument]
        coin.renewals += 1
        newest_ns = int(self.judge.rhythm.newest_ns[self.judge.rhythm.code(instrument)])
        resent = coin.times_ns[coin.times_ns <= newest_ns][-_RESENT:].tolist()
        self.ledger.bridge(instrument, resent[0], now_ns)
        self.judge.add_resent(instrument, [], oldest_ns=resent[0], now_ns=now_ns)
