"""Import of files of paid funding.

A file of payments becomes rows of `funding`: instrument, time, rate, and where the file has them premium and interval.
Times keep the delay that the venue stamped them with. An interval that the file does not state is derived from the
spacing of each instrument's payments, as for payments over REST.

A payment of the future is an error of the whole file: what a venue predicts for the next hour has not been paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.backfill.candle_times import TimeColumn
from ingest.backfill.file_columns import find_column, read_columns, typed_column
from ingest.backfill.rest.funding import interval_hours
from ingest.journal.captures import content_id
from storage.clock import MS_NS, US_NS, TimeSource, WallTime, iso
from storage.contracts.tables import FUNDING
from storage.errors import CaptureError, RangeError, SettingsError
from storage.lake.bulk_load import BULK_ROWS, load
from storage.lake.lake import Lake
from storage.settings import Settings

FUNDING_FILE: Final = "funding file:"
"""Prefix of the id of a batch that was imported from a file."""

_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "instrument": ("instrument", "coin", "symbol", "pair", "s"),
    "t": ("ts_event", "t", "time", "timestamp", "funding_time", "fundingTime", "date"),
    "rate": ("funding_rate", "fundingRate", "rate", "funding", "r"),
    "premium": ("premium",),
    "interval_h": ("interval_h", "interval_hours", "intervalHours"),
}
_OPTIONAL: Final = ("premium", "interval_h")
_HINT: Final = "see the section on files of funding in docs/backfill.md"
_PIECE_ROWS: Final = 20_000
_ID_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class FundingImport:
    """Outcome of an import of funding.

    Args:
        instruments: in the file.
        from_ns, to_ns: times of the first and the last payment.
        payments: in the file.
        written: payments new to the lake.
        refused: payments that went to quarantine.
        is_utc_assumed: the file's times have no zone, and none was named.
    """

    instruments: tuple[str, ...]
    from_ns: int
    to_ns: int
    payments: int
    written: int
    refused: int
    is_utc_assumed: bool


def import_funding(
    path: Path,
    settings: Settings,
    lake: Lake,
    *,
    venue: str = "hyperliquid",
    kind: str = "perp",
    timezone: str | None = None,
    clock: TimeSource | None = None,
    on_total: Callable[[int], None] = lambda _: None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> FundingImport:
    """Import a Parquet or CSV file of paid funding; a second import adds nothing.

    Args:
        path: ends in `.parquet`, `.csv` or `.csv.gz`.
        settings: measured lag until a payment is knowable.
        lake: stores the rows.
        venue, kind: first parts of the ids of instruments that the file names by their symbols.
        timezone: of times without a zone (default: UTC).
        clock: the present, after which no payment counts (default: wall clock).
        on_total: called with the number of payments in the file.
        on_rows: called with the number of payments that are being written.

    Raises:
        CaptureError: the file cannot be read, lacks a column, or has a payment of the future.
        RangeError: it has no row.
        SettingsError: venue or kind cannot be a part of an id; the time zone does not exist, or the times have one.
    """
    for option, value in (("--venue", venue), ("--kind", kind)):
        if not value or "|" in value:
            raise SettingsError(
                f"{option} is {value!r}", hint="use a name such as hyperliquid or perp, without |"
            )
    lag_ns = settings.bars.history_lag_ms * MS_NS
    rows, is_local = _read(path, venue=venue, kind=kind, timezone=timezone)
    now_ns = (clock or WallTime()).now_ns()
    _refuse_future(rows, path.name, now_ns)
    source = f"{path.name}#{content_id(path)}"
    rows = _complete(rows, source, lag_ns)
    on_total(rows.num_rows)
    zone = "" if timezone is None else timezone
    batch_id = f"{FUNDING_FILE}{source}:{venue}|{kind}:{zone}:{lag_ns}"
    inputs = {
        "file": path.name,
        "path": str(path.resolve()),
        "sha256": content_id(path),
        "now_ns": now_ns,
        "options": {"venue": venue, "kind": kind, "timezone": timezone, "history_lag_ms": lag_ns // MS_NS},
    }
    pieces = _pieces(rows, on_rows)
    if rows.num_rows < BULK_ROWS:
        done = lake.commit({"funding": pa.concat_tables(pieces)}, batch_id=batch_id, inputs=inputs)
    else:
        done = load(lake, {"funding": pieces}, batch_id=batch_id, inputs=inputs)
    t_ns = rows["ts_event"].cast(pa.int64()).to_numpy() * US_NS
    return FundingImport(
        instruments=tuple(str(name) for name in pc.unique(rows["instrument"]).to_pylist()),
        from_ns=int(t_ns.min()),
        to_ns=int(t_ns.max()),
        payments=rows.num_rows,
        written=done.rows.get("funding", 0),
        refused=done.refused,
        is_utc_assumed=is_local,
    )


def _read(path: Path, *, venue: str, kind: str, timezone: str | None) -> tuple[pa.Table, bool]:
    """Return `instrument`, `t_ns`, `rate`, `premium`, `interval_h`, sorted, and whether UTC was assumed."""
    table = read_columns(path, hint=_HINT)
    if table.num_rows == 0:
        raise RangeError(f"{path} has no payment", hint="check the file; an empty import changes nothing")
    columns: dict[str, pa.ChunkedArray[Any]] = {}
    names: dict[str, str] = {}
    for ours, aliases in _ALIASES.items():
        at = find_column(table.column_names, ours, aliases, path.name, is_optional=ours in _OPTIONAL)
        if at is not None:
            columns[ours], names[ours] = table.column(at), table.column_names[at]

    def typed(ours: str, type_: pa.DataType) -> Any:
        if ours not in columns:
            return pa.nulls(table.num_rows).cast(type_)
        return typed_column(columns[ours], type_, names[ours], path.name, whose="payment's", hint=_HINT)

    symbols = typed("instrument", pa.string())
    if missing := symbols.null_count:
        raise CaptureError(f"{path.name} has {missing} payments without an instrument", hint="mend the file")
    times = TimeColumn(path.name, names["t"], columns["t"], symbols, rows="payments").read(timezone)
    rows = pa.table(
        {
            "instrument": _ids(symbols, venue=venue, kind=kind),
            "t_ns": pa.array(times.t_ns, pa.int64()),
            "rate": typed("rate", pa.float64()),
            "premium": typed("premium", pa.float64()),
            "interval_h": typed("interval_h", pa.int32()),
        }
    )
    return rows.sort_by([("instrument", "ascending"), ("t_ns", "ascending")]), times.is_local


def _ids(symbols: pa.ChunkedArray[Any], *, venue: str, kind: str) -> Any:
    """Return instrument ids; a name that is one already is kept."""
    encoded: Any = symbols.combine_chunks().dictionary_encode()
    ids = [
        name if len(name.split("|")) == _ID_PARTS else f"{venue}|{kind}|{name}"
        for name in encoded.dictionary.to_pylist()
    ]
    return pa.chunked_array([pa.array(ids, pa.string()).take(encoded.indices)])


def _refuse_future(rows: pa.Table, file: str, now_ns: int) -> None:
    t_ns = rows["t_ns"].to_numpy()
    if late := int((t_ns > now_ns).sum()):
        raise CaptureError(
            f"{file} has {late} payments after {iso(now_ns)}, the last at {iso(int(t_ns.max()))}; "
            "only funding that was paid can be imported",
            hint="remove predicted payments, or check the unit of the times",
        )


def _complete(rows: pa.Table, source: str, lag_ns: int) -> pa.Table:
    """Return rows of `funding`; intervals that the file lacks are those of the spacing."""
    t_ns = rows["t_ns"].to_numpy()
    interval = rows["interval_h"].to_numpy()
    if np.isnan(interval.astype(np.float64)).any():
        names: Any = rows["instrument"].combine_chunks().dictionary_encode()
        starts = np.flatnonzero(np.diff(names.indices.to_numpy(), prepend=-1))
        derived = [
            hours for part in np.split(t_ns // MS_NS, starts[1:]) for hours in interval_hours(part.tolist())
        ]
        interval = np.where(np.isnan(interval.astype(np.float64)), derived, interval)
    columns = {
        "instrument": rows["instrument"],
        "ts_event": pa.array(t_ns // US_NS, FUNDING.schema.field("ts_event").type),
        "funding_rate": rows["rate"],
        "premium": rows["premium"],
        "interval_h": pa.array(interval.astype(np.int32)),
        "source": pa.repeat(pa.scalar(source), rows.num_rows),
        "ts_knowable_ns": pa.array(t_ns + lag_ns, pa.int64()),
    }
    return pa.table(columns).select(FUNDING.schema.names)


def _pieces(rows: pa.Table, on_rows: Callable[[int], None]) -> Iterator[pa.Table]:
    for at in range(0, rows.num_rows, _PIECE_ROWS):
        piece = rows.slice(at, _PIECE_ROWS)
        yield piece
        on_rows(piece.num_rows)
