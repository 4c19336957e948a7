"""One job of a night's training: some seeds of one model on some folds, and the process that does such jobs.

A job is plain values that any process with the night's folder can do, on this machine or on one that shares the disk:
it sets torch up as the night was opened, works under the lock of each fit, continues an interrupted one, writes its
files by content into the store of fits, and links them into the night. Doing it again changes nothing. Runners
(training/night/runners.py) therefore only choose where jobs are done, and repeat those whose process died.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from storage.errors import CheckpointError
from training.models.device import compute_identity, prepare_device
from training.models.estimators import OnEpoch
from training.night.artifacts import NightArtifacts, NightData
from training.night.fold_training import FoldFits, is_trained, train_models
from training.night.preparation import read_fold
from training.night.stacked_training import train_stacks

OnDone = Callable[["FitJob", float], None]
"""Called after each job with the job and the seconds that it took in its process."""


@dataclass(frozen=True, slots=True)
class FitJob:
    """Some seeds of one model on some folds.

    Args:
        night: folder of the night, absolute.
        fits: folder of the fits that nights share, absolute.
        model: its name.
        numbers: of the seeds, from 0.
        folds: indices; several only where the night trains the model as a stack.
    """

    night: str
    fits: str
    model: str
    numbers: tuple[int, ...]
    folds: tuple[int, ...]

    def __str__(self) -> str:
        folds = ", ".join(str(fold) for fold in self.folds)
        return f"{self.model} on fold{'s' if len(self.folds) > 1 else ''} {folds}"

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> FitJob:
        """Return the job that `to_plain` describes."""
        return cls(
            str(values["night"]),
            str(values["fits"]),
            str(values["model"]),
            tuple(int(number) for number in values["numbers"]),
            tuple(int(fold) for fold in values["folds"]),
        )


def list_jobs(folder: NightArtifacts, *, workers: int = 1) -> list[FitJob]:
    """Return the jobs of a night that are left, oldest fold first; a trained fit needs none.

    Args:
        folder: the night, with planned folds.
        workers: number of processes; a stack of all folds is divided among them, which changes no bit.

    Raises:
        GateError: its folds are not planned yet.
    """
    folds = [int(entry["index"]) for entry in folder.read("folds.json", step="plan_folds")["folds"]]
    trained, stacked = folder.recipe.trained, folder.facts["stacking"]
    place = str(folder.path.absolute()), str(folder.fits_dir.absolute())
    jobs = []
    for model in dict.fromkeys(name for name, _ in trained):
        numbers = tuple(number for name, number in trained if name == model)
        left = [
            fold for fold in folds if not all(is_trained(folder, fold, model, number) for number in numbers)
        ]
        size = -(-len(left) // workers) if model in stacked else 1
        groups = [tuple(left[first : first + size]) for first in range(0, len(left), max(size, 1))]
        jobs += [FitJob(*place, model, numbers, group) for group in groups]
    return sorted(jobs, key=lambda job: job.folds[0])


class FitProcess:
    """A process that does jobs one after another, and keeps what the next one can use: the data and the last folds."""

    def __init__(self) -> None:
        self._folder: NightArtifacts | None = None
        self._device = torch.device("cpu")
        self._data: NightData | None = None
        self._opened: dict[int, FoldFits] = {}

    def run(self, job: FitJob, *, on_epoch: OnEpoch | None = None) -> Path:
        """Do a job, and return the folder of its night, which has all of its fits then.

        The range of the night must have been checked against sealed holdouts, since a job reads no lake.

        Args:
            job: what to train.
            on_epoch: called at every validation point of a network with model, fold and log.

        Raises:
            CheckpointError: a folder has checkpoints of another origin, or the night was opened on other hardware.
            FitError: a fold has rows that cannot train the model, or a fit diverged.
            SettingsError: this machine does not have the device.
        """
        folder = self._open(job)
        folds = self._open_folds(folder, job)
        train_stacks(folder, folds, models=[job.model], on_epoch=on_epoch)
        for fits in folds:
            train_models(fits, members=[(job.model, number) for number in job.numbers], on_epoch=on_epoch)
        return folder.path

    def _open(self, job: FitJob) -> NightArtifacts:
        folder = NightArtifacts(Path(job.night), Path(job.fits))
        if folder != self._folder:
            self._device = night_device(folder)
            self._folder, self._data, self._opened = folder, folder.read_data(), {}
        return folder

    def _open_folds(self, folder: NightArtifacts, job: FitJob) -> list[FoldFits]:
        """Return the fits of a job's folds; those of other folds are released first."""
        assert self._data is not None
        entries = {int(entry["index"]): entry for entry in folder.read("folds.json")["folds"]}
        self._opened = {fold: self._opened[fold] for fold in job.folds if fold in self._opened}
        for fold in job.folds:
            if fold not in self._opened:
                self._opened[fold] = FoldFits(folder, read_fold(entries[fold]), self._data, self._device)
        return [self._opened[fold] for fold in job.folds]


def night_device(folder: NightArtifacts) -> torch.device:
    """Set torch up as the night was opened, and return its device.

    Raises:
        CheckpointError: the code, torch, the locked environment or the hardware has changed since.
        SettingsError: this machine does not have the device.
    """
    folder.refuse_other_code()
    facts = folder.facts
    device = prepare_device(facts["device"], threads=facts["threads"])
    for name, value in compute_identity(device).items():
        if facts[name] != value:
            raise CheckpointError(
                f"night {folder.path.name} was opened with {name} {facts[name]}, and this is {value}",
                hint="continue it where it was opened, or open a new night: tickwalk nightly",
            )
    return device
