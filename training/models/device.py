"""On which device does a night train, and with which switches set?

Chosen here and nowhere else. The promise of equal bits holds for the same program on the same kind of device
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


def prepare_device(wanted: str = "auto", *, threads: int = 0) -> torch.device:
    """Set torch up for reproducible training and return the device.

    Args:
        wanted: `auto` takes CUDA, then MPS, then the CPU; or one of `cuda`, `mps`, `cpu`.
        threads: threads of torch on the CPU; 0 takes all cores that this process may use.

    Raises:
        SettingsError: the device that was asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted != "auto" and not available.get(wanted, False):
        raise SettingsError(
            f"training.device is {wanted!r}, and this machine or this torch build has none",
            hint=f"set it to auto, or to one of: {', '.join(k for k, there in available.items() if there)}",
        )
    kind = wanted if wanted != "auto" else next(name for name, there in available.items() if there)
    count = threads or _cores()
    torch.set_num_threads(count)
    # cuBLAS is reproducible only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms, without its import of the compiler (measured: 3 to 8 s).
    torch.set_deterministic_debug_mode("error")
    _announce(kind, count)
    return torch.device(kind)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=8)
def _announce(kind: str, threads: int) -> None:
    name = torch.cuda.get_device_name() if kind == "cuda" else kind
    logger.info("device chosen", device=kind, name=name, threads=threads, torch=str(torch.__version__))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below the smallest normal one for zero while training on a CPU.

    Gradients of recurrent networks underflow over a window, and make a step 5-6.5 times slower (measured at 256
    bars). The switch is the thread's and not torch's alone, so it goes back off for whoever runs next.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed of its own for one draw, from the night's seed and what the draw is for.

    >>> derive_seed(7, "mlp", 0) == derive_seed(7, "mlp", 0) != derive_seed(7, "mlp", 1)
    True
    """
    text = "|".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
