"""Validation of batches: rows that break their contract, and the rules they break.

A row whose key an earlier one has is skipped if it is equal, and rejected otherwise (repeated_keys.py).

One contract becomes two pandera schemas with the same rules: pandas for small batches (5 ms for 200 rows, measured;
polars 9-19 ms) and polars for large ones (tens of millions of rows a second). A recorder has only small batches, so it
never loads polars.

pandera takes about a millisecond per column and rule, even for few rows. So a rule is skipped if the batch as a whole
satisfies it: the nulls, minimum and maximum of a column are allowed, or no pair is in the wrong order. For the
remaining rules pandera finds the rows and reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.contracts.contract import Column, Contract
from storage.contracts.repeated_keys import CONTRADICTION, repeated_rows

if TYPE_CHECKING:
    import pandas as pd

# The pandas backend is faster for small batches (20,000 quotes: 17-22 ms against 39-68, measured 2026-11-23 on two
# cores). The limit is higher, because loading polars would cost a recorder 50 MB for one late batch.
SMALL_BATCH_ROWS: Final = 200_000

# Tolerance for rounding: the same prints may have been summed in another order.
_SLACK: Final = 1e-9


def validate(contract: Contract, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a batch into valid and rejected rows.

    Args:
        contract: of the table.
        batch: rows with the columns of `contract.schema`, in any order.

    Returns:
        The valid rows, each once, and the rejected rows with a text column `reason` that names every broken rule.

    Raises:
        ContractError: a column is missing or cannot be cast to its type.
    """
    batch = contract.typed(batch)
    failures, repeats = _split(contract, batch)
    if not (failures or repeats):
        return batch, batch.slice(0, 0).append_column("reason", pa.array([], pa.string()))
    bad = np.zeros(batch.num_rows, dtype=bool)
    bad[list(failures)] = True
    good = ~bad
    good[repeats] = False
    reasons = pa.array([failures[row] for row in sorted(failures)], pa.string())
    return batch.filter(pa.array(good)), batch.filter(pa.array(bad)).append_column("reason", reasons)


def failures_of(contract: Contract, batch: pa.Table) -> dict[int, str]:
    """Return the indices of the rejected rows of a typed batch, each with the rules it breaks."""
    return _split(contract, batch)[0]


def _split(contract: Contract, batch: pa.Table) -> tuple[dict[int, str], list[int]]:
    """Return the rejected rows, each with the rules it breaks, and the rows that repeat an earlier one."""
    failures = _broken_rules(contract, batch)
    for column in contract.columns:
        # The engines take NaN for a null, or for a large number.
        if not column.nan and pc.any(pc.is_nan(batch[column.name])).as_py():
            for row in np.flatnonzero(pc.is_nan(batch[column.name]).fill_null(False).to_numpy()).tolist():
                failures.setdefault(row, f"{column.name} is nan: not_nullable")
    if is_unique(batch, contract.key):
        return failures, []
    equal, other = repeated_rows(contract, batch, failures)
    return failures | dict.fromkeys(other, CONTRADICTION), equal


def _broken_rules(contract: Contract, batch: pa.Table) -> dict[int, str]:
    """Return the rows that break a rule of their own, whatever the others are."""
    if batch.num_rows == 0:
        return {}
    # In nearly all batches, this leaves no column or rule to check row by row.
    unproven = _Unproven(
        tuple(c.name for c in contract.columns if not _is_proven(c, batch[c.name])),
        tuple(pair for pair in contract.ordered if not _is_ordered(batch, *pair)),
        tuple(pair for pair in contract.both_or_none if not _agree(batch, *pair)),
    )
    if unproven == _NOTHING:
        return {}
    used = {*unproven.columns, *chain.from_iterable((*unproven.ordered, *unproven.both_or_none))}
    batch = batch.select([name for name in batch.column_names if name in used])
    small = batch.num_rows < SMALL_BATCH_ROWS
    return _failures_small(contract, batch, unproven) if small else _failures(contract, batch, unproven)


