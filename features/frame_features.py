"""A feature set as a function from a frame of bars to a frame of features.

It is for tools that know frames and not tickwalk: auditors, notebooks, other pipelines. Values have the bits of
`features.build.build_features` on the panel of the same bars.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.build import build_features
from features.feature import FeatureBlock, deepest_lookback
from features.panel.panel import Panel, panel_from_table
from features.sets import columns_of, get_set
from features.versioning.fingerprint import fingerprint
from storage.clock import NS, US_NS, iso, width_ns
from storage.contracts.tables import SESSIONS, STATUSES
from storage.errors import ContractError, SettingsError

KEY: Final = ("instrument", "ts_open")
_OPTIONAL: Final = ("status", "session", "trades_applicable")
_TEXTS: Final = {"status": STATUSES, "session": SESSIONS}
_ACCEPTED: Final = "a pandas or polars DataFrame, or a pyarrow Table"
_MOST_CELLS: Final = 400_000_000
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


class FrameFeatures:
    """A callable that computes one feature set on frames of bars; `tickwalk.features` makes it."""

    def __init__(self, feature_set: str, *, width: str | None = None) -> None:
        """Prepare a set.

        Args:
            feature_set: name of a set.
            width: bar width (default: the frame's column `width`, or else the least time between two bars).

        Raises:
            SettingsError: there is no such set or width.
        """
        self._features = get_set(feature_set)
        if width is not None:
            width_ns(width)
        self.feature_set = feature_set
        self._width = width

    def __repr__(self) -> str:
        """Return the set and its size."""
        return f"FrameFeatures({self.feature_set!r}, {len(self._features)} features)"

    @property
    def names(self) -> tuple[str, ...]:
        """The features, in the order of the columns."""
        return tuple(item.name for item in self._features)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a frame must have."""
        return (*KEY, *sorted(columns_of(self._features) - set(_OPTIONAL)))

    @property
    def lookback_bars(self) -> int:
        """Number of bars before its own that a value may depend on; values of earlier bars are null."""
        return deepest_lookback(self._features)

    @property
    def fingerprint(self) -> str:
        """Version of the code of the set."""
        return fingerprint(self._features)

    def __call__(self, frame: Any) -> Any:
        """Compute the features of every row of a frame.

        Args:
            frame: bars, one row each, in any order: a pandas or polars DataFrame, a pyarrow Table, or anything else
                that offers an Arrow stream. `columns` lists what it must have; null is unknown. Without `status`, or
                where it is null, a row counts as watched where its price is known, and as unknown elsewhere. A
                timestamp without a zone is in UTC. Steps without a row are unknown.

        Returns:
            A frame of the same library (of pyarrow for other streams), its rows in the order of the input's:
            `instrument`, `ts_open`, and the features as float32, null where unknown.

        Raises:
            ContractError: a column is missing or has another type, a key is null or repeated, or a bar is off the
                grid; the error names the column and the row.
            SettingsError: the width is none, or cannot be found.
        """
        library = type(frame).__module__.partition(".")[0]
        bars = self._read(frame, library)
        opens_ns = _opens_ns(bars)
        width = self._width or _width_of(bars, opens_ns)
        panel = _panel(bars, opens_ns, width)
        block = build_features(panel, self.feature_set)
        values = _columns(block, panel, bars["instrument"], opens_ns)
        return _like(frame, library, bars, values)

    def _read(self, frame: Any, library: str) -> pa.Table:
        """Return the columns that are used, as Arrow."""
        used = [*self.columns, *_OPTIONAL, "width"]
        if library == "polars" and type(frame).__name__ == "LazyFrame":
            raise ContractError("a polars LazyFrame has no rows yet", hint="pass frame.collect()")
        if library == "pandas" and hasattr(frame, "columns"):
            names = [str(name) for name in frame.columns]
            self._require(names, library)
            table = _from_pandas(frame, [name for name in used if name in names])
        elif library == "pyarrow" and isinstance(frame, pa.RecordBatch):
            table = pa.Table.from_batches([frame])
        elif hasattr(frame, "__arrow_c_stream__"):
            table = pa.table(frame)
        else:
            raise ContractError(
                f"a {type(frame).__module__}.{type(frame).__qualname__} is no frame", hint=f"pass {_ACCEPTED}"
            )
        self._require(table.column_names, library)
        table = table.select([name for name in used if name in table.column_names])
        if table.num_rows == 0:
            raise ContractError("the frame has no rows", hint="pass at least one bar")
        return _checked(table)

    def _require(self, names: list[str], library: str) -> None:
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ContractError(f"the frame has two columns {repeated[0]!r}", hint="drop or rename one")
        if missing := [name for name in self.columns if name not in names]:
            index = "; if it is the index, call frame.reset_index() first" if library == "pandas" else ""
            raise ContractError(
                f"the frame lacks the column {missing[0]!r}, which the set {self.feature_set} reads "
                f"(missing: {', '.join(missing)})",
                hint=f"add it, null where it is unknown{index}",
            )


def _from_pandas(frame: Any, names: list[str]) -> pa.Table:
    arrays = {}
    for name in names:
        try:
            arrays[name] = pa.array(frame[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ContractError(
                f"the column {name!r} cannot be read: {error}", hint="give it one type"
            ) from error
    return pa.table(arrays)


def _checked(table: pa.Table) -> pa.Table:
    """Return the table with plain types: text, timestamps in UTC, float64 or booleans."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_null(column.type):
            column = column.cast(pa.string() if name in (*KEY, *_TEXTS, "width") else pa.float64())
        if name == "ts_open":
            column = _times(column)
        elif name in ("instrument", "width", *_TEXTS):
            column = _texts(column, name)
        else:
            column = _numbers(column, name)
        columns[name] = column
    for name in KEY:
        if columns[name].null_count:
            row = pc.index(pc.is_null(columns[name]), True).as_py()
            raise ContractError(
                f"the column {name!r} is null in row {row}",
                hint="every bar needs its instrument and its open",
            )
    return pa.table(columns)


def _times(column: Any) -> Any:
    if not pa.types.is_timestamp(column.type):
        raise ContractError(
            f"the column 'ts_open' is {column.type}, and it must be a timestamp",
            hint="convert it, such as by pandas.to_datetime(column, unit='s', utc=True)",
        )
    try:
        return column.cast(pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid as error:
        raise ContractError(
            f"the column 'ts_open' is finer than a microsecond: {error}", hint="a bar opens on its grid"
        ) from error


def _texts(column: Any, name: str) -> Any:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or _is_view(column)):
        raise ContractError(f"the column {name!r} is {column.type}, and it must be text")
    column = column.cast(pa.string())
    allowed = _TEXTS.get(name)
    if allowed is not None:
        wrong = pc.and_(pc.is_valid(column), pc.invert(pc.is_in(column, value_set=pa.array(allowed))))
        if pc.any(wrong).as_py():
            row = pc.index(wrong, True).as_py()
            raise ContractError(
                f"the column {name!r} is {column[row].as_py()!r} in row {row}",
                hint=f"it is one of {', '.join(allowed)}, or null",
            )
    return column


def _is_view(column: Any) -> bool:
    return "string_view" in str(column.type)


def _numbers(column: Any, name: str) -> Any:
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.cast(pa.uint8()).cast(pa.float64())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ContractError(f"the column {name!r} is {kind}, and it must be numeric")
    return column.cast(pa.float64(), safe=False)


def _opens_ns(bars: pa.Table) -> npt.NDArray[np.int64]:
    opens: npt.NDArray[np.int64] = bars["ts_open"].cast(pa.int64()).to_numpy() * US_NS
    return opens


def _width_of(bars: pa.Table, opens_ns: npt.NDArray[np.int64]) -> str:
    if "width" in bars.column_names:
        found = [str(name) for name in pc.unique(bars["width"].drop_null()).to_pylist()]
        if len(found) != 1:
            raise ContractError(
                f"the column 'width' has {len(found)} values, and a frame has bars of one width",
                hint="filter the frame, or call tickwalk.features for each width",
            )
        return found[0]
    apart = np.diff(np.unique(opens_ns))
    if not len(apart):
        raise SettingsError(
            "the width of a single bar cannot be found", hint="pass tickwalk.features(SET, width='1m')"
        )
    least_ns = int(apart.min())
    for unit, seconds in _UNITS:
        if least_ns % (seconds * NS) == 0:
            return f"{least_ns // (seconds * NS)}{unit}"
    raise SettingsError(
        f"the least time between two bars is {least_ns / NS:g} s, which is no width of whole seconds",
        hint="pass tickwalk.features(SET, width='1m')",
    )


def _panel(bars: pa.Table, opens_ns: npt.NDArray[np.int64], width: str) -> Panel:
    step_ns = width_ns(width)
    off = np.flatnonzero(opens_ns % step_ns)
    if len(off):
        raise ContractError(
            f"the column 'ts_open' is {iso(int(opens_ns[off[0]]))} in row {off[0]}, which is not on the grid of "
            f"{width}",
            hint="pass the true width, such as tickwalk.features(SET, width='5m')",
        )
    _refuse_repeats(bars, opens_ns)
    steps = (int(opens_ns.max()) - int(opens_ns.min())) // step_ns + 1
    cells = steps * len(pc.unique(bars["instrument"]))
    if cells > _MOST_CELLS:
        raise ContractError(
            f"the frame spans {steps:,} steps of {width}, {cells:,} with all instruments, and at most "
            f"{_MOST_CELLS:,} are computed at once",
            hint="pass shorter ranges, each with the bars that its features look back to",
        )
    if "width" in bars.column_names:
        bars = bars.drop_columns("width")
    return panel_from_table(_with_status(bars), width=width)


def _refuse_repeats(bars: pa.Table, opens_ns: npt.NDArray[np.int64]) -> None:
    codes: Any = bars["instrument"].combine_chunks().dictionary_encode()
    key = np.stack([codes.indices.to_numpy(zero_copy_only=False), opens_ns])
    order = np.lexsort(key)
    same = np.flatnonzero((np.diff(key[:, order], axis=1) == 0).all(axis=0))
    if len(same):
        row = int(order[same[0] + 1])
        raise ContractError(
            f"two rows are the bar of {bars['instrument'][row].as_py()} at {iso(int(opens_ns[row]))}, one of them "
            f"row {row}",
            hint="keep one row a bar: the one that was known in time",
        )


def _with_status(bars: pa.Table) -> pa.Table:
    """Return the bars with a status in every row."""
    prices = ("close",) if "close" in bars.column_names else ("bid", "ask")
    is_known = np.ones(bars.num_rows, dtype=bool)
    for name in prices:
        if name in bars.column_names:
            is_known &= np.isfinite(bars[name].to_numpy())
    derived: Any = pa.array(np.where(is_known, "printed", "unknown"))
    if "status" in bars.column_names:
        derived = pc.coalesce(bars["status"], derived)
        bars = bars.drop_columns("status")
    return bars.append_column("status", derived)


def _columns(
    block: FeatureBlock, panel: Panel, instruments: Any, opens_ns: npt.NDArray[np.int64]
) -> dict[str, pa.Array[Any]]:
    """Return the features of the input's rows, in their order."""
    place = pc.index_in(instruments, value_set=pa.array(panel.instruments)).to_numpy()
    step = (opens_ns - int(panel.ts_open_ns[0])) // panel.width_ns
    values, mask = block.values.numpy()[place, step], block.mask.numpy()[place, step]
    return {
        name: pa.array(values[:, number], mask=~mask[:, number]) for number, name in enumerate(block.names)
    }


def _like(frame: Any, library: str, bars: pa.Table, values: dict[str, pa.Array[Any]]) -> Any:
    """Return key and features as a frame of the input's library, with the key as it was."""
    features = pa.table(values)
    if library == "pandas":
        import pandas

        columns = features.to_pandas()
        columns.index = frame.index
        return pandas.concat([frame[list(KEY)], columns], axis=1)
    if library == "polars":
        import polars

        added = polars.from_arrow(features)
        assert isinstance(added, polars.DataFrame)
        return frame.select(KEY).hstack(added)
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    # An Arrow stream can be read once only.
    key = (frame if isinstance(frame, pa.Table) else bars).select(KEY)
    for name in features.column_names:
        key = key.append_column(name, features[name])
    return key
