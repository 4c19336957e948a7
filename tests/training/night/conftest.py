"""Fixture of the nights' tests: the features of one panel are proven once, which takes half of what a night takes."""

from __future__ import annotations

from typing import Final

import pytest

from features.leakage.perturbation import ProofResult
from features.panel.panel import Panel, content_hash
from features.sets import get_set
from features.versioning.fingerprint import fingerprint
from training.night import preparation

_prove = preparation.prove
_found: Final[dict[tuple[object, ...], ProofResult]] = {}


@pytest.fixture(autouse=True)
def _proofs_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "prove", _prove_once)


def _prove_once(panel: Panel, feature_set: str, *, seed: int) -> ProofResult:
    """Prove, or return the proof of equal bars, of the same code and seed; one that fails is not kept."""
    key = (content_hash(panel), feature_set, fingerprint(get_set(feature_set)), seed)
    if key not in _found:
        _found[key] = _prove(panel, feature_set, seed=seed)
    return _found[key]
