"""Benchmark of a bulk load, against plain Parquet of the same rows: write, disk, read, memory.

Plain is `pyarrow.parquet.ParquetWriter` with zstd and every other option as it comes (dictionaries, row groups of a
million rows), synced. It checks nothing, stamps nothing and registers nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from storage.contracts.tables import BARS
from storage.lake.bulk_load import load
from storage.lake.lake import Lake
from storage.settings import load_settings
from tests.benchmarks.harness import Figure, bench, figures, measure
from tests.benchmarks.made_bars import FIRST_MIN, MONTH, instrument, made_bars

ROWS: Final = 48 * MONTH
"""A month of 48 instruments: two million rows."""
ROUNDS: Final = 3
READS: Final = 15
MEMORY_ROWS: Final = 50_000_000 if "DRILL" in os.environ else 4_000_000
LIMIT_MB: Final = 2_000
READ: Final = ("open", "high", "low", "close", "volume")
OURS: Final = "ours"
AGAINST: Final = f"plain Parquet, zstd, pyarrow {pa.__version__}"


def write_plain(path: Path, rows: Iterable[pa.Table]) -> int:
    """Write rows as pyarrow does by itself, wait until the disk has them, and return the file's size."""
    with pq.ParquetWriter(path, BARS.schema, compression="zstd") as writer:
        # By the million, as a whole table would be written: a table of one instrument would make a group of its own.
        stream = iter(rows)
        while some := list(islice(stream, 24)):
            writer.write_table(pa.concat_tables(some))
    for target in (path, path.parent):
        handle = os.open(target, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return path.stat().st_size


def open_lake(home: Path) -> Lake:
    """Open a fresh lake."""
    return Lake.open(load_settings(overrides={"home": home}, environ={}))


def loaded_bytes(lake: Lake) -> int:
    """Return the size of the files that a load has left."""
    return sum(path.stat().st_size for path in Path(lake.data).rglob("load-*.parquet"))


@bench
def write() -> Iterator[Figure]:
    """Yield the cost of a load in processor time, and its bytes a row."""
    taken, sizes = alternate(list(made_bars(ROWS)), ROUNDS)
    rate = ROWS / taken[OURS] / 1e6
    yield from figures("bulk load of bars", taken, ours=OURS, value=rate, unit="million rows/s of one core")
    ours, plain = sizes[OURS] / ROWS, sizes[AGAINST] / ROWS
    yield Figure("bytes a row of bars", round(ours, 2), "bytes", AGAINST, round(plain / ours, 2))


def alternate(tables: Sequence[pa.Table], rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the median seconds and the bytes of a load and of a plain write; both must hold every row."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lakes = [open_lake(place / f"home{number}") for number in range(rounds + 1)]
        fresh, path = iter(lakes), place / "plain.parquet"
        rows = sum(table.num_rows for table in tables)

        def ours() -> None:
            assert load(next(fresh), {"bars": tables}, batch_id="bars").rows == {"bars": rows}

        taken = measure({OURS: ours, AGAINST: lambda: write_plain(path, tables)}, rounds=rounds)
        held = lakes[-1].query(
            f"SELECT {', '.join(BARS.schema.names)} FROM bars ORDER BY {', '.join(BARS.key)}"
        )
        written = pq.read_table(path)
        assert held.num_rows == rows
        assert held.cast(BARS.schema).equals(written.cast(BARS.schema))
        sizes = {OURS: loaded_bytes(lakes[-1]), AGAINST: path.stat().st_size}
        for lake in lakes:
            lake.close()
    return taken, sizes


@bench
def read() -> Iterator[Figure]:
    """Yield the cost of one instrument's month of five columns, from disk into a tensor."""
    taken = alternate_reads(list(made_bars(ROWS)), READS)
    yield from figures(
        "a symbol-month into a tensor", taken, ours=OURS, value=1e3 * taken[OURS], unit="ms of processor"
    )


def alternate_reads(tables: Sequence[pa.Table], rounds: int) -> dict[str, float]:
    """Return the median seconds of reading an instrument from the lake and from a plain file; both must be equal."""
    with tempfile.TemporaryDirectory() as folder:
        path, name = Path(folder, "plain.parquet"), instrument(len(tables) // 2)
        write_plain(path, tables)
        with open_lake(Path(folder, "home")) as lake:
            load(lake, {"bars": tables}, batch_id="bars")
            contenders: dict[str, Callable[[], torch.Tensor]] = {
                OURS: lambda: read_lake(lake, name),
                AGAINST: lambda: read_plain(path, name),
            }
            ours, plain = (run() for run in contenders.values())
            assert ours.shape == (tables[0].num_rows, len(READ))
            assert torch.equal(ours.nan_to_num(-1.0), plain.nan_to_num(-1.0))
            return measure(contenders, rounds=rounds)


def read_lake(lake: Lake, name: str) -> torch.Tensor:
    """Return (minutes, columns) an instrument's month from the lake."""
    return tensor_of(
        lake.query(
            f"SELECT {', '.join(READ)} FROM bars WHERE instrument = ? AND width = '1m'"
            " AND ts_open BETWEEN ? AND ? ORDER BY ts_open",
            [name, *_month()],
        )
    )


def read_plain(path: Path, name: str) -> torch.Tensor:
    """Return the same from a plain file, with what pyarrow can leave out by its statistics."""
    first, last = _month()
    within = (pc.field("instrument") == name) & (pc.field("width") == "1m")
    within &= (pc.field("ts_open") >= first) & (pc.field("ts_open") <= last)
    return tensor_of(pq.read_table(path, columns=list(READ), filters=within))


def tensor_of(rows: pa.Table) -> torch.Tensor:
    """Return (rows, columns) float32, nulls as NaN."""
    return torch.from_numpy(np.column_stack([rows[name].to_numpy() for name in READ]).astype(np.float32))


def _month() -> tuple[datetime, datetime]:
    first = datetime.fromtimestamp(FIRST_MIN * 60, UTC)
    return first, first + timedelta(minutes=MONTH - 1)


@bench
def memory() -> Iterator[Figure]:
    """Yield the most memory that a load took, in a process of its own; with DRILL=1, of 50 million rows."""
    command = [sys.executable, "-m", "tests.benchmarks.load_process", str(MEMORY_ROWS)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["rows"] == MEMORY_ROWS
    yield Figure(
        f"resident in a load of {MEMORY_ROWS:,} bars",
        found["resident_mb"],
        "MB",
        f"{LIMIT_MB:,} MB",
        round(LIMIT_MB / found["resident_mb"], 2),
    )
