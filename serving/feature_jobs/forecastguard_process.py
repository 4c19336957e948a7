"""Process that runs forecastguard on features which another process computes.

It runs by path, in an environment with forecastguard and without tickwalk (serving/feature_jobs/outside_audit.py). Both
sides speak in lines over standard input and output, and pass frames as files of arrays:

    stdin   {"frame": path, "spec": {...}}      once
    stdout  call PATH                           compute the features of this frame
    stdin   PATH                                of the result
    stdout  report JSON                         at the end
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def main() -> None:
    """Answer one request."""
    from forecastguard import ForecastSpec, run_checks  # type: ignore[import-not-found]  # of another environment

    request = json.loads(sys.stdin.readline())
    folder = Path(request["frame"]).parent
    numbers = itertools.count()

    def features_of(frame: pd.DataFrame) -> pd.DataFrame:
        path = folder / f"call-{next(numbers)}.npz"
        write_frame(path, frame)
        sys.stdout.write(f"call {path}\n")
        sys.stdout.flush()
        return read_frame(Path(sys.stdin.readline().strip()))

    frame = read_frame(Path(request["frame"]))
    report = run_checks(ForecastSpec(**request["spec"]), frame=frame, feature_fn=features_of)
    found = report.model_dump(mode="json") | {"exit_code": report.exit_code(strict=True)}
    sys.stdout.write(f"report {json.dumps(found)}\n")
    sys.stdout.flush()


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as arrays: text with "" for null, times in microseconds, and float64."""
    arrays: dict[str, Any] = {}
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_datetime64_any_dtype(column):
            arrays[name] = column.to_numpy(dtype="datetime64[us]")
        elif pd.api.types.is_numeric_dtype(column):
            arrays[name] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            arrays[name] = np.array(column.where(column.notna(), "").tolist(), dtype=np.str_)
    np.savez(path, **arrays)


def read_frame(path: Path) -> pd.DataFrame:
    """Read a frame; "" is null, except where every text is."""
    with np.load(path, allow_pickle=False) as arrays:
        frame = pd.DataFrame({name: arrays[name] for name in arrays.files})
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_datetime64_any_dtype(
            frame[name]
        ):
            text = frame[name].astype(object)
            frame[name] = text.where(text != "", None)
    return frame


if __name__ == "__main__":
    main()
