"""How does a test get a lake with rows in it, without a second's work each time?"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from storage.lake import Lake
from storage.settings import Settings, load_settings
from tests.storage.rows import batch

BATCHES: Final = 3


@cache
def _made() -> Path:
    home = Path(mkdtemp(prefix="tickwalk-lake-"))
    with Lake.open(load_settings(overrides={"home": home}, environ={})) as lake:
        for number in range(BATCHES):
            lake.commit(batch(number), batch_id=f"b{number}")
    return home


def filled(settings: Settings) -> Settings:
    """Copy a lake of `BATCHES` batches (`b0`, `b1`, ...) into a home, which may lie anywhere."""
    shutil.copytree(_made(), settings.home)
    return settings
