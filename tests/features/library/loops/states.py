"""Reference loops for quotes, books, contexts, funding, relays and the clock."""

from __future__ import annotations

import math

from tests.features.library.loops.cells import Cell, Rows, mean_of, ratio_of, window


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
    ratio = ratio_of(_spread(rows, s, t), mean_of([_spread(rows, s, i) for i in window(t, bars)]))
    return math.log(ratio) if ratio else None


def quote_flow(rows: Rows, s: int, t: int, bars: int) -> Cell:
    flows: list[Cell] = []
    queues: list[Cell] = []
    for i in window(t, bars):
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
    mean = mean_of(flows)
    return ratio_of(None if mean is None else bars * mean, mean_of(queues))


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
    ratio = ratio_of(known[0] + known[1], known[2] + known[3]) if len(known) == 4 else None
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
