"""Open times of candles in a file's column, whatever its type and unit.

Numbers are times since 1970 in seconds, milliseconds, microseconds or nanoseconds: between 2010 and 2100 the ranges of
the four do not meet. Texts are such numbers or ISO 8601. Times without a zone are UTC, or local times of a zone that
the caller names; a local time that occurs twice, when clocks are set back, is decided by the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.clock import MS_NS, NS, US_NS, iso
from storage.errors import CaptureError, SettingsError
from storage.lake.connection import connect_in_memory

_UNITS: Final[Mapping[str, int]] = {
    "seconds": NS,
    "milliseconds": MS_NS,
    "microseconds": US_NS,
    "nanoseconds": 1,
}
_FIRST_NS: Final = 1_262_304_000_000_000_000  # 2010
_LAST_NS: Final = 4_102_444_800_000_000_000  # 2100
_NUMBER: Final = r"^\s*[+-]?[0-9]+(\.[0-9]*)?\s*$"
_ZONED: Final = r"(?i)[0-9]:[0-9]{2}.*(z|utc|gmt|[+-][0-9]{2}(:?[0-9]{2})?)\s*$"
# Clocks are set back by an hour, and by half an hour on Lord Howe Island.
_SET_BACK_NS: Final = (3_600 * NS, 1_800 * NS)

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OpenTimes:
    """Times in nanoseconds since 1970, UTC.

    Args:
        t_ns: (n,) one a row.
        is_local: the column had no zone, and nobody named one, so it was read as UTC.
        set_back: where local times seem to have been set back, in words; empty: nowhere.
    """

    t_ns: Ints
    is_local: bool
    set_back: str = ""


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """The column of a file that holds the times.

    Args:
        file, name: of the file and the column, for messages.
        values: one a row.
        symbols: the coin of each row.
        rows: what the rows are, for messages.
    """

    file: str
    name: str
    values: pa.ChunkedArray[Any]
    symbols: pa.ChunkedArray[Any]
    rows: str = "candles"

    def read(self, timezone: str | None = None) -> OpenTimes:
        """Return the times.

        Args:
            timezone: name of the zone of times that have none, such as `America/New_York` (default: UTC).

        Raises:
            CaptureError: the column has no times, some in two units, or local times that cannot be told apart.
            SettingsError: the zone does not exist, or the times have one.
        """
        zone = None if timezone is None else zone_of(timezone)
        if self.values.null_count:
            raise self._error(f"has {self.values.null_count} {self.rows} without a time", "mend the file")
        kind = self.values.type
        values = self.values
        if pa.types.is_dictionary(kind):
            values, kind = values.cast(kind.value_type), kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            t_ns, has_zone = self._from_texts(values.cast(pa.string()))
        elif pa.types.is_timestamp(kind):
            t_ns, has_zone = _ns_of(values), kind.tz is not None
        elif pa.types.is_date(kind):
            t_ns, has_zone = _ns_of(values.cast(pa.timestamp("ms"))), False
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            t_ns, has_zone = self._from_numbers(values), True
        else:
            raise self._error(
                f"holds {kind}, not times",
                "use timestamps, ISO 8601, or numbers since 1970 in s, ms, us or ns",
            )
        if has_zone and zone is not None:
            raise SettingsError(
                f"--timezone is {timezone}, but column {self.name} of {self.file} is in UTC or has a zone",
                hint="leave --timezone away",
            )
        if not has_zone and zone is not None and zone.key != "UTC":
            t_ns = self._to_utc(t_ns, zone)
        self._refuse_outside(t_ns)
        is_local = not has_zone and zone is None
        return OpenTimes(t_ns, is_local, self._set_back(t_ns) if is_local else "")

    def _from_numbers(self, values: pa.ChunkedArray[Any]) -> Ints:
        """Return numbers of one unit as nanoseconds."""
        if pa.types.is_integer(values.type):
            numbers: Any = values.cast(pa.int64()).to_numpy()
        else:
            numbers = values.cast(pa.float64()).to_numpy()
            if not np.isfinite(numbers).all():
                raise self._error(
                    f"has {int((~np.isfinite(numbers)).sum())} {self.rows} without a time", "mend the file"
                )
        found = np.full(numbers.size, -1)
        for number, size_ns in enumerate(_UNITS.values()):
            found[(numbers >= _FIRST_NS // size_ns) & (numbers <= _LAST_NS // size_ns)] = number
        if (found < 0).any():
            at = int(np.argmax(found < 0))
            raise self._error(
                f"has {int((found < 0).sum())} {self.rows} outside of 2010 to 2100, the first in row {at + 1}: "
                f"{numbers[at]} is no time in s, ms, us or ns since 1970",
                "mend the file",
            )
        units = list(dict.fromkeys(found.tolist()))
        names = list(_UNITS)
        if len(units) > 1:
            at = int(np.argmax(found == units[1]))
            raise self._error(
                f"is in {names[units[0]]} first and in {names[units[1]]} from row {at + 1} on ({numbers[at]})",
                "write all times in one unit, or import the parts as two files",
            )
        size_ns = _UNITS[names[units[0]]]
        if numbers.dtype == np.int64:
            return np.asarray(numbers * size_ns, np.int64)
        whole = np.floor(numbers)
        rest = np.round((numbers - whole) * size_ns).astype(np.int64)
        return np.asarray(whole.astype(np.int64) * size_ns + rest, np.int64)

    def _from_texts(self, texts: pa.ChunkedArray[Any]) -> tuple[Ints, bool]:
        """Return the times, and whether the texts have a zone."""
        is_number: Any = pc.match_substring_regex(texts, _NUMBER)
        numbers = int(is_number.to_numpy().sum())
        if numbers == len(texts):
            trimmed = pc.utf8_trim_whitespace(texts)
            whole = not pc.any(pc.match_substring(trimmed, ".")).as_py()
            return self._from_numbers(trimmed.cast(pa.int64() if whole else pa.float64())), True
        has_zone: Any = pc.match_substring_regex(texts, _ZONED)
        zoned = int(has_zone.to_numpy().sum())
        if numbers or zoned not in (0, len(texts)):
            raise self._error(
                "has times of several kinds: numbers, texts with a zone, or without", "write all alike"
            )
        with connect_in_memory() as run:
            rows = pa.chunked_array([pa.array(range(len(texts)), pa.int64())])
            run.register("texts", pa.Table.from_arrays([texts, rows], names=["text", "row"]))
            found = run.execute(
                "SELECT epoch_us(TRY_CAST(text AS TIMESTAMPTZ)) AS us FROM texts ORDER BY row"
            ).to_arrow_table()["us"]
        if found.null_count:
            at = int(np.argmax(found.is_null().to_numpy()))
            raise self._error(
                f"has {found.null_count} texts that are no time, the first in row {at + 1}: {texts[at].as_py()!r}",
                "write ISO 8601, such as 2026-01-31T05:00:00Z",
            )
        return found.to_numpy() * US_NS, bool(zoned)

    def _to_utc(self, local_ns: Ints, zone: ZoneInfo) -> Ints:
        """Return local times as UTC; those that occur twice by the order of each coin's rows."""
        import pandas as pd

        result = np.empty_like(local_ns)
        for symbol, rows in _rows_of(self.symbols):
            local = pd.DatetimeIndex(local_ns[rows])
            try:
                utc = local.tz_localize(zone, ambiguous="infer", nonexistent="raise")
            except ValueError as error:  # of the several kinds of it, all name the time
                raise self._error(
                    f"has local times of {symbol} that do not exist in {zone.key} or occur twice, and the order of the "
                    f"rows does not tell which they are: {str(error).splitlines()[0]}",
                    "write the times in UTC, or leave out the hour in which clocks are set",
                ) from error
            result[rows] = utc.as_unit("ns").asi8
        return result

    def _set_back(self, t_ns: Ints) -> str:
        """Return where times go back as local ones do, in words."""
        for symbol, rows in _rows_of(self.symbols):
            steps = np.diff(t_ns[rows])
            forward = steps[steps > 0]
            for back_ns in _SET_BACK_NS if forward.size else ():
                at = np.flatnonzero(steps == forward.min() - back_ns)
                if at.size and (steps < 0).sum() == at.size:
                    before, after = iso(int(t_ns[rows[at[0]]])), iso(int(t_ns[rows[at[0] + 1]]))
                    return f"column {self.name} goes back from {before} to {after} in the rows of {symbol}"
        return ""

    def _refuse_outside(self, t_ns: Ints) -> None:
        outside = (t_ns < _FIRST_NS) | (t_ns > _LAST_NS)
        if outside.any():
            at = int(np.argmax(outside))
            raise self._error(
                f"has {int(outside.sum())} {self.rows} outside of 2010 to 2100, the first in row {at + 1}: "
                f"{iso(int(t_ns[at]))}",
                "mend the file",
            )

    def _error(self, what: str, hint: str) -> CaptureError:
        return CaptureError(f"{self.file}: column {self.name} {what}", hint=hint)


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its name.

    Raises:
        SettingsError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise SettingsError(
            f"--timezone is {name!r}, which is no time zone",
            hint="use a name such as America/New_York or UTC",
        ) from error


def _ns_of(values: pa.ChunkedArray[Any]) -> Ints:
    """Return timestamps as nanoseconds since 1970, saturated where they do not fit."""
    unit = values.type.unit
    size_ns = {"s": NS, "ms": MS_NS, "us": US_NS, "ns": 1}[unit]
    numbers = np.asarray(values.cast(pa.timestamp(unit)).cast(pa.int64()).to_numpy(), np.int64)
    most = np.iinfo(np.int64).max // size_ns
    result: Ints = np.clip(numbers, -most, most) * size_ns
    return result


def _rows_of(symbols: pa.ChunkedArray[Any]) -> list[tuple[str, Ints]]:
    """Return the rows of each coin, in the order of the file."""
    encoded: Any = symbols.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    names = encoded.dictionary.to_pylist()
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    return list(zip(names, np.split(np.argsort(codes, kind="stable"), ends[:-1]), strict=True))
