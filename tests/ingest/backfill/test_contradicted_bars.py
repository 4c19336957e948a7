"""Stored candles that count prints in bars which claim to be quiet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.backfill.candle_files import import_candles
from ingest.backfill.certify import certify
from ingest.coverage.silence import CANDLE_COUNTS
from ingest.replay.replay import replay
from storage.clock import MS_NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.pipeline.scripts import START_NS, Script


def record_with_candles(settings: Settings, lake: Lake, file: Path) -> None:
    """Candles of the minutes 0 to 4: something printed in the second one, by its volume alone."""
    script = Script().open(0).known(0.05).alive(0.1, 245).print(200.5).stop(245)
    volumes = [0.0, 3.0, 0.0, 1.0]
    rows = {"coin": ["BTC"] * 4, "t": [START_NS // MS_NS + 60_000 * n for n in range(4)], "volume": volumes}
    pq.write_table(pa.table(rows | dict.fromkeys(("open", "high", "low", "close"), [100.0] * 4)), file)
    replay(script.write(settings.journal_dir / "one"), settings, lake)
    import_candles(file, settings, lake, width="1m")


def test_a_candle_with_prints_makes_a_quiet_bar_blind(settings: Settings, tmp_path: Path) -> None:
    with Lake.open(settings) as lake:
        record_with_candles(settings, lake, tmp_path / "candles.parquet")
        first, again = certify(lake, settings), certify(lake, settings)
        bars = lake.query(
            "SELECT arg_max(status, revision) AS status, arg_max(cause, revision) AS cause, max(revision) AS revision "
            "FROM bars WHERE width = '1m' AND origin = 'live' GROUP BY ts_open ORDER BY ts_open"
        ).to_pylist()
        found = lake.query("SELECT differs FROM discrepancies").to_pylist()
    assert [bar["status"] for bar in bars] == ["quiet", "blind", "quiet", "printed"]
    assert bars[1]["cause"] == CANDLE_COUNTS
    assert (first.compared, first.certified, again.compared) == (4, 3, 0)
    assert [row["differs"] for row in found] == ["volume"]


def test_a_bar_whose_difference_was_reported_before_becomes_blind_too(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier release reported the difference and left the bar quiet."""
    with Lake.open(settings) as lake:
        record_with_candles(settings, lake, tmp_path / "candles.parquet")
        with monkeypatch.context() as earlier:
            earlier.setattr(
                "ingest.backfill.certify.contradicted", lambda ours, _: np.zeros(len(ours), np.bool_)
            )
            certify(lake, settings)
        assert lake.query("SELECT count(*) AS n FROM discrepancies")["n"].to_pylist() == [1]
        certify(lake, settings)
        blind = lake.query("SELECT cause FROM bars WHERE status = 'blind' AND origin = 'live'").to_pylist()
    assert blind == [{"cause": CANDLE_COUNTS}]
