"""Stamps of the bars that a history command writes; `storage.lake.history_stamps` states the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from ingest.pipeline.journal_registration import register_recordings
from storage.lake.history_stamps import HistoryStamps, decide
from storage.lake.lake import Lake
from storage.settings import Settings

Decided = Callable[[str, pa.Table], HistoryStamps | None]
"""Returns the decision that was made about the bars of a batch, or None."""


class HistoryStamper:
    """Stamps the bars of each batch of one command, and stores the decision in the batch's inputs."""

    def __init__(
        self, lake: Lake, settings: Settings, *, not_before_ns: int = 0, decided: Decided = lambda *_: None
    ) -> None:
        """Prepare a stamper.

        Args:
            lake: knows the recordings.
            settings: the home; its journal may have recordings that the lake does not know.
            not_before_ns: arrival of data that was received earlier, as a recovery brings it to the tables only now.
            decided: for a rebuild, which repeats decisions.
        """
        self._lake, self._settings = lake, settings
        self._not_before_ns, self._decided = not_before_ns, decided
        self._is_registered = False

    def stamp(
        self,
        batch_id: str,
        tables: Mapping[str, pa.Table],
        inputs: Mapping[str, object],
        arrived_ns: int | None = None,
    ) -> tuple[Mapping[str, pa.Table], Mapping[str, object]]:
        """Return the tables of a batch with stamped bars, and its inputs with the decision.

        Args:
            batch_id: of the batch.
            tables: whose bars are knowable a lag after their close.
            inputs: lineage of the batch.
            arrived_ns: when the data was received (default: now).
        """
        bars = tables.get("bars")
        if bars is None or not bars.num_rows:
            return tables, inputs
        now_ns = self._lake.stamp(batch_id).ingested_ns
        arrived_ns = now_ns if arrived_ns is None else max(arrived_ns, self._not_before_ns)
        stamps = self._decided(batch_id, bars) or self._decide(bars, arrived_ns)
        return {**tables, "bars": stamps.apply(bars)}, {**inputs, **stamps.to_inputs()}

    def _decide(self, bars: pa.Table, arrived_ns: int) -> HistoryStamps:
        if not self._is_registered:
            register_recordings(self._settings, self._lake)
            self._is_registered = True
        return decide(self._lake.query, bars, arrived_ns)
