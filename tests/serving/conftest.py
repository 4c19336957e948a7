"""Fixtures shared by the tests of `serving`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.settings import Settings


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """The settings and the id of a small judged night; its lake may grow, its folder stays."""
    from tests.serving.nights import make_night  # loads torch, which most of the room's tests do without

    return make_night(tmp_path_factory.mktemp("home"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with no settings of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TICKWALK_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def proven(judged: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let judgements on the bars of the judged night take over its proof of the features, half of their work."""
    from dataclasses import fields

    from features.leakage.perturbation import ProofResult
    from training.night import preparation
    from training.night.artifacts import NightArtifacts

    proof = NightArtifacts.find(*judged).read("proof.json")
    found = ProofResult(**{item.name: proof[item.name] for item in fields(ProofResult)})
    monkeypatch.setattr(preparation, "prove", lambda *_, **__: found)
