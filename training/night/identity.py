"""Identity of a night: everything that decides its result, and the content of `night.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from features.panel.panel import content_hash
from features.sets import get_set
from features.versioning.fingerprint import fingerprint
from features.versioning.set_diff import EDITION, edition_of
from storage.code_version import code_version, lock_hash
from storage.lake.fees import FeeSchedule
from storage.settings import Settings
from training.models.device import compute_identity
from training.night.artifacts import NightArtifacts, model_codes, training_code
from training.night.pinned_inputs import PinnedRows, fee_hash, funding_hash
from training.recipe import Recipe


def night_identity(
    recipe: Recipe,
    pinned: PinnedRows,
    fees: FeeSchedule,
    *,
    content: str,
    seed: int,
    device: torch.device,
    stacking: Mapping[str, int],
    predictions: str = "",
) -> dict[str, Any]:
    """Return what a night's id is a hash of.

    Args:
        recipe: of the night.
        pinned: its rows.
        fees: the taker fees in force at its bars.
        content: hash of its panel.
        seed: of all draws.
        device: that it is computed with.
        stacking: lanes of the networks that train as stacks (training/night/stacking.py).
        predictions: hash of the predictions that are judged; empty: a night.
    """
    lessons = pinned.lessons
    return {
        "recipe": recipe.to_plain(),
        "rows": recipe.rows,
        "content_hash": content,
        "lessons_hash": None if lessons is None else content_hash(lessons, recipe.rows),
        "funding_hash": funding_hash(pinned.funding),
        "fee_hash": fee_hash(fees),
        "feature_fingerprint": feature_fingerprint(recipe),
        "seed": seed,
        "training_code": training_code(),
        "project_code": model_codes(recipe),
        **compute_identity(device),
        "stacking": dict(stacking),
        **({"predictions": predictions} if predictions else {}),
    }


def feature_fingerprint(recipe: Recipe) -> str:
    """Return the hash of the code of a recipe's features."""
    return fingerprint(get_set(recipe.feature_set))


def name_of(recipe: Recipe, identity: Mapping[str, Any]) -> str:
    """Return the name of a recipe, or of judged predictions, with 12 digits of the hash of an identity.

    >>> from training.recipe import RECIPES
    >>> name_of(RECIPES["demo"], {"seed": 7})
    'demo-5f83350f79a3'
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{f'judge-{recipe.predictions}' if recipe.predictions else recipe.name}-{digest[:12]}"


def write_facts(
    folder: NightArtifacts,
    identity: Mapping[str, Any],
    pinned: PinnedRows,
    fees: FeeSchedule,
    settings: Settings,
    *,
    snapshot: int,
) -> None:
    """Write `edition.json` and `night.json` of a new night, the latter last: it marks the night as open.

    Args:
        folder: of the night.
        identity: see `night_identity`.
        pinned: its rows.
        fees: the taker fees in force at its bars.
        settings: with the grace.
        snapshot: of the lake that has the rows.
    """
    panel, feature_set = pinned.panel, identity["recipe"]["feature_set"]
    features = get_set(feature_set)
    folder.write(EDITION, edition_of(features, feature_set=feature_set))
    folder.write(
        "night.json",
        dict(identity)
        | {
            "night": folder.path.name,
            "since_ns": int(panel.ts_open_ns[0]),
            "until_ns": int(panel.ts_close_ns[-1]),
            "instruments": panel.instruments,
            "snapshot": snapshot,
            "fees": asdict(fees),
            "feature_set": feature_set,
            "feature_names": [item.name for item in features],
            "grace_ms": settings.bars.grace_ms,
            "code": code_version(),
            "lock": lock_hash(),
            "torch_version": str(torch.__version__),
        },
    )
