"""Fits of folds, found by content and shared by all nights of a home.

`models/fits/<fit>/` has the checkpoint, predictions and scores of one model and seed on one fold, and `fit.json`, which
is written last and has the hash of every file. `<fit>` is a hash of all that the result depends on: the rows that were
read, with their windows, labels and times; the parts of the recipe that matter to a fit; the seed; the device,
hardware and threads; and the code, torch and environment. A night gets hard links to these files, so its folder stays
complete if the store is deleted, and nothing is stored twice. The store may be deleted at any time; later nights then
train anew.

An interrupted fit is continued by whichever night needs it next, and a lock lets one process at a time work on it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from storage.atomic_write import publish, temporary_path
from storage.errors import CheckpointError
from storage.file_lock import file_lock
from storage.logs import get_logger
from training.models.checkpoint import CheckpointStamp, write_json
from training.night.artifacts import Lessons, NightData
from training.recipe import Recipe

logger = get_logger(__name__)

_DONE: Final = "fit.json"
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class FitStore:
    """The folder `models/fits`."""

    path: Path

    def folder(self, fit: str) -> Path:
        """Return the folder of a fit."""
        return self.path / fit

    @contextmanager
    def locked(self, fit: str) -> Iterator[Path]:
        """Yield the folder of a fit; no other process works on it meanwhile."""
        folder = self.folder(fit)
        folder.mkdir(parents=True, exist_ok=True)
        busy = CheckpointError(
            f"another process works on fit {fit}", hint="run the step again when it has ended"
        )
        with file_lock(folder / _LOCK, error=busy, timeout_s=math.inf):
            for left in folder.glob(".*.part"):  # of a process that was killed while it wrote
                left.unlink()
            yield folder

    def is_done(self, fit: str) -> bool:
        """Return whether a fit is complete; the files of a damaged one are removed, so that it is trained anew."""
        folder = self.folder(fit)
        if not (folder / _DONE).exists():
            return False
        try:
            files = json.loads((folder / _DONE).read_bytes())["files"]
            damaged = [name for name, digest in files.items() if _digest(folder / name) != digest]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            damaged = [f"{_DONE}: {error}"]
        if damaged:
            logger.warning("damaged fit removed", fit=fit, files=damaged)
            for path in folder.iterdir():
                if path.name != _LOCK:
                    path.unlink()
        return not damaged

    def finish(self, fit: str) -> None:
        """Mark a fit as complete, with the hashes of its files."""
        folder = self.folder(fit)
        files = [
            path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name != _DONE
        ]
        write_json(folder / _DONE, {"fit": fit, "files": {path.name: _digest(path) for path in files}})

    def link(self, fit: str, target: Path) -> None:
        """Link the files of a complete fit into a folder, `fit.json` last."""
        folder = self.folder(fit)
        target.mkdir(parents=True, exist_ok=True)
        names = json.loads((folder / _DONE).read_bytes())["files"]
        for name in (*sorted(names, key=lambda name: name == "metrics.json"), _DONE):
            _link(folder / name, target / name)


def fit_id(stamp: CheckpointStamp) -> str:
    """Return the identity of a fit."""
    return hashlib.sha256(json.dumps(stamp.expectations(), sort_keys=True).encode()).hexdigest()[:24]


def recipe_of_fit(recipe: Recipe) -> dict[str, Any]:
    """Return the parts of a recipe that matter to a fit beside its rows; the same for recipes that trade otherwise."""
    plain = recipe.to_plain()
    return {name: plain[name] for name in ("width", "window_bars", "stride", "label", "fit", "rows")}


def rows_digest(data: NightData, rows: Mapping[str, torch.Tensor], *, window_bars: int) -> str:
    """Return a hash of everything that a fit reads of some rows; equal for equal rows of different panels.

    Args:
        data: the night's data.
        rows: (N,) int64 row numbers by their use, such as `train`; numbers from `data.first_lesson` on are lessons.
        window_bars: bars in a window; those before a fold's first row are read, too.
    """
    digest = hashlib.sha256()
    served = Lessons(data.block, data.labels, data.past)
    cells = data.labels.mask.numel()
    for first, part in ((0, served), (cells, data.lessons)):
        if part is None:
            continue
        own = {
            name: index[(index >= first) & (index < first + cells)] - first for name, index in rows.items()
        }
        _add_part(digest, part, own, window_bars=window_bars)
    return digest.hexdigest()


def _add_part(
    digest: hashlib._Hash, part: Lessons, rows: Mapping[str, torch.Tensor], *, window_bars: int
) -> None:
    """Add the rows of one block: their windows, and their labels and past returns by use."""
    n_steps = part.labels.mask.shape[1]
    used = torch.cat(list(rows.values()))
    if not len(used):
        digest.update(b"no rows")
        return
    instruments, steps = torch.unique(used // n_steps), used % n_steps
    first, stop = max(int(steps.min()) - window_bars + 1, 0), int(steps.max()) + 1
    names = [part.block.instruments[number] for number in instruments.tolist()]
    span = part.block.ts_open_ns[[first, stop - 1]].tolist()
    head = [names, span, stop - first, part.block.width_ns, part.block.names, sorted(rows)]
    digest.update(json.dumps(head).encode())
    for number in instruments.tolist():
        mask = part.block.mask[number, first:stop]
        digest.update(mask.contiguous().numpy().data)
        digest.update(torch.where(mask, part.block.values[number, first:stop], 0.0).contiguous().numpy().data)
    for name in sorted(rows):
        index = rows[name]
        place = torch.searchsorted(instruments, index // n_steps) * (stop - first) + index % n_steps - first
        mask = part.labels.mask.flatten()[index]
        label = torch.where(mask, part.labels.label.flatten()[index], 0.0)
        past = torch.nan_to_num(part.past.flatten()[index], nan=math.inf)
        for values in (place, mask, label, past):
            digest.update(json.dumps([name, str(values.dtype), len(values)]).encode())
            digest.update(values.contiguous().numpy().data)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _link(source: Path, target: Path) -> None:
    """Link a file atomically, or copy it where the disk has no hard links; an existing target is replaced."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    if target.exists() and target.samefile(temporary):
        # A rename of one link to another of the same file would leave both.
        temporary.unlink()
        return
    publish(temporary, target, is_synced=False)
