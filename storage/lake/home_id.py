"""The id of a home: which home's recording or command wrote a row of `bars`.

Two homes may write to one catalog, and each revises the bars of its own recordings only. The id is random, in a file of
the home, and is made by the first write. A rebuilt lake keeps it.
"""

from __future__ import annotations

import math
import uuid
from pathlib import Path
from typing import Final

from storage.atomic_write import sync, write_atomic
from storage.errors import LakeError
from storage.file_lock import file_lock
from storage.system_calls import sync_file

_FILE: Final = "home.id"


def home_id(home: Path) -> str:
    """Return the id of a home; make it if there is none yet.

    Raises:
        LakeError: the file holds something else.
    """
    path = home / _FILE
    text = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
    if not text:
        text = _make(path)
    if not text.isalnum():
        raise LakeError(
            f"{path} holds {text!r}, and the id of a home is letters and digits",
            hint='restore the id of its rows: tickwalk sql "SELECT DISTINCT home FROM bars"',
        )
    return text


def keep_home_id(home: Path, other: Path) -> None:
    """Give another home, in which the lake of this one is rebuilt, the same id."""
    write_atomic(other / _FILE, home_id(home) + "\n")


def _make(path: Path) -> str:
    """Return the id that this process writes, or another one has just written, to an empty file."""
    with file_lock(path, error=LakeError(f"{path} is locked"), timeout_s=math.inf, mode="a+") as file:
        file.seek(0)
        if text := file.read().strip():
            return text
        text = uuid.uuid4().hex[:16]
        file.write(text + "\n")
        file.flush()
        sync_file(file.fileno())
    sync(path.parent)
    return text
