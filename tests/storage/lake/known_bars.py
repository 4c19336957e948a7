"""Random histories of bars, and a slow reference of the rule that chooses among the rows of a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from hypothesis import strategies as st

from tests.storage.rows import LAG_NS, bar

HOMES: Final = ("one", "two")
GROUPS: Final = (
    ("bid", "ask", "bid_size", "ask_size", "quote_age_ms"),
    ("funding_rate", "open_interest", "oracle", "mark", "context_age_ms"),
)
FLOW: Final = ("trades", "buy_volume", "notional", "vwap")
RULED: Final = ("status", "origin", "home", "revision", "volume", *FLOW, *GROUPS[0], *GROUPS[1])
MINUTE_NS: Final = 60_000_000_000

Row = dict[str, Any]


@st.composite
def histories(draw: st.DrawFn, *, most: int = 6) -> list[Row]:
    """Draw the rows of a few bars in the order of their revisions; a row has its `home` beside the columns."""
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, most))):
        minute = draw(st.integers(0, 1))
        origin = draw(st.sampled_from(("live", "live", "candle", "archive")))
        status = draw(
            st.sampled_from(("printed", "printed", "quiet", "blind", "unknown", "halted", "unlisted"))
        )
        count = draw(st.sampled_from((0, 3, None))) if status in ("blind", "unknown") else 3
        volume = draw(st.sampled_from((2.0, 2.0 + 1e-12, 5.0)))
        is_empty = status in ("quiet", "halted", "unlisted")
        empty = dict.fromkeys(("open", "high", "low", "close", "vwap")) if is_empty else {}
        changes = {
            "origin": origin,
            "status": status,
            "revision": sum(row["ts_open"] == minute * 60_000_000 for row in rows),
            "trades": 0 if is_empty else draw(st.sampled_from((count, None))),
            "volume": 0.0 if is_empty else volume,
            "buy_volume": 0.0 if is_empty else draw(st.sampled_from((None, 1.0))),
            "notional": 0.0 if is_empty else draw(st.sampled_from((None, 200.0))),
            "repaired": origin == "live" and draw(st.booleans()),
            "observed_ms": draw(st.sampled_from((0, 60_000))),
            **empty,
        }
        number = float(len(rows) + 1)
        for group in GROUPS:
            if draw(st.booleans()):
                changes |= {name: 7 if name.endswith("_ms") else number for name in group}
                changes[group[1]] = draw(st.sampled_from((None, number)))
        close_ns = (minute + 1) * MINUTE_NS
        lag_ns = draw(st.sampled_from((LAG_NS, 2 * LAG_NS, 5 * LAG_NS, 5 * LAG_NS + 1)))
        rows.append(bar(minute, **changes, ts_knowable_ns=close_ns + lag_ns))
        rows[-1]["home"] = draw(st.sampled_from(HOMES))
    return rows


def winners(
    rows: Iterable[Row], *, clock: str, is_known: Callable[[Row], bool]
) -> dict[tuple[str, int], Row]:
    """Return by instrument and minute the row that counts, completed from others; a loop over all rows.

    Args:
        rows: with a `home`.
        clock: `ts_knowable_ns` or `ts_available_ns`.
        is_known: whether a row is among those to choose from.
    """
    newest: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        source = row["origin"] if row["origin"] in ("candle", "archive") else f"recording {row['home']}"
        key = (row["instrument"], row["ts_open"] // 60_000_000, source)
        if is_known(row) and (key not in newest or _age(row) > _age(newest[key])):
            newest[key] = row
    found = {}
    for name, minute in {key[:2] for key in newest}:
        ranked = sorted(
            (row for key, row in newest.items() if key[:2] == (name, minute)),
            key=lambda row: (strength(row), row[clock], row["revision"]),
            reverse=True,
        )
        found[name, minute] = _completed(ranked)
    return found


def strength(row: Row) -> int:
    """Return the strength of a row, 0 to 4."""
    if row["status"] == "unknown" or (row["status"] == "blind" and not row["trades"]):
        return 0
    if row["status"] == "blind":
        return 1
    return {"candle": 2, "archive": 3}.get(row["origin"], 4)


def _age(row: Row) -> tuple[int, int]:
    return row["ts_knowable_ns"], row["revision"]


def _completed(ranked: Sequence[Row]) -> Row:
    winner = dict(ranked[0])
    for group in GROUPS:
        for row in ranked:
            if any(row.get(name) is not None for name in group):
                winner |= {name: row.get(name) for name in group}
                break
    for name in FLOW:
        for row in ranked[1:]:
            is_same = abs(row["volume"] - winner["volume"]) <= 1e-9 * max(row["volume"], winner["volume"])
            if winner[name] is None and strength(row) >= 2 and is_same:
                winner[name] = row[name]
    return winner


def shown(row: Row) -> Row:
    """Return the columns of a row that the rule may change or that identify it."""
    return {name: row.get(name) for name in RULED}
