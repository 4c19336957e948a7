"""Read-only access to one home: tables, bars, panels, features, nights and the champion."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from storage.clock import US_NS, floor_ns, iso, width_ns
from storage.errors import LakeError, RangeError
from storage.lake.instrument_names import resolve_instrument
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tickwalk.instants import Instant, SnapshotReference, to_ns, to_snapshot
from tickwalk.result import QueryResult

if TYPE_CHECKING:
    from features.feature import FeatureBlock
    from features.panel.panel import Panel
    from training.night.night_list import NightDetails
    from training.night.registry import VersionEvent

_BARS = """
    SELECT * FROM bars_latest
    WHERE instrument = ? AND width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
    ORDER BY ts_open
"""
_FIRST_BAR = """
    SELECT epoch_us(min(ts_open)) * 1000 AS first_ns FROM bars
    WHERE width = ? AND list_contains(?, instrument)
"""


class HomeReader:
    """A home that is open for reading; use it in a `with` block, or call `close`.

    Safe beside a running recorder: it writes no row and no file but the lake's empty lock files, and no commit waits
    for it. Each call reads what is committed by then. Not for use by two threads at once.
    """

    def __init__(self, settings: Settings, lake: Lake) -> None:
        """Read through a lake that is open; `tickwalk.open` makes one of these."""
        self._settings = settings
        self._lake = lake
        self._is_open = True

    @classmethod
    def open(cls, home: str | Path | None = None, *, config: str | Path | None = None) -> Self:
        """Open a home; see `tickwalk.open`."""
        settings = load_settings(None if config is None else Path(config), {"home": home})
        if not settings.home.is_dir():
            raise LakeError(
                f"there is no home at {settings.home.absolute()}",
                hint="pass the folder that a recorder, an import or a night wrote, or set TICKWALK_HOME",
            )
        return cls(settings, Lake.open(settings, read_only=True))

    def __enter__(self) -> Self:
        """Return the home itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection; results that were read stay usable."""
        if self._is_open:
            self._is_open = False
            self._lake.close()

    def __repr__(self) -> str:
        """Return the folder, and whether it is open."""
        return f"HomeReader({str(self.path)!r}{'' if self._is_open else ', closed'})"

    @property
    def path(self) -> Path:
        """The home's folder."""
        return self._settings.home

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    # Tables.

    def sql(
        self,
        query: str,
        params: Sequence[object] = (),
        *,
        known_at: Instant | None = None,
        at: SnapshotReference | None = None,
    ) -> QueryResult:
        """Return the rows of a query.

        Args:
            query: DuckDB's SQL over the tables and views of docs/tables.md; `SHOW TABLES` lists them.
            params: values for the query's `?`.
            known_at: leave out rows that became knowable after this instant.
            at: read the lake as it was at a snapshot, a pin or an instant.

        Raises:
            LakeError: the query fails, or the snapshot does not exist.
            SettingsError: an instant is none.
        """
        known_at_ns = None if known_at is None else to_ns(known_at, name="known_at")
        return QueryResult(
            self._open_lake.query(query, params, at=self._snapshot(at), known_at_ns=known_at_ns)
        )

    def bars(
        self,
        instrument: str,
        width: str | None = None,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        known_at: Instant | None = None,
        at: SnapshotReference | None = None,
    ) -> QueryResult:
        """Return an instrument's bars, one row each in the order of `ts_open`: the row that counts.

        The columns are those of table `bars`: times in UTC, prices in quote units, sizes in base units, null where
        unknown. A range without bars gives no rows.

        Args:
            instrument: an id such as `hyperliquid|perp|BTC`, or `BTC` where one instrument has that name.
            width: bar width, such as `1m` (default: the first of setting `bars.widths`).
            since, until: bounds of `ts_open`, right-open (default: all).
            known_at: of each bar, choose among the rows that were knowable at this instant.
            at: read the lake as it was at a snapshot, a pin or an instant.

        Raises:
            InstrumentError: no instrument has such bars, or the name stands for several; the message lists them.
            SettingsError: the width or an instant is none.
            RangeError: `until` is not after `since`.
        """
        width = self._width(width)
        snapshot = self._snapshot(at)
        bounds_us = _bounds_us(*_range(since, until))
        name = resolve_instrument(self._open_lake, instrument, width=width, at=snapshot)
        return self.sql(_BARS, (name, width, *bounds_us), known_at=known_at, at=snapshot)

    # Panels and features.

    def panel(
        self,
        width: str | None = None,
        *,
        instruments: Sequence[str] | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        joined: Collection[str] = (),
        at: SnapshotReference | None = None,
    ) -> Panel:
        """Return bars of S instruments on T steps of one clock, as models are trained on them.

        A panel is point-in-time by construction: of each bar it holds the row that counts among those that were
        knowable at the bar's close plus `bars.grace_ms`. A step without such a row has status `unknown` and NaN.

        Args:
            width: bar width (default: the first of setting `bars.widths`).
            instruments: ids or unambiguous names (default: every one with a bar in the range).
            since, until: bounds of `ts_open`, right-open (default: all).
            joined: columns joined as of each close, names of `features.panel.asof_join.JOINED`.
            at: read the lake as it was at a snapshot, a pin or an instant.

        Returns:
            `instruments` (S,), `ts_open_ns` (T,) int64, `values` by column (S, T) float64, `status` (S, T) uint8.

        Raises:
            InstrumentError: an instrument has no bar in the range, or a name stands for several.
            RangeError: no bar lies in the range.
            SettingsError: the width or an instant is none.
        """
        width = self._width(width)
        snapshot = self._snapshot(at)
        since_ns, until_ns = _range(since, until)
        names = self._resolve(instruments, width, snapshot)
        return self._load(width, names, since_ns, until_ns, joined, snapshot)

    def features(
        self,
        feature_set: str,
        width: str | None = None,
        *,
        instruments: Sequence[str] | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        at: SnapshotReference | None = None,
    ) -> FeatureBlock:
        """Compute a feature set in memory; the home's store of features is neither read nor written.

        Bars before `since` are read as far as the features look back, so that a value does not depend on `since`.
        Features across instruments see those of the block only.

        Args:
            feature_set: `candles`, `live`, `recorded`, `wide` or `mids`; `tickwalk features list` describes them.
            width: bar width (default: the first of setting `bars.widths`).
            instruments, since, until, at: as in `panel`.

        Returns:
            A block with `values` (S, T, F) float32, 0.0 where invalid; `mask` (S, T, F) bool, true where valid;
            `names` (F,), `instruments` (S,) and `ts_open_ns` (T,) int64.

        Raises:
            SettingsError: there is no such set or width, or an instant is none.
            InstrumentError, RangeError: as in `panel`.
        """
        from features.build import build_features
        from features.feature import deepest_lookback
        from features.sets import columns_of, get_set

        items = get_set(feature_set)
        width = self._width(width)
        snapshot = self._snapshot(at)
        since_ns, until_ns = _range(since, until)
        names = self._resolve(instruments, width, snapshot)
        first_ns = since_ns
        if since_ns is not None:
            step_ns = width_ns(width)
            since_ns = floor_ns(since_ns + step_ns - 1, step_ns)
            if names is None:  # not those that have bars in the look-back only
                names = self._served_instruments(width, since_ns, until_ns, snapshot)
            asked = (width, names)
            oldest_ns = self._open_lake.query(_FIRST_BAR, asked, at=snapshot)["first_ns"][0].as_py()
            first_ns = max(since_ns - deepest_lookback(items) * step_ns, oldest_ns or since_ns)
        panel = self._load(width, names, first_ns, until_ns, columns_of(items), snapshot)
        block = build_features(panel, feature_set)
        if since_ns is None:
            return block
        cut = max((since_ns - int(panel.ts_open_ns[0])) // panel.width_ns, 0)
        if cut >= panel.n_steps:
            raise RangeError(
                f"no {width} bar opens from {iso(since_ns)} on",
                hint="begin earlier; the newest bars lie before it",
            )
        return replace(
            block,
            values=block.values[:, cut:],
            mask=block.mask[:, cut:],
            ts_open_ns=block.ts_open_ns[cut:],
            lookback_bars=max(block.lookback_bars - cut, 0),
        )

    # Models.

    def nights(self) -> QueryResult:
        """Return one row a retraining night, in the order in which they were judged; unfinished ones come last.

        Columns: `night`, `recipe`, `since`, `until` (UTC), `instruments` (count), `snapshot`, `outcome` (`promoted`,
        `paper`, `refused` or `unfinished`), `version`, `model`, `reason`, `judged` (UTC), and of the challenger on
        test rows: `ic` (information coefficient), `net` (return after costs, share of capital), `sharpe`, `drawdown`
        (largest fall from a peak, share of capital), `deflated_sharpe` (a probability), `fills`, `leaks` (leaked rows;
        a count). Null where not computed.
        """
        from training.night.night_list import list_nights

        return QueryResult(list_nights(self._settings, self._open_lake))

    def night(self, night: str) -> NightDetails:
        """Return one night: its manifest, figures, gate rules and the path of its report.

        Args:
            night: its id, as in `nights`.

        Raises:
            GateError: there is no such night.
        """
        from training.night.night_list import read_night

        return read_night(self._settings, night)

    def champion(self, recipe: str | None = None) -> VersionEvent | None:
        """Return the promotion of the version that serves, or `None`.

        Args:
            recipe: whose champion (default: that of the only recipe that has one).

        Raises:
            GateError: no recipe was named, and several have a champion; the message lists them.
        """
        from training.night.night_list import find_champion

        return find_champion(self._open_lake, recipe)

    # Shared steps.

    @property
    def _open_lake(self) -> Lake:
        if not self._is_open:
            raise LakeError(f"{self.path} was closed", hint="open it again with tickwalk.open()")
        return self._lake

    def _snapshot(self, at: SnapshotReference | None) -> int | None:
        return to_snapshot(self._open_lake, at)

    def _width(self, width: str | None) -> str:
        width = width or self._settings.bars.width
        width_ns(width)  # raises where it is none
        return width

    def _resolve(self, instruments: Sequence[str] | None, width: str, at: int | None) -> list[str] | None:
        if instruments is None:
            return None
        if isinstance(instruments, str):
            instruments = [instruments]
        return [resolve_instrument(self._open_lake, name, width=width, at=at) for name in instruments]

    def _served_instruments(
        self, width: str, since_ns: int | None, until_ns: int | None, at: int | None
    ) -> list[str]:
        from features.panel.panel import no_bars_error, served_instruments
        from storage.contracts.contract import ORIGINS

        names = served_instruments(
            self._open_lake,
            width=width,
            since_ns=since_ns,
            until_ns=until_ns,
            at=at,
            grace_ns=self._settings.bars.grace_ns,
        )
        if not names:
            raise no_bars_error(width, ORIGINS, since_ns, until_ns)
        return names

    def _load(
        self,
        width: str,
        instruments: Sequence[str] | None,
        since_ns: int | None,
        until_ns: int | None,
        joined: Collection[str],
        at: int | None,
    ) -> Panel:
        from features.panel.panel import load_panel

        return load_panel(
            self._open_lake,
            width=width,
            since_ns=since_ns,
            until_ns=until_ns,
            instruments=instruments,
            joined=joined,
            at=at,
            grace_ns=self._settings.bars.grace_ns,
        )


def _range(since: Instant | None, until: Instant | None) -> tuple[int | None, int | None]:
    since_ns = None if since is None else to_ns(since, name="since")
    until_ns = None if until is None else to_ns(until, name="until")
    if since_ns is not None and until_ns is not None and until_ns <= since_ns:
        raise RangeError(
            f"until {iso(until_ns)} is not after since {iso(since_ns)}, so no bar lies between",
            hint="swap them, or leave one out",
        )
    return since_ns, until_ns


def _bounds_us(since_ns: int | None, until_ns: int | None) -> tuple[int, int]:
    """Return bounds of `ts_open` in microseconds; an open one lies beyond every bar."""
    first_us = -(2**62) // US_NS if since_ns is None else -(-since_ns // US_NS)
    return first_us, 2**62 // US_NS if until_ns is None else -(-until_ns // US_NS)