class _Unproven(NamedTuple):
    """Rules that a batch may break: of columns, of the order of two, and of two that are 0 together."""

    columns: tuple[str, ...]
    ordered: tuple[tuple[str, str], ...]
    both_or_none: tuple[tuple[str, str], ...]


_NOTHING: Final = _Unproven((), (), ())


def _is_ordered(batch: pa.Table, low: str, high: str) -> bool:
    return pc.all(pc.less_equal(batch[low], batch[high])).as_py() is not False


def _agree(batch: pa.Table, a: str, b: str) -> bool:
    zero = pa.scalar(0)
    agree = pc.equal(pc.equal(batch[a], zero), pc.equal(batch[b], zero))
    return pc.all(agree).as_py() is not False


def is_unique(batch: pa.Table, key: Sequence[str]) -> bool:
    """Return whether all rows of a batch have distinct keys."""
    if batch.num_rows < 2:
        return True
    # Checking sorted rows takes a fraction of the time of counting distinct ones.
    has_no_nulls = not any(batch[name].null_count for name in key)
    return (has_no_nulls and sort_order(batch, key)[0]) or batch.group_by(list(key)).aggregate(
        []
    ).num_rows == batch.num_rows


def sort_order(batch: pa.Table, names: Sequence[str]) -> tuple[bool, bool]:
    """Return whether rows are strictly ascending, and whether they are ascending.

    Args:
        batch: two rows or more, without nulls in these columns.
        names: columns to compare, in this order; texts are compared by bytes.
    """
    less = greater = np.zeros(batch.num_rows - 1, dtype=bool)
    for name in names:
        before, after = batch[name][:-1], batch[name][1:]
        tied = ~(less | greater)
        less = less | tied & pc.less(after, before).to_numpy()
        greater = greater | tied & pc.greater(after, before).to_numpy()
    return bool(greater.all()), not less.any()


def _is_proven(column: Column, values: pa.ChunkedArray[Any]) -> bool:
    """Return whether nulls, minimum and maximum of a column show that all its values are valid."""
    if values.null_count and not column.nullable:
        return False
    if column.one_of is not None and not set(pc.unique(values).to_pylist()) <= {*column.one_of, None}:
        return False
    is_number = pa.types.is_floating(values.type)
    if column.low is None and column.high is None and not is_number:
        return True
    least, most = _extremes(values)
    if least is None:
        return True
    if is_number and math.isnan(least):
        return False
    low, high = column.low, column.high
    is_above = low is None or (least > low if column.low_open else least >= low)
    return is_above and (high is None or most <= high)


def _extremes(values: pa.ChunkedArray[Any]) -> tuple[Any, Any]:
    """Return minimum and maximum of a column: None if it has no values, NaN if any value is NaN."""
    if pa.types.is_floating(values.type):
        if values.null_count:
            if pc.any(pc.is_nan(values)).as_py():
                return math.nan, math.nan
        elif len(values):
            # Takes a tenth of Arrow's time, and returns NaN if any value is.
            chunks = [chunk.to_numpy() for chunk in values.chunks if len(chunk)]
            return np.min([chunk.min() for chunk in chunks]), np.max([chunk.max() for chunk in chunks])
    found: Any = pc.min_max(values).as_py()
    return found["min"], found["max"]


