"""Validation of a day before anything is computed from it: the contract of `bars`, and rules between bars."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from storage.clock import DAY_NS, US_NS, width_ns
from storage.contracts.tables import BARS
from storage.contracts.validation import failures_of
from storage.errors import ContractError
from storage.lake.lake import Lake

MOST_STEP: Final = 10.0
"""Greatest factor between a bar's prices and the last close before it: beyond it a price has the wrong unit."""
_SHOWN: Final = 3
_PRICES: Final = ("open", "high", "low", "close")
_RULES: Final = {
    "is_on_grid": "a bar opens on the grid",
    "is_one_step": "a bar closes one width after its open",
    "is_single": "a bar counts once",
}

_BARS: Final = """
    SELECT * FROM bars_latest
    WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
    ORDER BY instrument, ts_open
"""


def validate_day(lake: Lake, day: str, day_ns: int, *, width: str) -> int:
    """Check the bars of a day that count, and return how many there are.

    Raises:
        ContractError: some break a rule; the message has the rule, the first bars and their number.
    """
    bars = lake.query(_BARS, [width, day_ns // US_NS, (day_ns + DAY_NS) // US_NS])
    if not bars.num_rows:
        return 0
    broken = failures_of(BARS, BARS.typed(bars.select(BARS.schema.names)))
    broken |= {row: text for row, text in _broken_rules(bars, width_ns(width)).items() if row not in broken}
    if broken:
        raise _failure(day, bars, broken)
    return bars.num_rows


def _failure(day: str, bars: pa.Table, broken: dict[int, str]) -> ContractError:
    shown = []
    for row in sorted(broken)[:_SHOWN]:
        bar = bars.slice(row, 1).to_pylist()[0]
        shown.append(
            f"{bar['instrument']} {bar['width']} {bar['ts_open']:%H:%M:%S} ({bar['origin']}): {broken[row]}"
        )
    bar = bars.slice(min(broken), 1).to_pylist()[0]
    return ContractError(
        f"{day} fails validation: {len(broken):,} of {bars.num_rows:,} bars break a rule: {'; '.join(shown)}",
        hint=f"see where it comes from: tickwalk explain '{bar['instrument']}' {bar['ts_open']:%Y-%m-%dT%H:%M}; "
        "correct the source and seal the day again, or accept it: tickwalk seal "
        f"{day} --accept",
        day=day,
    )


def _broken_rules(bars: pa.Table, step_ns: int) -> dict[int, str]:
    """Return the bars that break a rule between columns or bars, with the rule, as pandera finds them."""
    import pandera.polars as pandera
    import polars as pl
    from pandera.errors import SchemaErrors

    step_us = step_ns // US_NS
    frame = pl.from_arrow(bars.select(["instrument", "ts_open", "ts_close", *_PRICES]))
    assert isinstance(frame, pl.DataFrame)
    before = pl.col("close").forward_fill().shift(1).over("instrument")
    most = pl.max_horizontal(
        [pl.max_horizontal(pl.col(name) / before, before / pl.col(name)) for name in _PRICES]
    )
    opens, closes = pl.col("ts_open").dt.epoch("us"), pl.col("ts_close").dt.epoch("us")
    frame = frame.with_columns(
        is_on_grid=opens % step_us == 0,
        is_one_step=closes - opens == step_us,
        is_single=pl.struct("instrument", "ts_open").is_unique(),
        step=most.fill_null(1.0),
    )
    is_true = pandera.Check.eq(True)
    checks = {name: pandera.Column(None, is_true) for name in _RULES}
    schema = pandera.DataFrameSchema(checks | {"step": pandera.Column(None, pandera.Check.le(MOST_STEP))})
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.select("index", "column", "failure_case")
        return {int(row): _text(str(column), case) for row, column, case in cases.iter_rows()}
    return {}


def _text(column: str, case: object) -> str:
    if column in _RULES:
        return f"{_RULES[column]}, and this one does not"
    return (
        f"prices are within a factor of {MOST_STEP:g} of the last close, and this is {float(str(case)):.4g}"
    )
