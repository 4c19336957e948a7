"""Comparison of the tables of two homes, and replay of a home's journals in a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import msgspec
import pyarrow as pa

from ingest.journal.format import segments
from ingest.journal.reader import read_journal
from ingest.journal.recording import read_header
from ingest.journal.records import Record, RecordKind
from ingest.replay.replay import replay
from storage.contracts.tables import CONTRACTS
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings

# These say who wrote what when, and when a lake was made, which a replay does otherwise.
TABLES: Final = tuple(name for name in CONTRACTS if name not in ("batches", "migrations"))
_OURS: Final = ("batch", "home", "ts_ingested_ns")

_UNLIKE: Final = """
    WITH counted AS (
        SELECT b.instrument, b.width, b.ts_open, any_value(b.trades) AS trades, count(t.tid) AS printed
        FROM bars_latest b LEFT JOIN trades t
          ON t.instrument = b.instrument AND t.ts_event >= b.ts_open AND t.ts_event < b.ts_close
        WHERE b.trades_applicable GROUP BY ALL
    )
    SELECT * FROM counted WHERE trades <> printed ORDER BY ALL
"""

Key = tuple[str, int, int]
"""(coin, venue time in ms, tid)"""


def fresh(home: Path) -> Settings:
    """Return settings of a new home; no file and no variable of the person who runs the tests is read."""
    return load_settings(overrides={"home": home}, environ={})


def read_table(lake: Lake, name: str, *, without: Iterable[str] = ()) -> pa.Table:
    """Return a table's rows in one order, without the columns that say when a row was written."""
    dropped = ", ".join(column for column in (*_OURS, *without) if _has(name, column))
    return lake.query(f"SELECT * EXCLUDE ({dropped}) FROM {name} ORDER BY ALL")


def filled_tables(lake: Lake) -> set[str]:
    """Return the names of the tables that have files: to read one without rows takes 45 ms of processor time."""
    found = lake.query("SELECT table_name FROM ducklake_table_info('lake') WHERE file_count > 0")
    return set(found["table_name"].to_pylist())


@cache
def _empty_table(name: str, without: tuple[str, ...]) -> pa.Table:
    """Return what `read_table` returns of a table without rows."""
    return read_table(_empty_lake(), name, without=without)


@cache
def _empty_lake() -> Lake:
    """Return an empty lake that stays open, as opening one takes longer than reading all its tables."""
    return Lake.open(fresh(Path(mkdtemp(prefix="tickwalk-lake-"))))


def read_tables(
    settings: Settings, *, names: Sequence[str] = TABLES, without: Iterable[str] = ()
) -> dict[str, pa.Table]:
    """Return tables of a home, see `read_table`."""
    with Lake.open(settings, read_only=True) as lake:
        filled = filled_tables(lake)
        return {
            name: read_table(lake, name, without=without)
            if name in filled
            else _empty_table(name, tuple(without))
            for name in names
        }


def assert_equal(one: Mapping[str, pa.Table], other: Mapping[str, pa.Table]) -> dict[str, int]:
    """Check that tables are equal row for row and value for value; return how many rows each has."""
    assert one.keys() == other.keys()
    for name, table in one.items():
        if table.equals(other[name]):
            continue
        rows, others = (_lines(item) for item in (table, other[name]))
        raise AssertionError(
            f"{name}: {len(rows)} rows against {len(others)}\n"
            f"only in the first: {_some(rows - others)}\nonly in the second: {_some(others - rows)}"
        )
    return {name: table.num_rows for name, table in one.items() if table.num_rows}


def recordings(settings: Settings) -> list[Path]:
    """Return the recordings of a home in the order in which they began; empty ones are left out."""
    folders = [folder for folder in settings.journal_dir.iterdir() if segments(folder)]
    begun = {folder: read_header(folder)[1] for folder in folders}
    return sorted(
        (folder for folder, at_ns in begun.items() if at_ns), key=lambda folder: (begun[folder], folder.name)
    )


def replay_all(settings: Settings, home: Path) -> Settings:
    """Replay a home's recordings, oldest first, in a fresh one; return that one's settings."""
    other = fresh(home)
    with Lake.open(other) as lake:
        for folder in recordings(settings):
            replay(folder, other, lake)
    return other


def journalled_prints(folder: Path) -> set[Key]:
    """Return the keys of all prints in a recording's frames."""
    return {key for record in read_journal(folder) for key in prints_of(record)}


def prints_of(record: Record) -> list[Key]:
    """Return the keys of the prints in a record; none where it is another one."""
    if record.kind is not RecordKind.FRAME or not record.body.startswith(b'{"channel":"trades"'):
        return []
    return [(row["coin"], row["time"], row["tid"]) for row in msgspec.json.decode(record.body)["data"]]


def stored_prints(settings: Settings) -> list[Key]:
    """Return the key of each row of `trades`; one that is there twice is returned twice."""
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query(
            "SELECT split_part(instrument, '|', 3) AS coin, epoch_ms(ts_event) AS time, tid FROM trades"
        )
    return list(zip(*(rows[name].to_pylist() for name in ("coin", "time", "tid")), strict=True))


def assert_bars_hold_trades(settings: Settings) -> int:
    """Check that each bar counts the prints that `trades` has of it, from an instrument's first bar on.

    Returns:
        How many bars count some.
    """
    with Lake.open(settings, read_only=True) as lake:
        unlike = lake.query(_UNLIKE).to_pylist()
        counted = lake.query("SELECT count(*) AS n FROM bars_latest WHERE trades > 0")["n"][0].as_py()
    assert not unlike, f"bars that do not count what was printed: {unlike[:5]}"
    return int(counted)


def _has(name: str, column: str) -> bool:
    return column in CONTRACTS[name].stored_schema.names


def _lines(table: pa.Table) -> set[str]:
    return {repr(row) for row in table.to_pylist()}


def _some(lines: set[str]) -> Any:
    return "\n  ".join(["", *sorted(lines)[:3]]) or "none"
