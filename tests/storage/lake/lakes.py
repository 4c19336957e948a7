"""Lakes with rows for tests, copied from a template."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from storage.lake.connection import connect
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.storage.rows import batch

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
    INSERT INTO pins VALUES ('night', 3, 'hash', 5, 5, 'p');
    INSERT INTO batches VALUES ('p', '{"pins": 1}', '{}', 'old', 5, 5, 'p');
    INSERT INTO funding VALUES ('x', make_timestamptz(0), 0.1, NULL, 1, 5, 5, 'f');
"""


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
    run.close()
