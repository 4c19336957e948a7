"""Memory soak: `python -m tests.drills.soak MINUTES` with 200 instruments and 5,000 frames per second.

The recorder is the real command in a process of its own, the venue is `crowd` in another. Every ten seconds a line:
minute, resident MB of the recorder, frames a second, batches that wait. The last line is JSON for docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from ingest.recorder.heartbeat import read_heartbeats
from storage.settings import load_settings

INSTRUMENTS: Final = 200
# Trades come by two sockets (`record.twins`), so that about 5,000 frames a second are received.
FRAMES_PER_S: Final = 4_065
_EVERY_S: Final = 10.0


def soak(
    minutes: float, *, instruments: int = INSTRUMENTS, frames_per_s: float = FRAMES_PER_S
) -> dict[str, Any]:
    """Record for so long and return what was seen."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "tests.drills.crowd", str(instruments), str(frames_per_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as venue:
            try:
                assert venue.stdout is not None
                port = int(venue.stdout.readline())
                return _record(Path(home), port, minutes, frames_per_s)
            finally:
                venue.terminate()


def _record(home: Path, port: int, minutes: float, frames_per_s: float) -> dict[str, Any]:
    values = {
        "record.coins": "*", "record.channels": "trades,bbo", "record.ws_url": f"ws://127.0.0.1:{port}/ws",
        "record.info_url": f"http://127.0.0.1:{port}/info", "record.ntp_server": "", "metrics.port": "0",
        "record.messages_per_s": "1000",
    }  # fmt: skip
    flags = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "serving.cli",
        "--home",
        str(home),
        *flags,
        "record",
        "--for",
        str(minutes * 60),
    ]
    settings = load_settings(overrides={"home": home}, environ={})
    seen: list[dict[str, float]] = []
    began = time.monotonic()
    with subprocess.Popen(command, env={**os.environ, "TICKWALK_LOG": "json"}) as recorder:
        while recorder.poll() is None:
            time.sleep(_EVERY_S)
            for beat in read_heartbeats(settings):
                vitals = beat.vitals
                seen.append(
                    {
                        "minute": round((time.monotonic() - began) / 60, 2),
                        "resident_mb": round(vitals.resident_bytes / 1e6, 1),
                        "frames_per_s": round(vitals.frames_per_s),
                        "unsent": vitals.unsent_batches,
                    }
                )
                print(json.dumps(seen[-1]), flush=True)
    late = [row["resident_mb"] for row in seen[len(seen) // 4 :]]
    return {
        "minutes": minutes,
        "frames_per_s": frames_per_s,
        "first_quarter_mb": seen[len(seen) // 4]["resident_mb"],
        "largest_mb": max(row["resident_mb"] for row in seen),
        "growth_mb": round(late[-1] - late[0], 1),
        "status": recorder.returncode,
    }


if __name__ == "__main__":
    print(json.dumps(soak(float(sys.argv[1]))))
