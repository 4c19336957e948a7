"""Which rows of a batch break their contract, and by which rule?

One contract becomes two pandera schemas, the same rules on two engines: pandas for small batches (5 ms at 200
rows, measured; polars 9-19) and polars for large ones (tens of millions of rows a second). A recorder meets small
ones only, and so never loads polars.

pandera takes about a millisecond a column and a rule, however few the rows. So what a batch as a whole proves is not
asked of each of its rows: a column whose nulls and extremes show that no value in it breaks a rule, a pair that no
row has in the wrong order, a key as often distinct as there are rows. pandera says of all else which rows, and why.
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

if TYPE_CHECKING:
    import pandas as pd

# Below this many rows the pandas backend is the faster one (20,000 quotes: 17-22 ms against 39-68, measured
# 2026-11-23 on two cores), and far above it polars would cost a recorder 50 MB that it keeps for one late batch.
SMALL_BATCH_ROWS: Final = 200_000

# A hair of float noise is no breach: sums of the same prints may be taken in two orders.
_SLACK: Final = 1e-9
_KEY_RULE: Final = "key is unique in its batch"


def validate(contract: Contract, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a batch into rows that fit the contract and rows that do not.

    Args:
        contract: the rules.
        batch: rows with the columns of `contract.schema`, in any order.

    Returns:
        The rows that fit; and those that do not, with a text column `reason` that names every rule broken.

    Raises:
        ContractError: a column is missing or cannot be cast to its type.
    """
    batch = contract.typed(batch)
    failures = failures_of(contract, batch)
    if not failures:
        return batch, batch.slice(0, 0).append_column("reason", pa.array([], pa.string()))
    bad = np.zeros(batch.num_rows, dtype=bool)
    bad[list(failures)] = True
    reasons = pa.array([failures[row] for row in sorted(failures)], pa.string())
    return batch.filter(pa.array(~bad)), batch.filter(pa.array(bad)).append_column("reason", reasons)


def failures_of(contract: Contract, batch: pa.Table) -> dict[int, str]:
    """Return the numbers of the rows of a typed batch that do not fit the contract, each with every rule it breaks."""
    if batch.num_rows == 0:
        return {}
    # What the whole batch proves need not be asked of each row: nearly all columns and rules of nearly all batches.
    doubtful = _Doubtful(
        tuple(c.name for c in contract.columns if not _is_proven(c, batch[c.name])),
        tuple(pair for pair in contract.ordered if not _is_ordered(batch, *pair)),
        not is_unique(batch, contract.key),
    )
    if doubtful == _NOTHING:
        return {}
    used = {*doubtful.columns, *chain.from_iterable(doubtful.ordered), *contract.key}
    batch = batch.select([name for name in batch.column_names if name in used])
    small = batch.num_rows < SMALL_BATCH_ROWS
    return _failures_small(contract, batch, doubtful) if small else _failures(contract, batch, doubtful)


class _Doubtful(NamedTuple):
    """What a batch does not prove as a whole: columns, pairs, and whether its key is unique."""

    columns: tuple[str, ...]
    ordered: tuple[tuple[str, str], ...]
    key: bool


_NOTHING: Final = _Doubtful((), (), False)


def _is_ordered(batch: pa.Table, low: str, high: str) -> bool:
    return pc.all(pc.less_equal(batch[low], batch[high])).as_py() is not False


def is_unique(batch: pa.Table, key: Sequence[str]) -> bool:
    """Say whether no two rows of a batch have the same key."""
    if batch.num_rows < 2:
        return True
    # Rows in the order of their key are shown to be distinct at a fraction of what counting them takes.
    is_whole = not any(batch[name].null_count for name in key)
    return (is_whole and rise(batch, key)[0]) or batch.group_by(list(key)).aggregate(
        []
    ).num_rows == batch.num_rows