def _failures_small(contract: Contract, batch: pa.Table, unproven: _Unproven) -> dict[int, str]:
    from pandera.errors import SchemaErrors

    try:
        _pandas_schema(contract, unproven).validate(_as_pandas(batch), lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        return _collect(
            zip(cases["index"], cases["column"], cases["check"], cases["failure_case"], strict=True)
        )
    return {}


def _as_pandas(batch: pa.Table) -> pd.DataFrame:
    """Return a batch as a pandas frame; repeated texts become categories."""
    return batch.to_pandas(ignore_metadata=True, strings_to_categorical=True)


def _failures(contract: Contract, batch: pa.Table, unproven: _Unproven) -> dict[int, str]:
    import polars as pl
    from pandera.errors import SchemaErrors

    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    try:
        _polars_schema(contract, unproven).validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        return _collect(cases.select("index", "column", "check", "failure_case").iter_rows())
    return {}


def _collect(cases: Any) -> dict[int, str]:
    reasons: dict[int, dict[str, None]] = {}
    for row, column, check, value in cases:
        # pandas reports a rule of the whole row once per column; its name suffices.
        is_whole_row = " <= " in str(check) or " both 0 " in str(check)
        text = str(check) if is_whole_row else f"{column} is {_show(value)}: {check}"
        reasons.setdefault(int(row), {})[text] = None
    return {row: "; ".join(texts) for row, texts in reasons.items()}


def _show(value: object) -> str:
    return "null" if value is None or value != value else str(value)


@cache
def _pandas_schema(contract: Contract, unproven: _Unproven) -> Any:
    import pandera.pandas as pandas_api

    checks = [
        pandas_api.Check(_pandas_le(low, high), name=_order_rule(low, high)) for low, high in unproven.ordered
    ]
    checks += [
        pandas_api.Check(_pandas_agree(a, b), name=_agree_rule(a, b)) for a, b in unproven.both_or_none
    ]
    columns = {
        c.name: pandas_api.Column(None, _checks(pandas_api, c), nullable=c.nullable)
        for c in contract.columns
        if c.name in unproven.columns
    }
    return pandas_api.DataFrameSchema(columns, checks=checks)


@cache
def _polars_schema(contract: Contract, unproven: _Unproven) -> Any:
    import pandera.polars as polars_api

    checks = [
        polars_api.Check(_polars_le(low, high), name=_order_rule(low, high)) for low, high in unproven.ordered
    ]
    checks += [
        polars_api.Check(_polars_agree(a, b), name=_agree_rule(a, b)) for a, b in unproven.both_or_none
    ]
    columns = {
        c.name: polars_api.Column(None, _checks(polars_api, c), nullable=c.nullable)
        for c in contract.columns
        if c.name in unproven.columns
    }
    return polars_api.DataFrameSchema(columns, checks=checks)


def _checks(api: Any, column: Column) -> list[Any]:
    checks = []
    if column.low is not None:
        checks.append(api.Check.gt(column.low) if column.low_open else api.Check.ge(column.low))
    if column.high is not None:
        checks.append(api.Check.le(column.high))
    if column.one_of is not None:
        checks.append(api.Check.isin(list(column.one_of)))
    return checks


def _order_rule(low: str, high: str) -> str:
    return f"{low} <= {high}"


def _agree_rule(a: str, b: str) -> str:
    return f"{a} and {b} are both 0 or neither is"


def _pandas_agree(a: str, b: str) -> Any:
    def check(frame: pd.DataFrame) -> Any:
        return ((frame[a] == 0) == (frame[b] == 0)) | frame[a].isna() | frame[b].isna()

    return check


def _polars_agree(a: str, b: str) -> Any:
    import polars as pl

    def check(data: Any) -> Any:
        one, other = pl.col(a), pl.col(b)
        return data.lazyframe.select(((one == 0) == (other == 0)) | one.is_null() | other.is_null())

    return check


def _pandas_le(low: str, high: str) -> Any:
    def check(frame: pd.DataFrame) -> Any:
        a, b = frame[low], frame[high]
        limit = b + _SLACK * b.abs() if b.dtype.kind == "f" else b
        return (a <= limit) | a.isna() | b.isna()

    return check


def _polars_le(low: str, high: str) -> Any:
    import polars as pl

    def check(data: Any) -> Any:
        a, b = pl.col(low), pl.col(high)
        schema = data.lazyframe.collect_schema()
        limit = b + _SLACK * b.abs() if schema[high].is_float() else b
        return data.lazyframe.select((a <= limit) | a.is_null() | b.is_null())

    return check
