"""Conversions of a result: every row, equal values, and tensors of numbers only."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch

from storage.errors import SettingsError
from tickwalk import QueryResult

TABLE = pa.table(
    {
        "name": ["a", None, "<b>"],
        "price": pa.array([1.5, None, float("nan")], pa.float64()),
        "small": pa.array([0.5, 1.5, None], pa.float32()),
        "count": pa.array([1, 2, 3], pa.int32()),
        "known": pa.array([2**53, None, -1], pa.int64()),
        "total": pa.array([Decimal(7), Decimal(8), Decimal(9)], pa.decimal128(38, 0)),
        "exact": pa.array([Decimal("0.25"), None, Decimal("1.5")], pa.decimal128(10, 2)),
    }
)


def test_every_conversion_has_the_rows() -> None:
    result = QueryResult(TABLE)
    assert result.arrow() is TABLE
    assert len(result) == 3
    assert result.columns == TABLE.column_names
    assert result.pl().to_arrow().column("known").to_pylist() == [2**53, None, -1]
    assert result.df().shape == (3, 7)
    assert pl.DataFrame(result).shape == (3, 7)  # through the Arrow stream


def test_tensors_keep_numbers_and_say_nan_where_null() -> None:
    tensors = QueryResult(TABLE.drop_columns(["name"])).torch()
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "price": torch.float64,
        "small": torch.float32,
        "count": torch.int64,
        "known": torch.float64,
        "total": torch.int64,
        "exact": torch.float64,
    }
    assert all(tensor.shape == (3,) for tensor in tensors.values())
    assert torch.isnan(tensors["price"]).tolist() == [False, True, True]
    assert tensors["known"][[0, 2]].tolist() == [float(2**53), -1.0]
    assert torch.isnan(tensors["known"][1])
    assert tensors["total"].tolist() == [7, 8, 9]
    assert tensors["exact"][[0, 2]].tolist() == [0.25, 1.5]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["x"]), "column 'it' is string, and a tensor holds numbers only"),
        (pa.array([0], pa.timestamp("us", tz="UTC")), r"column 'it' is timestamp.*epoch_us"),
        (pa.array([True]), r"column 'it' is bool.*TINYINT"),
        (pa.array([[1.0]]), "column 'it' is list"),
        (pa.array([2**53 + 1, None]), "column 'it' has nulls and integers beyond 2"),
        (pa.array([2**63], pa.uint64()), "column 'it' holds integers beyond int64"),
    ],
)
def test_a_column_that_is_no_number_is_named(column: pa.Array[Any], message: str) -> None:
    table = pa.table({"fine": pa.nulls(len(column)), "it": column})
    with pytest.raises(TypeError, match=message):
        QueryResult(table).torch()


def test_no_rows_are_a_result_too() -> None:
    empty = QueryResult(TABLE.slice(0, 0))
    assert len(empty) == 0
    assert empty.pl().shape == (0, 7)
    assert QueryResult(TABLE.slice(0, 0).select(["price", "total"])).torch()["price"].shape == (0,)
    assert repr(empty).startswith("QueryResult: 0 rows x 7 columns\nname")


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["it", "it"])
    with pytest.raises(SettingsError, match="two columns called 'it'"):
        QueryResult(table)


def test_the_text_names_what_it_leaves_out() -> None:
    wide = pa.table({f"c{number}": list(range(30)) for number in range(12)})
    text = repr(QueryResult(wide))
    assert text.splitlines()[0] == "QueryResult: 30 rows x 12 columns"
    assert text.splitlines()[-1] == "... 20 more rows and 4 more columns: c8, c9, c10, c11"
    assert len(text.splitlines()) == 13


def test_the_html_is_escaped_and_bounded() -> None:
    page = QueryResult(pa.concat_tables([TABLE] * 10))._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 21
    assert "30 rows x 7 columns; ... 10 more rows" in page
