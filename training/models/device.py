"""Device and torch switches for reproducible training, and seeds for its draws.

This is the only module that selects a device. Equal bits are guaranteed for the same program on the same hardware with
the same number of threads, so these are part of a night's identity.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import torch

from storage.errors import SettingsError
from storage.logs import get_logger
from storage.system_calls import usable_cores

logger = get_logger(__name__)

_DRIVER_TIMEOUT_S: Final = 20


def prepare_device(kind: str = "auto", *, threads: int = 0) -> torch.device:
    """Set torch up for reproducible training and return the device.

    Args:
        kind: see `available_device`.
        threads: threads of torch on the CPU; 0 uses all cores that this process may use.

    Raises:
        SettingsError: the device is not available; for `cuda` with what torch and the driver say.
    """
    asked, kind = kind, available_device(kind)
    count = threads or usable_cores()
    torch.set_num_threads(count)
    # cuBLAS is reproducible only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms, without its import of the compiler (measured: 3 to 8 s).
    torch.set_deterministic_debug_mode("error")
    _log_device(kind, count, asked)
    if kind == "mps":
        logger.warning("device is untested", device=kind)
    return torch.device(kind)


def available_device(kind: str) -> str:
    """Return the device that `training.device` means here; one that was asked for by name is never replaced.

    Args:
        kind: `cuda`, `mps` or `cpu`; `auto` is `cuda` where there is a GPU and else `cpu`. It never is `mps`, since
            nights have not been tested there: equal bits, and results like those of a CPU, are not known.

    Raises:
        SettingsError: the device is not available; for `cuda` with what torch and the driver say.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return "cuda" if available["cuda"] else "cpu"
    if not available.get(kind, False):
        why = f": {_cuda_obstacle()}" if kind == "cuda" else ""
        raise SettingsError(
            f"training.device is {kind!r}, and this machine or this torch build has none{why}",
            hint=f"set it to auto, or to one of: {', '.join(k for k, there in available.items() if there)}",
        )
    return kind


def compute_identity(device: torch.device) -> dict[str, Any]:
    """Return everything about the computer that changes the bits of a fit, for a night's identity.

    `hardware` is the GPU's name, or the vector instructions of the CPU that torch uses.
    """
    return {
        "device": device.type,
        "hardware": _hardware(device.type),
        "threads": torch.get_num_threads(),
    }


def _hardware(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return torch.backends.cpu.get_cpu_capability() if kind == "cpu" else kind


def _cuda_obstacle() -> str:
    """Return what torch and the driver say about CUDA, within `_DRIVER_TIMEOUT_S`."""
    version = str(torch.__version__)
    if torch.version.cuda is None:
        built = f"torch {version} is built without CUDA"
    else:
        built = f"torch {version} is built for CUDA {torch.version.cuda}"
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        except (RuntimeError, AssertionError) as error:
            built += f" and says {str(error).splitlines()[0]!r}"
    return f"{built}; {_driver_answer()}"


def _driver_answer() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "there is no NVIDIA driver here (nvidia-smi is not installed)"
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"the NVIDIA driver did not answer nvidia-smi within {_DRIVER_TIMEOUT_S} s"
    except OSError as error:
        return f"nvidia-smi cannot be run: {error.strerror}"
    said = " ".join((done.stdout + done.stderr).split())
    return f"the NVIDIA driver says {said[:200]!r} (nvidia-smi, exit code {done.returncode})"


@lru_cache(maxsize=8)
def _log_device(kind: str, threads: int, asked: str) -> None:
    logger.info(
        "device chosen",
        device=kind,
        asked=asked,
        hardware=_hardware(kind),
        threads=threads,
        torch=str(torch.__version__),
    )


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
