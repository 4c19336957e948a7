"""Lakes with rows for tests, copied from a template."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from storage.contracts.tables import BARS
from storage.lake.connection import connect
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.storage.rows import bar, batch

BATCHES: Final = 3


@cache
def _template() -> Path:
    home = Path(mkdtemp(prefix="tickwalk-lake-"))
    with Lake.open(load_settings(overrides={"home": home}, environ={})) as lake:
        for number in range(BATCHES):
            lake.commit(batch(number), batch_id=f"b{number}")
    return home


def filled(settings: Settings) -> Settings:
    """Copy a lake of `BATCHES` batches (`b0`, `b1`, ...) into a home."""
    shutil.copytree(_template(), settings.home)
    return settings


# Some of the first release's tables, as it created them: pins without `event`, and no `migrations`.
OLD: Final = """
    CREATE TABLE pins (pin VARCHAR, snapshot BIGINT, content VARCHAR, ts_knowable_ns BIGINT,
        ts_ingested_ns BIGINT, batch VARCHAR);
    CREATE TABLE batches (batch_id VARCHAR, rows VARCHAR, inputs VARCHAR, code VARCHAR, ts_knowable_ns BIGINT,
        ts_ingested_ns BIGINT, batch VARCHAR);
    CREATE TABLE funding (instrument VARCHAR, ts_event TIMESTAMPTZ, funding_rate DOUBLE, premium DOUBLE,
        interval_h INTEGER, ts_knowable_ns BIGINT, ts_ingested_ns BIGINT, batch VARCHAR);
    CREATE TABLE bars (instrument VARCHAR, width VARCHAR, ts_open TIMESTAMPTZ, ts_close TIMESTAMPTZ, revision INTEGER,
        status VARCHAR, cause VARCHAR, session VARCHAR, origin VARCHAR, observed_ms BIGINT, repaired BOOLEAN,
        certified BOOLEAN, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE, buy_volume DOUBLE,
        notional DOUBLE, vwap DOUBLE, trades BIGINT, trades_applicable BOOLEAN, bid DOUBLE, ask DOUBLE,
        bid_size DOUBLE, ask_size DOUBLE, quote_age_ms BIGINT, funding_rate DOUBLE, open_interest DOUBLE,
        oracle DOUBLE, mark DOUBLE, context_age_ms BIGINT, ts_knowable_ns BIGINT, ts_ingested_ns BIGINT, batch VARCHAR);
    INSERT INTO pins VALUES ('night', 3, 'hash', 5, 5, 'p');
    INSERT INTO batches VALUES ('p', '{"pins": 1, "bars": 5}', '{}', 'old', 5, 5, 'p');
    INSERT INTO funding VALUES ('x', make_timestamptz(0), 0.1, NULL, 1, 5, 5, 'f');
    CREATE VIEW bars_latest AS SELECT * FROM bars
        QUALIFY row_number() OVER (PARTITION BY instrument, width, ts_open ORDER BY revision DESC) = 1;
"""
OLD_BARS: Final = tuple(
    bar(minute, revision=revision, origin=origin, repaired=repaired, status=status)
    for minute, revision, origin, repaired, status in (
        (0, 0, "live", False, "printed"),
        (1, 0, "live", False, "blind"),
        (1, 1, "live", True, "printed"),
        (2, 0, "candle", False, "printed"),
        (3, 0, "archive", False, "printed"),
    )
)
"""Its bars; each has the `ts_available_ns` that this release gives it."""


def make_old(settings: Settings) -> None:
    """Make a lake of the first release in a home."""
    settings.ensure_home()
    catalog = f"sqlite:{settings.lake_dir / 'catalog.sqlite'}"
    run = connect(settings.lake, catalog)
    run.execute(
        f"ATTACH 'ducklake:{catalog}' AS lake (DATA_PATH '{settings.lake_dir / 'data'}', "
        "DATA_INLINING_ROW_LIMIT 0, META_JOURNAL_MODE 'WAL')"
    )
    run.execute("USE lake")
    run.execute(OLD)
    run.register("rows", BARS.rows(list(OLD_BARS)).drop_columns(["ts_available_ns"]))
    run.execute("INSERT INTO bars BY NAME SELECT *, 5 AS ts_ingested_ns, 'p' AS batch FROM rows")
    run.close()
