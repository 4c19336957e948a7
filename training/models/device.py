"""Device and torch switches for reproducible training, and seeds for its draws.

This is the only module that selects a device. Equal bits are guaranteed for the same program on the same kind of device
with the same number of threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from storage.errors import SettingsError
from storage.logs import get_logger

logger = get_logger(__name__)


def prepare_device(kind: str = "auto", *, threads: int = 0) -> torch.device:
    """Set torch up for reproducible training and return the device.

    Args:
        kind: `cuda`, `mps` or `cpu`; `auto` selects the first of these that is available.
        threads: threads of torch on the CPU; 0 uses all cores that this process may use.

    Raises:
        SettingsError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind != "auto" and not available.get(kind, False):
        raise SettingsError(
            f"training.device is {kind!r}, and this machine or this torch build has none",
            hint=f"set it to auto, or to one of: {', '.join(k for k, there in available.items() if there)}",
        )
    if kind == "auto":
        kind = next(name for name, there in available.items() if there)
    count = threads or _cores()
    torch.set_num_threads(count)
    # cuBLAS is reproducible only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms, without its import of the compiler (measured: 3 to 8 s).
    torch.set_deterministic_debug_mode("error")
    _log_device(kind, count)
    return torch.device(kind)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=8)
def _log_device(kind: str, threads: int) -> None:
    name = torch.cuda.get_device_name() if kind == "cuda" else kind
    logger.info("device chosen", device=kind, name=name, threads=threads, torch=str(torch.__version__))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero while training on a CPU.

    Gradients of recurrent networks underflow over a window, which makes a step 5-6.5 times slower (measured at 256
    bars). The switch applies to the whole thread, not only to torch, so it is reset afterwards.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def derive_seed(seed: int, *names: object) -> int:
    """Derive the seed of one draw from the night's seed and the names of the draw.

    >>> derive_seed(7, "mlp", 0) == derive_seed(7, "mlp", 0) != derive_seed(7, "mlp", 1)
    True
    """
    text = "|".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
