"""End of a night: the evidence, the gate's decision, the refit of the challenger, and the registry's events.

The deployed weights follow one rule: the challenger is trained again, with the seed of its first fit, on every
labelled row up to the cut-off, for the median of the epochs (or rounds) that validation chose in the folds.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from storage.clock import TimeSource
from storage.errors import CheckpointError, GateError, SettingsError
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
from training.models.estimators import FittedModel, fit_model, load_model
from training.night.artifacts import NightArtifacts, NightData
from training.night.fold_training import fit_normaliser, fold_rows, predict_rows
from training.night.market_data import make_market
from training.night.preparation import training_facts
from training.night.registry import VersionEvent, append_events, champion_after, events_before, read_versions
from training.night.scoring import (
    EvaluationWindow,
    backtest,
    compare_with_champion,
    evaluation_window,
    make_fold_context,
    make_summary,
    score_all_folds,
    summarise_backtests,
    to_dense,
)
from training.recipe import Recipe

logger = get_logger(__name__)

_COMPARABLE: Final = ("window_bars", "width", "label")
"""Keys of the recipe in which a champion must agree with the night."""
_OTHER: Final = {
    "feature_names": "it was trained with other features",
    "feature_fingerprint": "it was trained with other code of its features",
    "torch_version": "it was trained with another version of torch",
}
"""Fields of the stamp in which a champion must agree with the night, with the description of a difference."""
_REGISTERED: Final = (
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
"""Keys of `night.json` that the registry keeps of a version."""


def finish_night(
    folder: NightArtifacts,
    folds: list[Fold],
    lake: Lake,
    device: torch.device,
    *,
    models_dir: Path,
    clock: TimeSource,
) -> dict[str, Any]:
    """Apply the gate to a night whose folds are all trained, and write `deploy/`, `summary.json` and `verdict.json`.

    The registry's events are committed just before `verdict.json`, which marks the night as done.
    """
    data, recipe = folder.read_data(), folder.recipe
    metrics = _read_metrics(folder, folds, recipe)
    valid_ic = {
        name: [_number(metrics[fold.index, name, 0]["valid"]["ic"]["value"]) for fold in folds]
        for name in recipe.challengers
    }
    challenger = choose_challenger(valid_ic)

    # 1. Backtests of every model and seed over the tests.
    market = make_market(data, recipe, folder.fees, grace_ns=folder.facts["grace_ms"] * 1_000_000)
    window = evaluation_window(market, folds, data.labels.ts_decided_ns)
    dense = {
        folder.model_name(*fit): to_dense(
            [folder.read_predictions(folder.model_path(fold.index, *fit)) for fold in folds], window
        )
        for fit in recipe.model_seeds
    }
    ledgers = {name: backtest(prediction, window, recipe) for name, prediction in dense.items()}
    candidates = [name for name in ledgers if name not in recipe.controls]
    past = events_before(read_versions(lake, recipe=recipe.name), folder.path.name)
    backtests = summarise_backtests(
        ledgers, recipe, candidates=candidates, earlier_trials=len({event.version for event in past})
    )

    # 2. The gate.
    serving = champion_after(past)
    comparison = (
        _compare(serving, dense[challenger], data, recipe, window, device, models_dir) if serving else None
    )
    decision = decide(_evidence(folder, folds, recipe, challenger, backtests, comparison), recipe.gate)

    # 3. The deployable weights, and the results.
    deployed = _refit(
        folder, data, recipe, challenger, [metrics[f.index, challenger, 0] for f in folds], device
    )
    folder.write(
        "summary.json",
        make_summary(folder, folds, recipe, window, ledgers, backtests, valid_ic, challenger, comparison),
    )
    _register(lake, folder, recipe, decision, deployed, backtests[challenger], models_dir, clock)
    verdict = {
        "version": deployed["version"],
        "champion": serving.version if serving else None,
        "champion_obstacle": comparison.obstacle if comparison else "",
        "reason": _reason(decision),
        **asdict(decision),
    }
    folder.write("verdict.json", verdict)
    logger.info("night judged", night=folder.path.name, challenger=challenger, promoted=decision.promoted)
    return dict(folder.read("verdict.json"))


def _read_metrics(
    folder: NightArtifacts, folds: list[Fold], recipe: Recipe
) -> dict[tuple[int, str, int], Any]:
    found = {}
    for fold in folds:
        for model, number in recipe.model_seeds:
            name = f"{folder.model_path(fold.index, model, number)}/metrics.json"
            if not folder.has(name):
                raise GateError(
                    f"night {folder.path.name} has no {name} yet",
                    hint=f"train fold {fold.index} first: tickwalk nightly continues where it stopped",
                )
            found[fold.index, model, number] = folder.read(name)
    return found


def _evidence(
    folder: NightArtifacts,
    folds: list[Fold],
    recipe: Recipe,
    challenger: str,
    backtests: dict[str, BacktestResult],
    comparison: ChampionComparison | None,
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
        backtests=backtests,
        champion=comparison,
    )


def _compare(
    serving: VersionEvent,
    challenger: np.ndarray,
    data: NightData,
    recipe: Recipe,
    window: EvaluationWindow,
    device: torch.device,
    models_dir: Path,
) -> ChampionComparison:
    """Compare the challenger with the champion's deployed weights on the test steps after the champion's cut-off."""
    path = models_dir / serving.artefact
    try:
        champion = _load_champion(path, data, recipe, device)
    except (CheckpointError, SettingsError) as error:
        # Relative paths, so that the files of a night do not depend on the location of its home.
        obstacle = _OTHER.get(str(error.facts.get("field")), error.message).replace(
            str(path), serving.artefact
        )
        logger.warning("champion not evaluated", version=serving.version, reason=obstacle)
        is_damaged = isinstance(error, CheckpointError) and "field" not in error.facts
        return ChampionComparison(
            serving.version, 0, math.nan, math.nan, obstacle=obstacle, is_damaged=is_damaged
        )
    steps = slice(window.first, window.stop)
    unseen = data.labels.ts_decided_ns[steps] >= serving.inputs["cutoff_ns"]
    rows = torch.zeros_like(data.labels.decidable)
    rows[:, steps] = data.labels.decidable[:, steps] & torch.from_numpy(unseen)
    predictions = predict_rows(champion, torch.nonzero(rows.flatten()).squeeze(-1), data)
    dense = to_dense([predictions], window)
    return compare_with_champion(dense, challenger, window, recipe, version=serving.version, unseen=unseen)


def _load_champion(path: Path, data: NightData, recipe: Recipe, device: torch.device) -> FittedModel:
    """Load a champion's deployed weights for evaluation on a night's data.

    Raises:
        CheckpointError: its files are gone or damaged, or it has other features, windows, labels, code or torch.
        SettingsError: this release has no such model.
    """
    expect = {
        "feature_names": data.block.names,
        "feature_fingerprint": data.block.fingerprint,
        "torch_version": str(torch.__version__),
    }
    saved = load_checkpoint(path, expect=expect)
    plain = recipe.to_plain()
    if differing := [key for key in _COMPARABLE if saved.stamp["recipe"].get(key) != plain[key]]:
        raise CheckpointError(f"it was trained with another {' and '.join(differing)}", field="recipe")
    context = make_fold_context(data, Normaliser.from_plain(saved.normaliser), recipe, device)
    return load_model(context, saved)


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
    context = make_fold_context(data, fit_normaliser(data, rows.seen), recipe, device)
    budget = round(median(entry["budget"] for entry in metrics))
    stamp = folder.stamp(
        model=challenger,
        fold=-1,
        seed=derive_seed(folder.facts["seed"], challenger, "deploy"),
        feature_names=data.block.names,
        device=device.type,
    )
    fit_model(context, rows.train, None, stamp, recipe.fit, folder=folder.path / "deploy", budget=budget)
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
    decision: GateDecision,
    deployed: dict[str, Any],
    result: BacktestResult,
    models_dir: Path,
    clock: TimeSource,
) -> None:
    facts, now_ns = folder.facts, clock.now_ns()
    registered = VersionEvent(
        version=deployed["version"],
        event="registered",
        recipe=recipe.name,
        model=decision.challenger,
        night=folder.path.name,
        reason="best by validation",
        metrics={"traded": asdict(result), "rules": {rule.name: rule.passed for rule in decision.rules}},
        inputs={name: facts[name] for name in _REGISTERED}
        | training_facts(folder)
        | {"cutoff_ns": deployed["cutoff_ns"]},
        artefact=str((folder.path / "deploy").relative_to(models_dir)),
        ts_knowable_ns=now_ns,
    )
    decided = VersionEvent(
        **asdict(registered)
        | {"event": "champion" if decision.promoted else "rejected", "reason": _reason(decision)}
    )
    append_events(lake, [registered, decided], batch_id=f"versions-{folder.path.name}")


def _reason(decision: GateDecision) -> str:
    failed = [rule.name for rule in decision.rules if not rule.passed]
    return f"failed: {', '.join(failed)}" if failed else f"all {len(decision.rules)} rules hold"


def _number(value: float | None) -> float:
    return math.nan if value is None else value
