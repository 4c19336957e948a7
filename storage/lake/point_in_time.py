"""The bars known by an instant, one row a bar: the one place that chooses among the rows of a bar.

Rows of a bar come from sources: the recordings of one home are a source, all candles are one, all archives are one. A
row replaces the earlier ones of its own source, even if it says less: it is what that source says now. Of the newest
row of each source, the strongest wins:

    unknown, or blind without prints < blind with prints < complete candle < complete archive < complete recording

Among equals the newest stamp wins, then the higher revision. `quiet`, `halted` and `unlisted` are complete.

The winner's missing columns come from the other sources' newest rows, the strongest that has them: quote and context,
each as a whole; and from complete rows with the same volume the figures of its trades. The sums of a blind bar are part
of its prints, so they never complete another row.

"Newest" within a source is by `ts_knowable_ns`, then revision: a recording that is recovered late, or replayed, takes
the place that it would have had in time. A row is known from its clock on: `ts_knowable_ns` for what a live system had,
`ts_available_ns` for what the venue had published.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal

from storage.contracts.contract import HISTORY_ORIGINS
from storage.contracts.tables import BARS

Basis = Literal["served", "available"]
"""Which rows of a bar count: those that a live system had in time, or those that the venue had published in time."""

CLOCKS: Final[dict[Basis, str]] = {"served": "ts_knowable_ns", "available": "ts_available_ns"}
"""The clock of each basis."""

QUOTE_COLUMNS: Final = ("bid", "ask", "bid_size", "ask_size", "quote_age_ms")
CONTEXT_COLUMNS: Final = ("funding_rate", "open_interest", "oracle", "mark", "context_age_ms")
FLOW_COLUMNS: Final = ("trades", "buy_volume", "notional", "vwap")
"""Figures of a bar's trades that a source may lack: candles have no sides, and some have no number of trades."""

_COMPLETED: Final = frozenset((*QUOTE_COLUMNS, *CONTEXT_COLUMNS, *FLOW_COLUMNS))

IS_RECORDED: Final = f"origin NOT IN {HISTORY_ORIGINS}"
"""Condition of a row that a recording has, not history."""
SOURCE: Final = f"CASE WHEN {IS_RECORDED} THEN 'recording ' || home ELSE origin END"
"""The source of a row."""
_NUMBER: Final = "CASE origin WHEN 'candle' THEN 0 WHEN 'archive' THEN 1 ELSE hash(home) END"
"""The same as a number, which compares faster, and is equal for two homes once in 2^64 times."""
STRENGTH: Final = """CASE
    WHEN status = 'unknown' OR status = 'blind' AND coalesce(trades, 0) = 0 THEN 0
    WHEN status = 'blind' THEN 1 WHEN origin = 'candle' THEN 2 WHEN origin = 'archive' THEN 3 ELSE 4 END"""

# Volumes are sums of the same sizes in another order, see ingest/bars/reconciliation.py.
_SAME_VOLUME: Final = 1e-9
_COMPLETE: Final = 2
_BAR: Final = "instrument, width, ts_open"
_RULED: Final = (
    "instrument", "width", "ts_open", "ts_close", "revision", "status", "origin", "home", "trades", "volume",
    "ts_knowable_ns",
)  # fmt: skip
"""Columns that the rule reads."""
_REVISION_BITS: Final = 32
_STAMP_BITS: Final = 68


def is_known(basis: Basis) -> str:
    """Return the condition that a row was known by its bar's close plus a grace, its parameter, in nanoseconds."""
    return f"{CLOCKS[basis]} <= epoch_us(ts_close) * 1000 + ?"


def known_bars(
    columns: Collection[str] = (), *, where: str = "", basis: Basis = "served", is_view: bool = False
) -> str:
    """Return the query of one row a bar, the row that counts among those of `bars` that meet a condition.

    Args:
        columns: names of columns of `bars` (default: all).
        where: condition of the rows to choose from, such as `is_known`; with its parameters.
        basis: whose clock decides between rows of equal strength.
        is_view: the query will be a view of all bars, to which queries add conditions on instrument, width and
            `ts_open`; see below.

    The usual bar has one row, and only bars with several are resolved: a million single rows took 1.2 s of processor
    time, and 1.5 s with a window over all of them (measured 2026-11-30).

    In a view, conditions and columns of the query must reach the table, or it would read all bars for one. DuckDB
    derives conditions for both sides of an inner or left join; it does not for a semi join, nor are columns left out
    of a CTE. A union is no way either: that of two joins over one CTE never ended when one of them was empty (1.5.5).
    """
    wanted = [field.name for field in BARS.stored_schema if not columns or field.name in columns]
    completed = [name for name in wanted if name in _COMPLETED]
    outputs = [
        f"CASE WHEN f.ts_open IS NULL THEN b.{name} ELSE f.{name} END AS {name}"
        if name in completed
        else f"b.{name}"
        for name in wanted
    ]
    if is_view:
        crowded = f"(SELECT bars.* FROM bars JOIN ({_crowded('bars')}) USING ({_BAR}))"
        return _select(outputs, "bars", crowded, completed, basis)
    read = [field.name for field in BARS.stored_schema if field.name in {*wanted, *_RULED, CLOCKS[basis]}]
    return f"""
        WITH known AS MATERIALIZED (SELECT {_list(read)} FROM bars WHERE {where or "true"}),
        crowd AS MATERIALIZED (SELECT * FROM known SEMI JOIN ({_crowded("known")}) USING ({_BAR}))
        {_select(outputs, "known", "crowd", completed, basis)}
    """


