"""How does a night end: evidence, gate, refit of the challenger, and a row in the ledger?

The deployed weights come from one rule: the challenger is trained again, with the seed of its first member, on every
labelled row up to the cut-off, for the median of the epochs (or rounds) that validation chose in the folds.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from storage.clock import TimeSource
from storage.errors import CheckpointError, GateError
from storage.lake.lake import Lake
from storage.logs import get_logger
from training.data.folds import Fold, SplitRows
from training.data.panel import Normaliser
from training.evaluation.gate import (
    BacktestResult,
    ChampionComparison,
    Evidence,
    GateDecision,
    choose_challenger,
    decide,
)
from training.models.checkpoint import load_checkpoint
from training.models.device import derive_seed
from training.models.estimators import fit_model, load_model
from training.night.artifacts import NightArtifacts, NightData
from training.night.fold_training import fit_normaliser, fold_rows, predict_rows
from training.night.preparation import training_facts
from training.night.registry import VersionEvent, append_events, events_before, read_versions, champion_after
from training.night.scoring import (
    EvaluationWindow,
    compare_with_champion,
    evaluation_window,
    make_fold_context,
    make_market,
    to_dense,
    summarise_backtests,
    backtest,
)
from training.night.summary import score_all_folds, make_summary
from training.recipe import Recipe

logger = get_logger(__name__)


def finish_night(
    folder: NightArtifacts,
    folds: list[Fold],
    lake: Lake,
    device: torch.device,
    *,
    models_dir: Path,
    clock: TimeSource,
) -> dict[str, Any]:
    """Judge a night whose folds are all trained; write `deploy/`, `summary.json`, the ledger and `verdict.json`."""
    data, recipe = folder.read_data(), folder.recipe
    metrics = _read_metrics(folder, folds, recipe)
    valid_ic = {
        name: [_number(metrics[fold.index, name, 0]["valid"]["ic"]["value"]) for fold in folds]
        for name in recipe.challengers
    }
    challenger = choose_challenger(valid_ic)

    # 1. What everything would have earned over the tests.
    market = make_market(data, recipe, folder.fees, grace_ns=folder.facts["grace_ms"] * 1_000_000)
    judged = evaluation_window(market, folds, data.labels.ts_decided_ns)
    dense = {
        folder.member(0, *member).partition("/")[2]: to_dense(
            [folder.read_predictions(folder.member(fold.index, *member)) for fold in folds], judged
        )
        for member in recipe.members
    }
    ledgers = {name: backtest(found, judged, recipe) for name, found in dense.items()}
    tried = [name for name in ledgers if name not in recipe.controls]
    past = events_before(read_versions(lake, recipe=recipe.name), folder.path.name)
    traded = summarise_backtests(ledgers, recipe, tried=tried, earlier=len({event.version for event in past}))

    # 2. The gate.
    serving = champion_after(past)
    versus = (
        _against(serving, dense[challenger], data, recipe, judged, device, models_dir) if serving else None
    )
    verdict = decide(_evidence(folder, folds, recipe, challenger, traded, versus), recipe.gate)

    # 3. The weights that would serve, and what was found.
    deployed = _refit(
        folder, data, recipe, challenger, [metrics[f.index, challenger, 0] for f in folds], device
    )
    folder.write(
        "summary.json", make_summary(folder, folds, recipe, judged, ledgers, traded, valid_ic, challenger)
    )
    _register(lake, folder, recipe, verdict, deployed, traded[challenger], models_dir, clock)
    written = {
        "version": deployed["version"],
        "champion": serving.version if serving else None,
        "reason": _reason(verdict),
        **asdict(verdict),
    }
    folder.write("verdict.json", written)
    logger.info("night judged", night=folder.path.name, challenger=challenger, promoted=verdict.promoted)
    return dict(folder.read("verdict.json"))


def _read_metrics(
    folder: NightArtifacts, folds: list[Fold], recipe: Recipe
) -> dict[tuple[int, str, int], Any]:
    found = {}
    for fold in folds:
        for model, number in recipe.members:
            name = f"{folder.member(fold.index, model, number)}/metrics.json"
            if not folder.has(name):
                raise GateError(
                    f"night {folder.path.name} has no {name} yet",
                    hint=f"train fold {fold.index} first: tickwalk nightly goes on where it stopped",
                )
            found[fold.index, model, number] = folder.read(name)
    return found


def _evidence(
    folder: NightArtifacts,
    folds: list[Fold],
    recipe: Recipe,
    challenger: str,
    traded: dict[str, BacktestResult],
    versus: ChampionComparison | None,
) -> Evidence:
    scores = [score_all_folds(folder, folds, recipe, challenger, number) for number in range(recipe.seeds)]
    proof = folder.read("proof.json", step="build_panel")
    return Evidence(
        challenger=challenger,
        controls=recipe.controls,
        leaks=folder.read("folds.json")["leaks"],
        features_proven=proof["passed"] and proof["fingerprint"] == folder.facts["feature_fingerprint"],
        ic=scores[0].ic,
        seed_ics=tuple(score.ic.value for score in scores),
        traded=traded,
        versus=versus,
    )


def _against(
    serving: VersionEvent,
    challenger: np.ndarray,
    data: NightData,
    recipe: Recipe,
    judged: EvaluationWindow,
    device: torch.device,
    models_dir: Path,
) -> ChampionComparison:
    """Ask the champion's own deployed weights for the test steps after its cut-off."""
    expect = {
        "feature_fingerprint": data.block.fingerprint,
        "feature_names": data.block.names,
        "torch_version": str(torch.__version__),
    }
    try:
        saved = load_checkpoint(models_dir / serving.artefact, expect=expect)
        if any(
            saved.stamp["recipe"][key] != recipe.to_plain()[key] for key in ("window_bars", "width", "label")
        ):
            raise CheckpointError("it was trained on other windows, bars or labels")
        shared = make_fold_context(data, Normaliser.from_plain(saved.normaliser), recipe, device)
        champion = load_model(shared, saved)
    except CheckpointError as error:
        return ChampionComparison(serving.version, 0, math.nan, math.nan, obstacle=error.message)
    steps = slice(judged.first, judged.stop)
    unseen = data.labels.ts_decided_ns[steps] >= serving.inputs["cutoff_ns"]
    asked = torch.zeros_like(data.labels.decidable)
    asked[:, steps] = data.labels.decidable[:, steps] & torch.from_numpy(unseen)
    found = predict_rows(champion, torch.nonzero(asked.flatten()).squeeze(-1), data)
    dense = to_dense([found], judged)
    return compare_with_champion(dense, challenger, judged, recipe, version=serving.version, unseen=unseen)