def rise(batch: pa.Table, names: Sequence[str]) -> tuple[bool, bool]:
    """Say whether every row is greater than the one before it, and whether none is less.

    Args:
        batch: two rows or more, no value of these columns null.
        names: compared in this order, texts by their bytes.
    """
    less = greater = np.zeros(batch.num_rows - 1, dtype=bool)
    for name in names:
        before, after = batch[name][:-1], batch[name][1:]
        tied = ~(less | greater)
        less = less | tied & pc.less(after, before).to_numpy()
        greater = greater | tied & pc.greater(after, before).to_numpy()
    return bool(greater.all()), not less.any()


def _is_proven(column: Column, values: pa.ChunkedArray[Any]) -> bool:
    """Say whether a column's nulls, least and largest values show that each of its values fits."""
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
    """Return a column's least and largest value; None where it has none, NaN where a number is."""
    if pa.types.is_floating(values.type):
        if values.null_count:
            if pc.any(pc.is_nan(values)).as_py():
                return math.nan, math.nan
        elif len(values):
            # A tenth of what Arrow takes, and a NaN comes through.
            chunks = [chunk.to_numpy() for chunk in values.chunks if len(chunk)]
            return np.min([chunk.min() for chunk in chunks]), np.max([chunk.max() for chunk in chunks])
    found: Any = pc.min_max(values).as_py()
    return found["min"], found["max"]


def _failures_small(contract: Contract, batch: pa.Table, doubtful: _Doubtful) -> dict[int, str]:
    from pandera.errors import SchemaErrors

    try:
        _pandas_schema(contract, doubtful).validate(_as_pandas(batch), lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        return _collect(
            zip(cases["index"], cases["column"], cases["check"], cases["failure_case"], strict=True)
        )
    return {}


def _as_pandas(batch: pa.Table) -> pd.DataFrame:
    """Return a batch for pandas; texts repeat, so each is held once."""
    return batch.to_pandas(ignore_metadata=True, strings_to_categorical=True)


def _failures(contract: Contract, batch: pa.Table, doubtful: _Doubtful) -> dict[int, str]:
    import polars as pl
    from pandera.errors import SchemaErrors

    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    try:
        _polars_schema(contract, doubtful).validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        return _collect(cases.select("index", "column", "check", "failure_case").iter_rows())
    return {}


def _collect(cases: Any) -> dict[int, str]:
    reasons: dict[int, dict[str, None]] = {}
    for row, column, check, value in cases:
        # A rule over the whole row is reported once a column by pandas; its name says enough.
        is_whole_row = str(check) == _KEY_RULE or " <= " in str(check)
        text = str(check) if is_whole_row else f"{column} is {_show(value)}: {check}"
        reasons.setdefault(int(row), {})[text] = None
    return {row: "; ".join(texts) for row, texts in reasons.items()}


def _show(value: object) -> str:
    return "null" if value is None or value != value else str(value)


@cache
def _pandas_schema(contract: Contract, doubtful: _Doubtful) -> Any:
    import pandera.pandas as pandas_api

    checks = [
        pandas_api.Check(_pandas_le(low, high), name=_order_rule(low, high)) for low, high in doubtful.ordered
    ]
    key = list(contract.key)
    if doubtful.key:
        checks.append(pandas_api.Check(lambda frame: ~frame.duplicated(key), name=_KEY_RULE))
    columns = {
        c.name: pandas_api.Column(None, _checks(pandas_api, c), nullable=c.nullable)
        for c in contract.columns
        if c.name in doubtful.columns
    }
    return pandas_api.DataFrameSchema(columns, checks=checks)


@cache
def _polars_schema(contract: Contract, doubtful: _Doubtful) -> Any:
    import pandera.polars as polars_api
    import polars as pl

    checks = [
        polars_api.Check(_polars_le(low, high), name=_order_rule(low, high)) for low, high in doubtful.ordered
    ]
    key = list(contract.key)
    if doubtful.key:
        checks.append(
            polars_api.Check(
                lambda data: data.lazyframe.select(pl.struct(key).is_first_distinct()), name=_KEY_RULE
            )
        )
    columns = {
        c.name: polars_api.Column(None, _checks(polars_api, c), nullable=c.nullable)
        for c in contract.columns
        if c.name in doubtful.columns
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
