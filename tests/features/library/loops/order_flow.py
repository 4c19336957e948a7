"""Reference loops for order flow and volume."""

from __future__ import annotations

import math

from tests.features.library.loops.cells import (
    Cell,
    Rows,
    enough,
    mean_of,
    moments_of,
    ratio_of,
    step_return,
    window,
)


def volume_score(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now = rows.amount("volume", s, t)
    before = [rows.amount("volume", s, i) for i in range(t - bars, t)]
    roots = [math.sqrt(cell) for cell in before if cell is not None]
    if now is None or not enough(len(roots), bars):
        return None
    mean = math.fsum(roots) / len(roots)
    deviation = math.sqrt(math.fsum((root - mean) ** 2 for root in roots) / len(roots))
    return (math.sqrt(now) - mean) / deviation


def _signed(rows: Rows, s: int, t: int) -> Cell:
    buy, volume = rows.amount("buy_volume", s, t), rows.amount("volume", s, t)
    return None if buy is None or volume is None else buy - (volume - buy)


def signed_flow(rows: Rows, s: int, t: int, bars: int) -> Cell:
    mean = mean_of([_signed(rows, s, i) for i in window(t, bars)])
    return ratio_of(
        None if mean is None else bars * mean, mean_of([rows.amount("volume", s, i) for i in window(t, 120)])
    )


def price_impact(rows: Rows, s: int, t: int, bars: int) -> Cell:
    moments = moments_of([(step_return(rows, s, i), _signed(rows, s, i)) for i in window(t, bars)])
    usual = mean_of([rows.amount("volume", s, i) for i in window(t, bars)])
    return None if moments is None or usual is None else ratio_of(1e4 * usual * moments[0], moments[2])


def empty_share(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return mean_of(
        [float(rows.status(s, i) == "quiet") if rows.is_observed(s, i) else None for i in window(t, bars)]
    )


def flow_imbalance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    pairs = [(rows.amount("buy_volume", s, i), rows.amount("volume", s, i)) for i in window(t, bars)]
    known = [(buy, all_) for buy, all_ in pairs if buy is not None and all_ is not None]
    volume = math.fsum(all_ for _, all_ in known)
    if not enough(len(known), bars) or volume == 0.0:
        return None
    bought = math.fsum(buy for buy, _ in known)
    return (bought - (volume - bought)) / volume


def vwap_distance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    last = rows.last(s, t)
    pairs = [(rows.amount("notional", s, i), rows.amount("volume", s, i)) for i in window(t, bars)]
    known = [(paid, all_) for paid, all_ in pairs if paid is not None and all_ is not None]
    volume = math.fsum(all_ for _, all_ in known)
    if last is None or not enough(len(known), bars) or volume == 0.0:
        return None
    return math.log(last[0]) - math.log(math.fsum(paid for paid, _ in known) / volume)


def print_rate(rows: Rows, s: int, t: int, bars: int) -> Cell:
    mean = mean_of([rows.amount("trades", s, i) for i in window(t, bars)])
    return None if mean is None else math.log(1.0 + mean)
