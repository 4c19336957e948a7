"""Preparation before a recorder's first request: compiled functions and a short timeout."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from ingest.bars.aggregate import bar_of, fold_groups
from ingest.bars.trade_buffer import TradeBuffer
from ingest.coverage import rhythm
from ingest.pipeline import dedupe
from ingest.recorder.memory import release_starters
from ingest.venues.hyperliquid import scanner
from storage.settings import Settings

_START_S: Final = 10.0


def load_compiled_functions() -> None:
    """Load the compiled functions before frames wait for them; then release the memory of their compiler."""
    scanner.warm_up()
    dedupe.warm_up()
    rhythm.warm_up()
    fold_groups([TradeBuffer()])
    bar_of(np.zeros(1, np.int64), 1)
    release_starters()


def with_short_timeout(settings: Settings) -> Settings:
    """Return settings with which a wrong address fails soon, while the user is still watching."""
    record = settings.record
    record = dataclasses.replace(record, rest_timeout_s=min(record.rest_timeout_s, _START_S))
    return dataclasses.replace(settings, record=record)
