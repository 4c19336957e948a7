"""A bulk load in a process of its own, so that its memory is measured alone."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from storage.lake.bulk_load import load
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.logs import configure_logs
from storage.settings import load_settings
from tests.benchmarks.harness import peak_mb
from tests.benchmarks.made_bars import made_bars


def main(rows: int) -> None:
    """Load bars into a fresh lake, have it verified, and print rows, seconds and the most that was resident."""
    configure_logs(level="warning")
    with (
        tempfile.TemporaryDirectory() as folder,
        Lake.open(load_settings(overrides={"home": Path(folder, "home")}, environ={})) as lake,
    ):
        began_s = time.monotonic()
        done = load(lake, {"bars": made_bars(rows)}, batch_id="bars")
        seconds = round(time.monotonic() - began_s, 1)
        resident_mb = round(peak_mb())
        paths = list(Path(lake.data).rglob("load-*.parquet"))
        size_bytes = sum(path.stat().st_size for path in paths)
        assert lake.query("SELECT count(*) AS n FROM bars")["n"][0].as_py() == rows
        assert verify(lake, now_ns=time.time_ns()).findings == ()
    said = {"rows": done.rows["bars"], "seconds": seconds, "resident_mb": resident_mb}
    print(json.dumps(said | {"files": len(paths), "size_bytes": size_bytes}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
