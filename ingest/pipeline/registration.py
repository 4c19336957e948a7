"""Registration of a recording: rows of `recordings`, which state the instruments that it lists.

A recording lists an instrument from its start to its last frame, connected or not. The rows are made from the records
of the journal, so that a replay writes the same ones: at the start, when an instrument is added, and at the end. A
capture has no header, so it is registered at its end, with the instruments that its frames named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ingest.instruments.registry import InstrumentRegistry
from ingest.pipeline.row_buffer import RowBuffer
from ingest.venues.gaiaex import protocol as gaiaex


def header_instruments(about: Mapping[str, Any], registry: InstrumentRegistry) -> list[str]:
    """Return the ids of the instruments that a recording names in its header."""
    return [registry.instrument_id(coin) for coin in about.get("coins", [])] + [
        registry.instrument_id(symbol, gaiaex.VENUE) for symbol in about.get("symbols", [])
    ]


def recording_row(
    recording: str,
    home: str,
    venue: str,
    instruments: Iterable[str],
    *,
    started_ns: int,
    last_ns: int | None = None,
    now_ns: int,
) -> dict[str, Any]:
    """Return a row of `recordings`.

    Args:
        recording: its name.
        home: id of the home that has it.
        venue: of the recorder.
        instruments: ids.
        started_ns: its first record.
        last_ns: its last record; None while it runs.
        now_ns: when that was known.
    """
    return {
        "recording": recording,
        "home": home,
        "venue": venue,
        "instruments": json.dumps(sorted(set(instruments))),
        "ts_started_ns": started_ns,
        "ts_last_ns": last_ns,
        "ts_knowable_ns": now_ns,
    }


class Registration:
    """The instruments that one recording lists; adds a row of `recordings` for each change."""

    def __init__(self, recording: str, home: str, venue: str, rows: RowBuffer, *, is_capture: bool) -> None:
        """Start before the first record.

        Args:
            recording, home, venue: see `recording_row`.
            rows: receives the rows.
            is_capture: add one row, at the end.
        """
        self._about = (recording, home, venue)
        self._rows = rows
        self._is_capture = is_capture
        self._instruments: set[str] = set()
        self._started_ns: int | None = None
        self._row_ns = -1
        self._is_ended = False

    def start(self, instruments: Iterable[str], now_ns: int) -> None:
        """Note the recording's start, and the instruments in its header."""
        self._started_ns = now_ns
        self._instruments.update(instruments)
        if not self._is_capture:
            self._add_row(now_ns)

    def add(self, instrument: str, now_ns: int) -> None:
        """Note an instrument to which the recording has subscribed."""
        if self._started_ns is None or instrument in self._instruments:
            return
        self._instruments.add(instrument)
        if not self._is_capture:
            self._add_row(now_ns)

    def end(self, now_ns: int) -> None:
        """Note the last record; calling it again does nothing."""
        if self._started_ns is not None and not self._is_ended:
            self._is_ended = True
            self._add_row(now_ns, last_ns=now_ns)

    def _add_row(self, now_ns: int, *, last_ns: int | None = None) -> None:
        assert self._started_ns is not None
        # Two changes may have one receipt, and the newest row counts.
        self._row_ns = max(now_ns, self._row_ns + 1)
        row = recording_row(
            *self._about,
            self._instruments,
            started_ns=self._started_ns,
            last_ns=last_ns,
            now_ns=self._row_ns,
        )
        self._rows.add("recordings", row)
