"""Digests of DuckDB's extensions: the installed files are known, and any other file is not."""

from __future__ import annotations

import platform
import sys
from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from storage.lake.extension_digests import has_known_digest

NAMES = ("ducklake", "sqlite_scanner", "postgres_scanner", "httpfs")


def installed(name: str) -> Path:
    folder = files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
    return Path(str(folder / f"{name}.duckdb_extension"))


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="digests are of linux_amd64"
)
@pytest.mark.parametrize("name", NAMES)
def test_installed_extension_is_known(name: str) -> None:
    """Otherwise every command that opens a lake takes half a second longer."""
    assert has_known_digest(installed(name))


def test_changed_extension_is_not_known(tmp_path: Path) -> None:
    changed = bytearray(installed("ducklake").read_bytes())
    changed[1000] ^= 1
    path = tmp_path / "ducklake.duckdb_extension"
    path.write_bytes(changed)
    assert not has_known_digest(path)
