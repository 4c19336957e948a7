"""The files of a night: their paths, reading and writing.

`training/night/steps.py` documents the files. Only this module knows their paths.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch

from features.feature import FeatureBlock
from features.panel.panel import Panel
from features.sets import get_set
from features.store.serialization import read_block, read_panel, write_block, write_panel
from storage.atomic_write import write_atomic
from storage.clock import width_ns
from storage.code_version import code_version, lock_hash, sources_hash
from storage.errors import CheckpointError, GateError
from storage.file_lock import file_lock
from storage.lake.fees import FeeSchedule
from storage.project import is_user_code, project_code
from storage.settings import Settings
from training.data.labels import Labels
from training.models.checkpoint import ONE_BY_ONE, CheckpointStamp, write_json
from training.models.networks import network_code
from training.recipe import Recipe, recipe_from_plain

TEST_PREDICTIONS: Final = "predictions.safetensors"
VALID_PREDICTIONS: Final = "validation.safetensors"
_LABELS: Final = ("label", "mask", "basis", "scale", "decidable")
_CLOCKS: Final = ("ts_decided_ns", "ts_span_start_ns", "ts_span_end_ns")


@dataclass(frozen=True, slots=True)
class Lessons:
    """What teaches in place of the served bars, on the same instruments and steps.

    Args:
        block: features of the bars.
        labels: labels of the bars.
        past: see `NightData`.
    """

    block: FeatureBlock
    labels: Labels
    past: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class NightData:
    """The data of a night.

    Args:
        panel: bars as they were known, which judge; they also teach, unless there are lessons.
        block: features of the bars.
        labels: labels of the bars.
        past: (S, T) float64, trailing return over one horizon in units of the label; NaN where unknown.
        funding_paid: (S, T) float64, or `None` where the lake holds none in the range.
        lessons: of a recipe whose `rows` is `available`.
    """

    panel: Panel
    block: FeatureBlock
    labels: Labels
    past: torch.Tensor
    funding_paid: np.ndarray | None
    lessons: Lessons | None = None

    @property
    def teaching(self) -> Lessons:
        """What teaches: the lessons, or the served bars themselves."""
        return self.lessons or Lessons(self.block, self.labels, self.past)

    @property
    def first_lesson(self) -> int:
        """Number of the first row that teaches: lessons are numbered after all served rows."""
        return 0 if self.lessons is None else self.labels.mask.numel()


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of one model and seed on one fold's test rows.

    Args:
        instrument, step: (N,) int32, the row.
        prediction: (N,) float32.
        label: (N,) float32, NaN where no label was observed.
        strangeness: (N,) float32, share of the bar's known features outside of the training rows; `None` for
            predictions that were made elsewhere, and of older releases.
    """

    instrument: np.ndarray
    step: np.ndarray
    prediction: np.ndarray
    label: np.ndarray
    strangeness: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class NightArtifacts:
    """The folder of one night.

    Args:
        path: the folder.
        shared_fits: folder of the fits that nights share (default: `fits` beside the folder of all nights).
    """

    path: Path
    shared_fits: Path | None = None

    @classmethod
    def find(cls, settings: Settings, night: str) -> NightArtifacts:
        """Return the folder of an opened night.

        Raises:
            GateError: there is no such night.
        """
        folder = cls(settings.models_dir / "nights" / night)
        if not folder.has("night.json"):
            raise GateError(f"no night is called {night!r}", hint="open one with: tickwalk nightly")
        return folder

    @staticmethod
    def ids(settings: Settings) -> list[str]:
        """Return the ids of all nights that were opened, sorted."""
        return sorted(path.parent.name for path in (settings.models_dir / "nights").glob("*/night.json"))

    @property
    def fits_dir(self) -> Path:
        """The folder of the fits that nights share."""
        return self.shared_fits or self.path.parent.with_name("fits")

    @property
    def facts(self) -> dict[str, Any]:
        """The content of `night.json`."""
        facts: dict[str, Any] = self.read("night.json")
        return facts

    @property
    def recipe(self) -> Recipe:
        """The night's recipe."""
        facts = self.facts
        return recipe_from_plain(facts["recipe"], is_judged="predictions" in facts)

    @property
    def fees(self) -> FeeSchedule:
        """The taker fees that the night was opened on."""
        fees: FeeSchedule = msgspec.convert(self.facts["fees"], FeeSchedule)
        return fees

    def refuse_other_code(self) -> None:
        """Refuse to continue a night that was opened by other code.

        Raises:
            CheckpointError: the source of `training`, code of the user's project that a model uses, torch or the locked
                environment has changed since.
        """
        facts = self.facts
        now: dict[str, object] = code_facts() | {"project_code": model_codes(self.recipe)}
        for name, value in now.items():
            # Nights of older releases have no code of a project.
            if facts.get(name, {}) != value:
                raise CheckpointError(
                    f"night {self.path.name} was opened with {name} {facts[name]}, and this is {value}",
                    hint="open a new night: tickwalk nightly",
                )

    def stamp(
        self, *, model: str, fold: int, seed: int, feature_names: tuple[str, ...], device: str
    ) -> CheckpointStamp:
        """Return the stamp of a checkpoint of this night, of a fit that is trained alone."""
        facts = self.facts
        return CheckpointStamp(
            model=model,
            fold=fold,
            seed=seed,
            recipe=facts["recipe"],
            feature_names=feature_names,
            feature_fingerprint=facts["feature_fingerprint"],
            content_hash=facts["content_hash"],
            snapshot=facts["snapshot"],
            code=code_version(),
            training_code=training_code(),
            lock=lock_hash(),
            torch_version=str(torch.__version__),
            device=device,
            hardware=facts["hardware"],
            threads=facts["threads"],
            rows=facts["rows"],
            stacking=ONE_BY_ONE,
            project_code=network_code(model),
            project=used_project(self.recipe),
        )

    def has(self, name: str) -> bool:
        """Return whether a file of the night exists."""
        return (self.path / name).exists()

    def read(self, name: str, *, step: str = "") -> Any:
        """Return a JSON file's value.

        Raises:
            GateError: it does not exist yet; `step` writes it.
        """
        path = self.path / name
        if not path.exists():
            raise GateError(f"night {self.path.name} has no {name} yet", hint=f"run its step {step} first")
        return json.loads(path.read_bytes())

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    def update(self, name: str, entries: Mapping[str, Any]) -> None:
        """Add entries to a JSON file atomically; several processes may do so at once."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = CheckpointError(f"another process writes {path}", hint="run the step again when it has ended")
        with file_lock(path.with_name(f".{path.name}.lock"), error=busy, timeout_s=math.inf):
            self.write(name, (self.read(name) if self.has(name) else {}) | dict(entries))

    @staticmethod
    def model_name(model: str, number: int = 0) -> str:
        """Return the name of one model and seed: `model`, or `model+1` for the second seed."""
        return model + (f"+{number}" if number else "")

    def model_path(self, fold: int, model: str, number: int = 0) -> str:
        """Return the relative folder of one model and seed on a fold."""
        return f"fold-{fold:02d}/{self.model_name(model, number)}"

    def write_data(self, data: NightData) -> None:
        """Write panel, features and labels."""
        write_panel(self.path / "panel.safetensors", data.panel)
        write_block(self.path / "features.safetensors", data.block)
        tensors = _label_tensors(data.labels, data.past)
        if data.funding_paid is not None:
            tensors["funding_paid"] = torch.from_numpy(data.funding_paid)
        write_atomic(self.path / "labels.safetensors", safetensors.torch.save(tensors))
        if (lessons := data.lessons) is not None:
            write_block(self.path / "lessons-features.safetensors", lessons.block)
            tensors = _label_tensors(lessons.labels, lessons.past)
            write_atomic(self.path / "lessons-labels.safetensors", safetensors.torch.save(tensors))

    def read_data(self) -> NightData:
        """Return panel, features and labels, memory-mapped."""
        self.read("panel.json", step="build_panel")
        tensors = safetensors.torch.load_file(self.path / "labels.safetensors")
        funding = tensors.get("funding_paid")
        return NightData(
            panel=read_panel(self.path / "panel.safetensors"),
            block=read_block(self.path / "features.safetensors"),
            labels=_labels_of(tensors),
            past=tensors["past"],
            funding_paid=None if funding is None else funding.numpy(),
            lessons=self._read_lessons(),
        )

    def _read_lessons(self) -> Lessons | None:
        if self.recipe.rows == "served":
            return None
        tensors = safetensors.torch.load_file(self.path / "lessons-labels.safetensors")
        block = read_block(self.path / "lessons-features.safetensors")
        return Lessons(block, _labels_of(tensors), tensors["past"])

    def read_predictions(self, path: str, name: str = TEST_PREDICTIONS) -> Predictions:
        """Return the predictions in the folder of a model, with the row numbers of this night's panel."""
        facts = self.facts
        return read_predictions(
            self.path / path / name,
            instruments=facts["instruments"],
            since_ns=facts["since_ns"],
            step_ns=width_ns(facts["recipe"]["width"]),
        )

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Write the duration of a step to `timings/`, apart from the files that are equal for equal nights."""
        started = time.perf_counter()
        yield
        self.write(f"timings/{step}.json", {"seconds": round(time.perf_counter() - started, 3)})

    def step_seconds(self) -> dict[str, float]:
        """Return the seconds that each step took, of those that were timed."""
        timings = {path.stem: json.loads(path.read_bytes()) for path in self.path.glob("timings/*.json")}
        return {
            name: float(timing["seconds"])
            for name, timing in sorted(timings.items())
            if name != "estimate" and isinstance(timing.get("seconds"), float | int)
        }


def fits_file(fold: int) -> str:
    """Return the file with the fits of a fold; apart, since of two equal nights the second trains nothing."""
    return f"timings/fits-{fold:02d}.json"


STACKS: Final = "timings/stacks.json"
"""Seconds of each fit that a stack trained: {fit: seconds}."""


def write_predictions(path: Path, predictions: Predictions, panel: Panel) -> None:
    """Write predictions by instrument and time, so that a night with another panel can read them.

    Args:
        path: the file.
        predictions: with the row numbers of the panel.
        panel: names the instruments and the opens of the bars.
    """
    places, instrument = np.unique(predictions.instrument, return_inverse=True)
    tensors = {
        "instrument": instrument.astype(np.int32),
        "ts_open_ns": panel.ts_open_ns[predictions.step],
        "prediction": predictions.prediction,
        "label": predictions.label,
    }
    if predictions.strangeness is not None:
        tensors["strangeness"] = predictions.strangeness
    names = json.dumps([panel.instruments[place] for place in places])
    content = safetensors.torch.save(
        {name: torch.from_numpy(values) for name, values in tensors.items()}, metadata={"instruments": names}
    )
    write_atomic(path, content)


def read_predictions(path: Path, *, instruments: Sequence[str], since_ns: int, step_ns: int) -> Predictions:
    """Return the predictions of a file, with the row numbers of a panel.

    Args:
        path: the file, as `write_predictions` writes it.
        instruments: of the panel.
        since_ns: open of its first bar.
        step_ns: width of its bars.
    """
    with safetensors.safe_open(path, framework="pt") as opened:
        names = json.loads(opened.metadata()["instruments"])
        tensors = {key: opened.get_tensor(key).numpy() for key in opened.keys()}  # noqa: SIM118
    places = {name: place for place, name in enumerate(instruments)}
    place_of = np.array([places[name] for name in names], dtype=np.int32)
    step = (tensors["ts_open_ns"] - since_ns) // step_ns
    return Predictions(
        instrument=place_of[tensors["instrument"]],
        step=step.astype(np.int32),
        prediction=tensors["prediction"],
        label=tensors["label"],
        strangeness=tensors.get("strangeness"),
    )


def _label_tensors(labels: Labels, past: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = {name: getattr(labels, name).contiguous() for name in _LABELS}
    tensors |= {name: torch.from_numpy(getattr(labels, name)) for name in _CLOCKS}
    return tensors | {"past": past.contiguous()}


def _labels_of(tensors: dict[str, torch.Tensor]) -> Labels:
    values: dict[str, Any] = {name: tensors[name] for name in _LABELS}
    return Labels(**values | {name: tensors[name].numpy() for name in _CLOCKS})


def training_code() -> str:
    """Return a hash of the source of `training`; it is part of a night's identity."""
    return sources_hash("training")[:16]


def code_facts() -> dict[str, str]:
    """Return the code and packages that a night, and every checkpoint, must agree with to be continued or rebuilt."""
    return {
        "training_code": training_code(),
        "torch_version": str(torch.__version__),
        "lock": lock_hash(),
    }


def model_codes(recipe: Recipe) -> dict[str, str]:
    """Return the hash of the user's code by model of the project; it is part of a night's identity."""
    return {name: code for name in recipe.models if (code := network_code(name))}


def used_project(recipe: Recipe) -> str:
    """Return the hash of the user's project where a model or a feature of the recipe comes from it, else nothing."""
    has_features = any(is_user_code(item.function) for item in get_set(recipe.feature_set))
    return project_code() if has_features or model_codes(recipe) else ""
