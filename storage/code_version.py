"""Version of the running code, to which rows, checkpoints and reports can be traced."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

PACKAGES: Final = ("storage", "ingest", "features", "training", "serving", "tickwalk")
ROOT: Final = Path(__file__).resolve().parent.parent


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return `<version>+g<commit>`, with `.dirty` when tracked files differ from the commit.

    Outside a git checkout (an image, an installed wheel) it is `<version>+s<hash of the packages' sources>`.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("tickwalk")
    except PackageNotFoundError:
        release = "0"
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return f"{release}+s{sources_hash(*PACKAGES)[:12]}"
    dirty = ".dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{release}+g{commit}{dirty}"


@lru_cache(maxsize=1)
def lock_hash() -> str:
    """Return a hash of the locked environment, or `none` where the lock is not installed beside the code."""
    import hashlib

    lock = ROOT / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.exists() else "none"


@lru_cache
def sources_hash(*packages: str, root: Path = ROOT) -> str:
    """Return a SHA-256 of every Python file of the packages, sub-packages included, each by its path below the root.

    Args:
        packages: folders below the root, such as `features`.
        root: the folder that holds them (default: the one this code runs from).
    """
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    if not (ROOT / ".git").exists():
        return ""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
