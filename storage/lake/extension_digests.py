"""SHA-256 digests of the DuckDB extensions that the pinned packages install.

DuckDB checks an extension's signature in 0.25 s of processor time per file, OpenSSL its digest in 0.04 s (measured
2026-11-30). A file with a digest from this list needs no other check: the list is as trustworthy as the code. On other
platforms, or after a new release of DuckDB, DuckDB checks the signature; then add the output of
`sha256sum .venv/lib/python3*/site-packages/duckdb_extension_*/extensions/*/*.duckdb_extension`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

DIGESTS: Final = frozenset(
    {
        # DuckDB 1.5.5, linux_amd64: ducklake, httpfs, postgres_scanner, sqlite_scanner.
        "e51bf9e8d933d0e83780ae096455501b542cf962569a2ce5613532d702c08302",
        "887c392b1e49128d11667c81e3698d8b00dfdeb456771acf66d05a0f74f7b7d8",
        "b1ced4cfc6311313e117c2afb3eac76508718778dde0716421503c7dbfb5605c",
        "693d2bf90779df23ca5ebe0688639b9adfc11c2d55ae3466b33e28be16afaa5e",
    }
)


def has_known_digest(path: Path) -> bool:
    """Return whether a file is one of the extensions in `DIGESTS`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in DIGESTS
