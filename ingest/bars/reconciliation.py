"""Reconciliation of bars with the venue's candles, figure by figure.

The recorder (`ingest/pipeline/gap_repair.py`) and the history (`ingest/backfill/certify.py`) use the same function. It
is pure: columns go in, a table of differences comes out.

Tolerances:
- Prices are equal within 1e-7 of themselves. The venue's prices have five significant figures or are integers, so two
  that differ do so by 1e-6 at least, while a price stored as float32 is off by 6e-8 and as float64 by 1e-16.
- Volumes are equal within 1e-9: both are sums of the same sizes, and a float64 sum of a million of them is off by
  1e-10. A print of one unit in a billion would pass unnoticed, but it changes the number of trades.
- Numbers of trades must be equal. Whether the venue's `n` counts prints as its feed sends them is not proven:
  `bars.candle_trades = "ignore"` leaves it out where it does not.

What no candle can show: who the aggressor was, two swapped prints that are neither first, last nor extreme, and a print
that went into the wrong bar together with its candle. See docs/certified.md for where those are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.coverage.silence import CANDLE_COUNTS
from storage.settings import Settings

Floats = NDArray[np.float64]

FIGURES: Final = ("open", "high", "low", "close", "volume", "trades")
PRICES: Final = FIGURES[:4]
INTERVALS: Final = frozenset({"1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d"})
"""Widths for which the venue has candles."""
CONTRADICTED: Final = {"status": "blind", "cause": CANDLE_COUNTS}
"""Columns of a bar without a print whose candle proves that prints are missing."""
ABSENT: Final = "candle"
"""Name of the difference where we have prints and the venue has no candle."""
SOON, LATER, IMPORT = "T+2m", "T+1h", "import"
"""When a difference was found: before the bar was an hour old, after that, or by `tickwalk certify`."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Tolerances of the comparison; see the module.

    Args:
        price, volume: as shares of the greater of the two.
        counts: compare the number of trades.
    """

    price: float = 1e-7
    volume: float = 1e-9
    counts: bool = True

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the tolerance in force."""
        return cls(counts=settings.bars.candle_trades == "exact")


@dataclass(frozen=True, slots=True)
class CandleFigures:
    """Figures of bars or candles.

    Args:
        values: (6, m) float64 in the order of `FIGURES`; NaN where a figure is missing.
    """

    values: Floats

    def __len__(self) -> int:
        return int(self.values.shape[1])

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any] | None]) -> Self:
        """Return the figures of rows; None for one that is absent."""
        columns = [
            [np.nan if row is None or row[name] is None else row[name] for row in rows] for name in FIGURES
        ]
        return cls(np.array(columns, np.float64).reshape(len(FIGURES), len(rows)))

    @classmethod
    def of_table(cls, table: pa.Table, prefix: str = "") -> Self:
        """Return the figures of a table's columns, whose names may begin with a prefix."""
        columns = [table[prefix + name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in FIGURES]
        return cls(np.stack(columns).astype(np.float64))

    def of(self, name: str) -> Floats:
        """Return one figure of all bars."""
        column: Floats = self.values[FIGURES.index(name)]
        return column

    @property
    def is_absent(self) -> NDArray[np.bool_]:
        """(m,) where every figure is missing."""
        found: NDArray[np.bool_] = np.asarray(np.isnan(self.values).all(axis=0), np.bool_)
        return found

    @property
    def is_flat(self) -> NDArray[np.bool_]:
        """(m,) where nothing was traded: such a candle repeats the last price before it."""
        found: NDArray[np.bool_] = (self.of("volume") == 0) & ~(self.of("trades") > 0)
        return found


def differences(
    ours: CandleFigures, theirs: CandleFigures, tolerance: Tolerance | None = None
) -> NDArray[np.bool_]:
    """Return a (6, m) mask of the figures that differ from the venue's candles.

    An absent candle does not differ (an omitted minute may come later; the caller decides), and neither does a figure
    that one side lacks. The prices of a flat candle are not compared.

    >>> bar = {"open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0, "volume": 3.0, "trades": 2}
    >>> candle = bar | {"trades": 3, "close": 1.5}
    >>> found = differences(CandleFigures.of_rows([bar]), CandleFigures.of_rows([candle]))
    >>> [name for name, differs in zip(FIGURES, found[:, 0]) if differs]
    ['close', 'trades']
    """
    tolerance = tolerance or Tolerance()
    mine, other = ours.values, theirs.values
    share = np.full((len(FIGURES), 1), tolerance.price)
    share[FIGURES.index("volume")], share[FIGURES.index("trades")] = tolerance.volume, 0.0
    with np.errstate(invalid="ignore"):  # a NaN compares as equal
        far = np.abs(mine - other) > share * np.maximum(np.abs(mine), np.abs(other))
    differs: NDArray[np.bool_] = np.asarray(far, np.bool_)
    differs[: len(PRICES), theirs.is_flat] = False
    if not tolerance.counts:
        differs[FIGURES.index("trades")] = False
    return differs


def contradicted(ours: CandleFigures, theirs: CandleFigures) -> NDArray[np.bool_]:
    """Return a mask (m,) of the bars without a print whose candles prove that prints are missing."""
    is_printed = (theirs.of("trades") > 0) | (theirs.of("volume") > 0)
    found: NDArray[np.bool_] = np.asarray((ours.of("trades") == 0) & is_printed, np.bool_)
    return found


def rows_of(
    bars: Sequence[Mapping[str, Any]],
    theirs: CandleFigures,
    differs: NDArray[np.bool_],
    *,
    checked: str,
    now_ns: int,
) -> list[dict[str, Any]]:
    """Return rows of the table `discrepancies`: one for each figure that differs, or for a candle that is absent.

    Args:
        bars: rows of `bars` that do not agree.
        theirs: their candles, where there are any.
        differs: (6, m), see `differences`.
        checked: when it was found, relative to the bar's close.
        now_ns: when it was found.
    """
    rows = []
    absent = theirs.is_absent
    for at, bar in enumerate(bars):
        about = {name: bar[name] for name in ("instrument", "width", "ts_open", "revision")}
        about |= {"checked": checked, "ts_knowable_ns": now_ns}
        if absent[at]:
            rows.append(about | {"differs": ABSENT, "ours": _float(bar["trades"]), "theirs": None})
        for number, name in enumerate(FIGURES):
            if differs[number, at]:
                other = float(theirs.values[number, at])
                rows.append(about | {"differs": name, "ours": _float(bar[name]), "theirs": other})
    return rows


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
