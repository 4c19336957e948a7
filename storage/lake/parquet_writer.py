"""Writer of Parquet files with tuned encodings, on the disk or in S3.

Measured on bars (docs/benchmarks.md): times are smallest with delta encoding, prices with a dictionary (they repeat on
their grid of ticks), and values that hardly repeat, such as notionals, with plain encoding, which is also twice as
fast. Row groups are small, so that few rows are decoded to read one instrument's month.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic_write import sync
from storage.contracts.contract import TEXT, Contract, Stamp
from storage.errors import LakeError
from storage.object_store import ObjectStore, split_address
from storage.settings.services import LakeSettings

ROW_GROUP_ROWS: Final = 1 << 16
# With a larger share of distinct values in a row group, a dictionary is as large as the values themselves.
_MAX_DISTINCT_SHARE: Final = 0.4
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())


class TableFolder:
    """The folder of a table's Parquet files, on the disk or in S3."""

    def __init__(self, settings: LakeSettings, where: str) -> None:
        """Name a folder, which need not exist yet.

        Args:
            settings: endpoint and region of S3; an open lake has found its keys in the environment.
            where: a path, or `s3://...`.
        """
        self.where = where.rstrip("/")
        address = split_address(self.where)
        self._objects = None if address is None else _object_store(settings, address)
        self._changed: list[Path] = []

    def create(self, name: str) -> pa.NativeFile:
        """Open a new file for writing."""
        if self._objects is not None:
            sink: Any = self._objects.writer(name)  # Arrow needs no more of an IOBase than it has
            return pa.PythonFile(sink, mode="w")
        folder = Path(self.where).absolute()
        new = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
        folder.mkdir(parents=True, exist_ok=True)
        self._changed = [folder, *(path.parent for path in new)]
        return pa.OSFile(str(folder / name), "wb")

    def read(self, name: str) -> pa.NativeFile:
        """Open a file for reading."""
        if self._objects is not None:
            source: Any = self._objects.reader(name)
            return pa.PythonFile(source, mode="r")
        return pa.OSFile(str(Path(self.where, name)), "rb")

    def sync(self, name: str) -> None:
        """Wait until the disk has a closed file and the new folder entries; S3 has an object once it is closed."""
        if self._objects is None:
            for path in (Path(self.where, name), *self._changed):
                sync(path)

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self._objects is not None:
            self._objects.remove(name)
        else:
            Path(self.where, name).unlink()


def _object_store(settings: LakeSettings, address: tuple[str, str]) -> ObjectStore:
    endpoint = settings.s3_endpoint.rstrip("/")
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"  # as DuckDB takes it
    return ObjectStore(*address, endpoint=endpoint, region=settings.s3_region)


class TunedFile:
    """A Parquet file that is being written, with the lake's stamps in each row."""

    def __init__(
        self, folder: TableFolder, name: str, contract: Contract, stamp: Stamp, rows: pa.Table
    ) -> None:
        """Open a file.

        Args:
            folder: in which it is created.
            name: its name.
            contract: of the table.
            stamp: of every row.
            rows: a sample, by which the encodings are chosen.

        Raises:
            LakeError: the file cannot be written; also raised by the other methods.
        """
        self._folder, self.name, self._stamp = folder, name, stamp.of(contract)
        schema = contract.stored_schema
        self._names = contract.schema.names
        # All rows have the same batch: a dictionary from the start saves a look-up per row.
        stamps = [field.with_type(_DICTIONARY) if field.type == TEXT else field for field in contract.stamps]
        self._schema = pa.schema([*contract.schema, *stamps])
        with self._write_errors():
            self._stream = folder.create(name)
        delta_columns = [item.name for item in schema if _suits_delta(contract, item)]
        dictionary_columns: Any = [
            item.name for item in schema if item.name not in delta_columns and _suits_dictionary(item, rows)
        ]
        self._writer = pq.ParquetWriter(
            self._stream,
            self._schema,
            compression="zstd",
            use_dictionary=dictionary_columns,
            column_encoding=dict.fromkeys(delta_columns, "DELTA_BINARY_PACKED"),
            store_schema=False,  # Arrow readers then get a text column, not a dictionary
        )

    @property
    def path(self) -> str:
        """Its path or S3 address."""
        return f"{self._folder.where}/{self.name}"

    @property
    def size_bytes(self) -> int:
        """Number of bytes written so far."""
        return int(self._stream.tell())

    def write(self, rows: pa.Table) -> None:
        """Append rows that have the contract's columns in order."""
        count = rows.num_rows
        zeros = pa.repeat(pa.scalar(0, pa.int32()), count)
        stamps: list[pa.Array[Any]] = [
            pa.DictionaryArray.from_arrays(zeros, pa.array([value]))
            if isinstance(value, str)
            else pa.repeat(pa.scalar(value, pa.int64()), count)
            for value in self._stamp
        ]
        columns = [*rows.columns, *(pa.chunked_array([item]) for item in stamps)]
        stamped = pa.Table.from_arrays(columns, schema=self._schema)
        with self._write_errors():
            self._writer.write_table(stamped, row_group_size=ROW_GROUP_ROWS)

    def close(self) -> None:
        """Close the file and wait until the disk has it."""
        with self._write_errors():
            self._writer.close()
            self._stream.close()
            self._folder.sync(self.name)

    def read(self, most: int) -> Iterator[pa.Table]:
        """Yield the rows of the closed file without their stamps, at most `most` at a time."""
        with self._folder.read(self.name) as stream:
            file = pq.ParquetFile(stream)
            for batch in file.iter_batches(batch_size=most, columns=self._names):
                yield pa.Table.from_batches([batch])

    def remove(self) -> None:
        """Remove the file, closed or not; if that fails, it remains as an orphan."""
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self._folder.remove(self.name)

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"{self.path} cannot be written: {error}",
                hint="nothing was loaded; check free space and permissions there",
            ) from error


def _suits_delta(contract: Contract, field: pa.Field[Any]) -> bool:
    """Return whether a column suits delta encoding: times, and integers of the key such as a trade's id."""
    is_number = pa.types.is_integer(field.type) and field.name in contract.key
    return pa.types.is_timestamp(field.type) or field.name.endswith("_ns") or is_number


def _suits_dictionary(field: pa.Field[Any], rows: pa.Table) -> bool:
    """Return whether a column's values repeat often enough for a dictionary; texts do."""
    if not pa.types.is_floating(field.type):
        return True
    sample = rows[field.name][:ROW_GROUP_ROWS]
    distinct: Any = pc.count_distinct(sample)
    return bool(distinct.as_py() <= _MAX_DISTINCT_SHARE * len(sample))