def _crowded(rows: str) -> str:
    """Return the query of the bars that have several rows."""
    return f"SELECT {_BAR} FROM {rows} GROUP BY {_BAR} HAVING count(*) > 1"


def _select(outputs: Sequence[str], rows: str, crowd: str, completed: Sequence[str], basis: Basis) -> str:
    """Return the query of the rows that count, among all `rows`; those of `crowd` share their bars."""
    return f"""
        SELECT {_list(outputs)}
        FROM {rows} b LEFT JOIN ({_winners(crowd, basis)}) w USING ({_BAR})
        LEFT JOIN ({_filled(crowd, completed, basis)}) f USING ({_BAR})
        WHERE w.revision IS NULL OR w.revision = b.revision
    """


def _winners(rows: str, basis: Basis) -> str:
    """Return the query of the revision that counts, of each bar.

    Numbers of 128 bits stand for (strength, clock, revision) and (stamp, revision), since structs compare slowly.
    """
    stamp = 1 << _REVISION_BITS
    age = f"CAST(ts_knowable_ns AS HUGEINT) * {stamp} + revision"
    clock = f"CAST({CLOCKS[basis]} AS HUGEINT) * {stamp} + revision"
    rank = f"CAST({STRENGTH} AS HUGEINT) * {stamp << _STAMP_BITS} + {clock}"
    return f"""
        SELECT {_BAR}, CAST(max(rank) & {stamp - 1} AS INTEGER) AS revision FROM (
            SELECT {_BAR}, {SOURCE} AS source, arg_max({rank}, {age}) AS rank FROM {rows} GROUP BY {_BAR}, source
        ) GROUP BY {_BAR}
    """


def _filled(rows: str, completed: Sequence[str], basis: Basis) -> str:
    """Return the query of the columns that other sources may complete, of each bar that has several sources.

    Args:
        rows: table of the rows to choose from.
        completed: names of the columns.
        basis: whose clock decides between rows of equal strength.
    """
    groups = [[name for name in group if name in completed] for group in (QUOTE_COLUMNS, CONTEXT_COLUMNS)]
    flow = [name for name in FLOW_COLUMNS if name in completed]
    firsts = [
        f"arg_min(struct_pack({_list(group)}), place) FILTER (coalesce({_list(group)}) IS NOT NULL) AS group{number}"
        for number, group in enumerate(groups)
        if group
    ]
    agrees = (
        f"place = 1 OR {STRENGTH} >= {_COMPLETE}"
        f" AND abs(volume - volume_of_bar) <= {_SAME_VOLUME} * greatest(volume, volume_of_bar)"
    )
    firsts += [f"arg_min({name}, place) FILTER ({agrees}) AS {name}" for name in flow]
    unpacked = [f"group{number}.{name} AS {name}" for number, group in enumerate(groups) for name in group]
    return f"""
        SELECT {_list((_BAR, *unpacked, *flow))} FROM (
            SELECT {_list((_BAR, *firsts))} FROM (
                SELECT *, row_number() OVER best AS place, first_value(volume) OVER best AS volume_of_bar FROM (
                    SELECT r.* FROM {rows} r JOIN (
                        SELECT {_BAR} FROM {rows} GROUP BY {_BAR} HAVING min({_NUMBER}) <> max({_NUMBER})
                    ) USING ({_BAR})
                    QUALIFY row_number() OVER (
                        PARTITION BY {_BAR}, {SOURCE} ORDER BY ts_knowable_ns DESC, revision DESC) = 1
                )
                WINDOW best AS (
                    PARTITION BY {_BAR} ORDER BY {STRENGTH} DESC, {CLOCKS[basis]} DESC, revision DESC)
            ) GROUP BY {_BAR}
        )
    """


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