def _refit(
    folder: NightArtifacts,
    data: NightData,
    recipe: Recipe,
    challenger: str,
    metrics: list[Any],
    device: torch.device,
) -> dict[str, Any]:
    nothing = np.zeros(data.panel.n_steps, dtype=bool)
    rows = fold_rows(data, SplitRows(~nothing, nothing, nothing, nothing, nothing), recipe)
    shared = make_fold_context(data, fit_normaliser(data, rows.seen), recipe, device)
    budget = round(median(entry["budget"] for entry in metrics))
    stamp = folder.stamp(
        model=challenger,
        fold=-1,
        seed=derive_seed(folder.facts["seed"], challenger, "deploy"),
        feature_names=data.block.names,
        device=device.type,
    )
    fit_model(shared, rows.train, None, stamp, recipe.fit, folder=folder.path / "deploy", budget=budget)
    last = int((rows.train % data.panel.n_steps).max())
    deployed = {
        "version": f"{challenger}-{folder.path.name}",
        "model": challenger,
        "budget": budget,
        "rows": len(rows.train),
        "cutoff_ns": int(data.labels.ts_span_end_ns[last]),
    }
    folder.write("deploy.json", deployed)
    return deployed


def _register(
    lake: Lake,
    folder: NightArtifacts,
    recipe: Recipe,
    verdict: GateDecision,
    deployed: dict[str, Any],
    traded: BacktestResult,
    models_dir: Path,
    clock: TimeSource,
) -> None:
    facts, now_ns = folder.facts, clock.now_ns()
    kept = (
        "snapshot",
        "content_hash",
        "funding_hash",
        "fee_hash",
        "feature_fingerprint",
        "code",
        "training_code",
        "lock",
        "torch_version",
    )
    registered = VersionEvent(
        version=deployed["version"],
        event="registered",
        recipe=recipe.name,
        model=verdict.challenger,
        night=folder.path.name,
        reason="best by validation",
        metrics={"traded": asdict(traded), "rules": {rule.name: rule.passed for rule in verdict.rules}},
        inputs={name: facts[name] for name in kept}
        | training_facts(folder)
        | {"cutoff_ns": deployed["cutoff_ns"]},
        artefact=str((folder.path / "deploy").relative_to(models_dir)),
        ts_knowable_ns=now_ns,
    )
    judged = VersionEvent(
        **asdict(registered)
        | {"event": "champion" if verdict.promoted else "rejected", "reason": _reason(verdict)}
    )
    append_events(lake, [registered, judged], batch_id=f"versions-{folder.path.name}")


def _reason(verdict: GateDecision) -> str:
    failed = [rule.name for rule in verdict.rules if not rule.passed]
    return f"failed: {', '.join(failed)}" if failed else f"all {len(verdict.rules)} rules hold"


def _number(value: float | None) -> float:
    return math.nan if value is None else value
