"""The files of a replay.

A replay has a registry, evidence and nights of its own, in `models/replays/<replay>/` of the home, and shares the fits
of the home's nights:

    replay.json             replay, recipe, from_ns, to_ns, every_ns, false_promotions, grace_ms, content_hash,
                            funding_hash, lessons_hash, fee_hash, feature_fingerprint, seed, training_code,
                            project_code, device, hardware, threads: what its id is a hash of
    records/                a home: the lake has versions, lineages and gate_days of this replay, and models/nights/ its
                            nights, without panels and folds once a night is finished
    nights/<number>.json    a finished night (`ReplayedNight`)
    nights/<number>-*.safetensors    predictions until the next night: of the version that serves, and of the newest
                            refit (training.night.artifacts.write_predictions)
    result.json             what the sequence of versions earned (training.replay.earnings)
    timings.json            seconds by night, and fits that were reused; these differ between equal replays

Nothing of it is read by the home's registry, gate or lists of nights; the folder may be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from storage.errors import GateError
from storage.file_lock import file_lock
from storage.settings import Settings
from training.models.checkpoint import write_json
from training.night.artifacts import NightArtifacts

_BULKY: Final = ("panel", "features", "labels", "lessons-features", "lessons-labels")


@dataclass(frozen=True, slots=True)
class ReplayedNight:
    """A finished night of a replay.

    Args:
        at_ns: its time.
        night: its id.
        outcome: `promoted`, `renewed`, `refused`, or `failed` where a step refused the data or a fit.
        is_demoted: the version that served before was demoted.
        reason: of the outcome.
        model: the challenger; empty for a failed night.
        evidence, needed: against the null hypothesis that the mean net is at most 0; `None` for a failed night.
        serving: the version that serves from here on; empty: none.
        serving_night: the night whose refit that is.
        on_paper: it serves on evidence of days without quotes, so only a replay lets it serve.
        newest_night: the night of the newest refit; empty while there is none.
        folds: folds of the night.
    """

    at_ns: int
    night: str
    outcome: str
    is_demoted: bool
    reason: str
    model: str
    evidence: float | None
    needed: float | None
    serving: str
    serving_night: str
    on_paper: bool
    newest_night: str
    folds: int

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReplayFolder:
    """The folder of one replay.

    Args:
        path: the folder.
        home: settings of the home that it belongs to.
    """

    path: Path
    home: Settings

    @classmethod
    def of(cls, settings: Settings, replay: str) -> ReplayFolder:
        """Return the folder of a replay, which need not exist."""
        return cls(settings.models_dir / "replays" / replay, settings)

    @classmethod
    def find(cls, settings: Settings, replay: str) -> ReplayFolder:
        """Return the folder of a replay that was begun.

        Raises:
            GateError: there is none of this name.
        """
        folder = cls.of(settings, replay)
        if not folder.has("replay.json"):
            raise GateError(f"no replay is called {replay!r}", hint="run one with: tickwalk nights replay")
        return folder

    @property
    def records(self) -> Settings:
        """Settings of the home that has the replay's registry, evidence and nights; its lake is always local."""
        lake = replace(self.home.lake, catalog="", data="")
        return replace(self.home, home=self.path / "records", lake=lake)

    def night(self, name: str) -> NightArtifacts:
        """Return the folder of a night of this replay."""
        return NightArtifacts(self.records.models_dir / "nights" / name, self.home.models_dir / "fits")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process work on the replay.

        Raises:
            GateError: another process does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        busy = GateError(
            f"another process works on replay {self.path.name}", hint="wait for it; its nights are kept"
        )
        with file_lock(self.path / ".lock", error=busy):
            yield

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return (self.path / name).exists()

    def read(self, name: str) -> Any:
        """Return the value of a JSON file."""
        return json.loads((self.path / name).read_bytes())

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    def nights(self) -> list[ReplayedNight]:
        """Return the finished nights, oldest first."""
        found = sorted((self.path / "nights").glob("*.json"))
        return [ReplayedNight(**json.loads(path.read_bytes())) for path in found]

    def night_file(self, number: int, what: str = "") -> Path:
        """Return the path of a night's record, or of its predictions of `serving` or `newest`."""
        return self.path / "nights" / (f"{number:05d}-{what}.safetensors" if what else f"{number:05d}.json")

    def trim(self, night: NightArtifacts) -> None:
        """Remove what a finished night needs no more: its panel, features and labels, and its links to fits."""
        for name in _BULKY:
            (night.path / f"{name}.safetensors").unlink(missing_ok=True)
        for fold in sorted(night.path.glob("fold-*")):
            for path in sorted(fold.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            fold.rmdir()
