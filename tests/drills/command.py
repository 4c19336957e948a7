"""The `tickwalk` command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.drills.venue_process import ROOT


def tickwalk(home: Path, values: Mapping[str, object], *arguments: str) -> subprocess.Popen[str]:
    """Start a command on a home with settings over the defaults; what it says is read from `stdout`."""
    chosen = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "serving.cli", "--home", str(home), "--log-level", "info", *chosen]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300"},
    )


def until_said(process: subprocess.Popen[str], *words: str) -> str:
    """Read a process's lines until one holds all of the words; return what it said up to there."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if all(word in line for word in words):
            return "".join(said)
    raise AssertionError(f"nothing said {words} in:\n{''.join(said)}")
