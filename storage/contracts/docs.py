"""Markdown reference of all tables, generated from the contracts for docs/tables.md."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from storage.contracts.contract import BYTES, F64, F64S, FLAG, I32, I64, TEXT, TS, Column, Contract
from storage.contracts.tables import CONTRACTS

_TYPES: Final[dict[pa.DataType, str]] = {
    TS: "TIMESTAMPTZ",
    I64: "BIGINT",
    I32: "INTEGER",
    F64: "DOUBLE",
    TEXT: "VARCHAR",
    FLAG: "BOOLEAN",
    BYTES: "BLOB",
    F64S: "DOUBLE[]",
}
# Every DOUBLE column needs a unit here; a missing one is an error.
_UNITS: Final = {
    **dict.fromkeys(
        ("price", "bid", "ask", "open", "high", "low", "close", "vwap", "oracle", "mark", "mid"),
        "quote per base",
    ),
    **dict.fromkeys(("size", "bid_size", "ask_size", "volume", "buy_volume", "open_interest"), "base"),
    **dict.fromkeys(("notional", "day_notional"), "quote"),
    **dict.fromkeys(("funding_rate", "premium"), "share"),
    **dict.fromkeys(("net", "risk", "worst_loss"), "share of capital"),
    "p_value": "probability",
    "sharpe": "per holding period",
    **dict.fromkeys(("bid_px", "ask_px"), "quote per base"),
    **dict.fromkeys(("bid_sz", "ask_sz"), "base"),
    "max_leverage": "times",
    **dict.fromkeys(("ours", "theirs"), "that of the figure"),
    "bps": "basis points",
    **dict.fromkeys(("covered_h", "missing_h", "repairable_h"), "hours"),
    **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "max_ms", "offset_ms", "uncertainty_ms"), "ms"),
}
_SUFFIXES: Final = {"_ns": "ns, UTC", "_ms": "ms", "_h": "hours"}


def describe_tables() -> str:
    """Return one Markdown section per table: content, key, rules and columns."""
    return "\n\n".join(_table(contract) for contract in CONTRACTS.values())


def _table(contract: Contract) -> str:
    lines = [
        f"## `{contract.name}`",
        "",
        contract.doc,
        "",
        f"- Key and sort order: {_names(contract.key)}.",
    ]
    if contract.revises:
        lines.append(
            f"- A row with a stored {_names(contract.identity)} and other values becomes the next revision."
        )
    elif contract.compared:
        lines.append(f"- Two rows with the same key are equal if {_names(contract.compared)} agree.")
    rules = [f"`{low} <= {high}`" for low, high in contract.ordered]
    rules += [f"`{a}` and `{b}` are both 0 or neither is" for a, b in contract.both_or_none]
    if rules:
        lines.append(f"- In every row: {', '.join(rules)}.")
    lines += ["", "| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
    lines += [_column(column) for column in contract.columns]
    return "\n".join(lines)


def _column(column: Column) -> str:
    cells = (f"`{column.name}`", _type(column), _unit(column), "yes" if column.nullable else "", column.doc)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(column: Column) -> str:
    name = _TYPES[column.type]
    if column.one_of is not None:
        return f"{name}: {_names(column.one_of)}"
    bounds = []
    if column.low is not None:
        bounds.append(f"{'>' if column.low_open else '>='} {column.low:g}")
    if column.high is not None:
        bounds.append(f"<= {column.high:g}")
    return f"{name} {', '.join(bounds)}".rstrip()


def _unit(column: Column) -> str:
    if column.type == TS:
        return "us, UTC"
    if column.type in (F64, F64S):
        return _UNITS[column.name]
    return next((unit for suffix, unit in _SUFFIXES.items() if column.name.endswith(suffix)), "")


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
