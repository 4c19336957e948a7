"""Import of four months of recorded minutes, with quiet and halted bars."""

from __future__ import annotations

import time

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ingest.backfill.candle_files import import_candles
from storage.clock import iso
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded


@pytest.mark.drill
@pytest.mark.timeout(1_800)
def test_a_million_minutes_with_absent_ones_quiet(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded("bitfinex/candles_1m_20180101_20180430.parquet")
    table = (
        pq.read_table(path, columns=["coin", "t"]).group_by("coin").aggregate([("t", "min"), ("t", "max")])
    )
    spans = pc.divide(pc.subtract(table["t_max"], table["t_min"]).cast("int64"), 60_000_000)
    began_s = time.monotonic()
    with Lake.open(settings) as lake:
        done = import_candles(path, settings, lake, width="1m", venue="bitfinex", kind="spot", absent="quiet")
        took_s = time.monotonic() - began_s
        by_status = lake.query(
            "SELECT status, cause, count(*) AS n FROM bars GROUP BY ALL ORDER BY n"
        ).to_pylist()
        halts = lake.query(
            "SELECT epoch_ns(ts_open) AS t, count(*) AS n FROM bars WHERE status = 'halted' GROUP BY t ORDER BY t"
        ).to_pylist()
        again = import_candles(
            path, settings, lake, width="1m", venue="bitfinex", kind="spot", absent="quiet"
        )
    assert done.written == {"candles": 1_160_618, "bars": pc.sum(spans).as_py() + table.num_rows}
    assert again.written == {}
    assert (done.halted, done.unknown) == (1_938, 38)
    assert done.quiet + done.halted + done.unknown == done.bars - 1_160_618
    with capsys.disabled():
        print(f"\n1,160,618 candles, {done.bars:,} bars in {took_s:.0f} s: {by_status}")
        print(f"halted minutes {len(halts)}, the first {[iso(row['t']) for row in halts[:5]]}")
