"""Where does each file of a night lie, and what does it hold?

`training/night/steps.py` documents the files for readers; this module is the only one that knows their names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import safetensors.torch
import torch

from features.feature import FeatureBlock
from features.panel.panel import Panel
from features.store.serialization import read_block, read_panel, write_block, write_panel
from storage.code_version import code_version, lock_hash, sources_hash
from storage.errors import CheckpointError, GateError
from storage.lake.fees import FeeSchedule
from storage.settings import Settings
from training.data.labels import Labels
from training.models.checkpoint import CheckpointStamp, write_atomic, write_json
from training.recipe import Recipe, recipe_from_plain

_LABELS: Final = ("label", "mask", "basis", "scale", "decidable")
_CLOCKS: Final = ("ts_decided_ns", "ts_span_start_ns", "ts_span_end_ns")


@dataclass(frozen=True, slots=True)
class NightData:
    """What a night computes on.

    Args:
        panel: bars as they were known.
        block: their features.
        labels: and labels.
        past: (S, T) float64, trailing return over one horizon in units of the label; NaN where unknown.
        funding_paid: (S, T) float64, or `None` where the lake holds none in the range.
    """

    panel: Panel
    block: FeatureBlock
    labels: Labels
    past: torch.Tensor
    funding_paid: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """One member's predictions on one fold's test rows.

    Args:
        instrument, step: (N,) int32, the row.
        prediction: (N,) float32.
        label: (N,) float32, NaN where no label was observed.
    """

    instrument: np.ndarray
    step: np.ndarray
    prediction: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, slots=True)
class NightArtifacts:
    """One night on disk."""

    path: Path

    @classmethod
    def find(cls, settings: Settings, night: str) -> NightArtifacts:
        """Return the folder of a night that was opened.

        Raises:
            GateError: there is no such night.
        """
        folder = cls(settings.models_dir / "nights" / night)
        if not folder.has("night.json"):
            raise GateError(f"no night is called {night!r}", hint="open one with: tickwalk nightly")
        return folder

    @property
    def facts(self) -> dict[str, Any]:
        """What `night.json` says."""
        facts: dict[str, Any] = self.read("night.json")
        return facts

    @property
    def recipe(self) -> Recipe:
        """The night's recipe."""
        return recipe_from_plain(self.facts["recipe"])

    @property
    def fees(self) -> FeeSchedule:
        """The taker fees that the night was opened on."""
        fees: FeeSchedule = msgspec.convert(self.facts["fees"], FeeSchedule)
        return fees

    def refuse_other_code(self) -> None:
        """Refuse to go on with a night that was opened under other code than this.

        Raises:
            CheckpointError: this room's source, torch or the locked environment changed since.
        """
        facts = self.facts
        now = {"training_code": training_code(), "torch_version": str(torch.__version__), "lock": lock_hash()}
        for name, value in now.items():
            if facts[name] != value:
                raise CheckpointError(
                    f"night {self.path.name} was opened with {name} {facts[name]}, and this is {value}",
                    hint="open a new night: tickwalk nightly",
                )

    def stamp(
        self, *, model: str, fold: int, seed: int, feature_names: tuple[str, ...], device: str
    ) -> CheckpointStamp:
        """Return what a checkpoint of this night is made from."""
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
        )

    def has(self, name: str) -> bool:
        """Say whether a file of the night is there."""
        return (self.path / name).exists()

    def read(self, name: str, *, step: str = "") -> Any:
        """Return a JSON file's value.

        Raises:
            GateError: it is not there yet; `step` is what makes it.
        """
        path = self.path / name
        if not path.exists():
            raise GateError(f"night {self.path.name} has no {name} yet", hint=f"run its step {step} first")
        return json.loads(path.read_bytes())

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    def member(self, fold: int, model: str, number: int = 0) -> str:
        """Return a member's folder, relative; further seeds stand beside the first as `model+1`."""
        return f"fold-{fold:02d}/{model}" + (f"+{number}" if number else "")

    def write_data(self, data: NightData) -> None:
        """Write panel, features and labels."""
        write_panel(self.path / "panel.safetensors", data.panel)
        write_block(self.path / "features.safetensors", data.block)
        tensors = {name: getattr(data.labels, name).contiguous() for name in _LABELS}
        tensors |= {name: torch.from_numpy(getattr(data.labels, name)) for name in _CLOCKS}
        tensors["past"] = data.past.contiguous()
        if data.funding_paid is not None:
            tensors["funding_paid"] = torch.from_numpy(data.funding_paid)
        write_atomic(self.path / "labels.safetensors", safetensors.torch.save(tensors))

    def read_data(self) -> NightData:
        """Return panel, features and labels, memory-mapped."""
        self.read("panel.json", step="build_panel")
        tensors = safetensors.torch.load_file(self.path / "labels.safetensors")
        held: dict[str, Any] = {name: tensors[name] for name in _LABELS}
        labels = Labels(**held | {name: tensors[name].numpy() for name in _CLOCKS})
        funding = tensors.get("funding_paid")
        return NightData(
            panel=read_panel(self.path / "panel.safetensors"),
            block=read_block(self.path / "features.safetensors"),
            labels=labels,
            past=tensors["past"],
            funding_paid=None if funding is None else funding.numpy(),
        )

    def write_predictions(self, member: str, found: Predictions) -> None:
        """Write a member's predictions."""
        tensors = {
            name: torch.from_numpy(getattr(found, name))
            for name in ("instrument", "step", "prediction", "label")
        }
        write_atomic(self.path / member / "predictions.safetensors", safetensors.torch.save(tensors))

    def read_predictions(self, member: str) -> Predictions:
        """Return a member's predictions."""
        tensors = safetensors.torch.load_file(self.path / member / "predictions.safetensors")
        return Predictions(**{name: value.numpy() for name, value in tensors.items()})

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Write how long a step took to `timings/`; kept apart, since equal nights take unequal time."""
        started = time.perf_counter()
        yield
        self.write(f"timings/{step}.json", {"seconds": round(time.perf_counter() - started, 3)})


def training_code() -> str:
    """Return a hash of this room's source: other code, other night."""
    return sources_hash("training")[:16]
