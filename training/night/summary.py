"""What does a night tell the report?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import numpy as np

from training.data.folds import Fold
from training.evaluation.gate import BacktestResult
from training.evaluation.metrics import Score
from training.evaluation.positions import PositionLedger
from training.models.device import derive_seed
from training.night.artifacts import NightArtifacts
from training.night.scoring import EvaluationWindow, score_folds
from training.recipe import Recipe

_CURVE_POINTS: Final = 600


def make_summary(
    folder: NightArtifacts,
    folds: list[Fold],
    recipe: Recipe,
    judged: EvaluationWindow,
    ledgers: dict[str, PositionLedger],
    traded: dict[str, BacktestResult],
    valid_ic: dict[str, list[float]],
    challenger: str,
) -> dict[str, Any]:
    """Return the value of `summary.json`."""
    models = {
        name: {
            "role": "control" if name in recipe.controls else "challenger",
            "folds": [folder.read(f"{folder.member(f.index, name)}/metrics.json")["test"] for f in folds],
            "test": asdict(score_all_folds(folder, folds, recipe, name)),
            "traded": asdict(traded[name]),
        }
        for name in recipe.models
    }
    steps = np.unique(np.linspace(0, judged.stop - judged.first - 1, _CURVE_POINTS).astype(int))
    return {
        "models": models,
        "equity": {
            "ts_ns": judged.market.ts_close_ns[steps].tolist(),
            "net": {name: ledgers[name].net.cumsum()[steps].tolist() for name in recipe.models},
        },
        "valid_ic": valid_ic,
        "seed_ic": [
            score_all_folds(folder, folds, recipe, challenger, number).ic.value for number in range(recipe.seeds)
        ],
        "notes": _notes(folder, recipe),
    }


def score_all_folds(
    folder: NightArtifacts, folds: list[Fold], recipe: Recipe, model: str, number: int = 0
) -> Score:
    """Return the figures of one member over the tests of all folds together."""
    parts = [folder.read_predictions(folder.member(fold.index, model, number)) for fold in folds]
    return score_folds(parts, recipe, seed=derive_seed(folder.facts["seed"], model, "all", number))


def _notes(folder: NightArtifacts, recipe: Recipe) -> list[str]:
    counts, costs = folder.read("panel.json"), recipe.costs
    share = counts["funding_share"]
    notes = [
        "funding is left out: the lake holds no paid funding in this range"
        if share is None
        else f"paid funding is known for {share:.0%} of instrument-hours; the rest is left out"
    ]
    if counts["basis"]["print"]:
        notes.append(
            f"{counts['basis']['print']} labels are returns of last prints, which bounce between bid and ask, and "
            f"a half spread of {costs.half_spread_bps:g} bp is assumed where a bar has no quote"
        )
    proof = folder.read("proof.json")
    if unproven := proof.get("unproven"):
        notes.append(f"nowhere valid on these bars, so not proven: {', '.join(unproven)}")
    if suspects := [
        f"{name} ({bars} bars ahead: {agreed:+.2f})" for name, bars, agreed in proof["hindsight"]["suspects"]
    ]:
        notes.append(
            f"foretells later returns better than is honest, look at its inputs: {', '.join(suspects)}"
        )
    bare = [name for name, valid in counts["valid_share"].items() if valid < 0.5]
    if bare:
        notes.append(f"valid on less than half of the rows: {', '.join(bare)}")
    fee = "the recipe's own" if costs.taker_fee_bps is not None else "the venue's table"
    notes.append(f"taker fee from {fee}; impact {costs.impact_bps:g} bp times the root of the bar's share")
    return notes
