"""End of a night: the path of its lineage, the gate's decision, the refit, and the registry's events.

The deployed weights follow one rule: the model that is chosen after all tests is trained again, with the seed of its
first fit, on every labelled row up to the cut-off, for the median of the budgets (validation points, rounds or
shrinkage) that validation chose in the folds. It must agree with the folds' models on the folds' test rows
(training/models/fit_health.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from storage.clock import TimeSource
from storage.errors import CheckpointError, GateError, SettingsError
from storage.lake.lake import Lake
from storage.logs import get_logger
from training.data.folds import Fold
from training.data.panel import Normaliser
from training.evaluation.gate import BacktestResult, ChampionComparison, preconditions
from training.evaluation.multiple_testing import overfitting_probability
from training.models.checkpoint import load_checkpoint
from training.models.device import derive_seed
from training.models.estimators import FittedModel, FoldContext, load_model
from training.models.fit_health import check_agreement, check_predictions
from training.models.networks import network_code
from training.night.artifacts import NightArtifacts, NightData
from training.night.backtests import backtest_night
from training.night.decision import Demotion, NightDecision, decide_night, lineage_name
from training.night.fit_audit import FIT_AUDIT, audit_choices, audit_fits
from training.night.fold_training import predict_rows
from training.night.leak_suite import LEAK_SUITE
from training.night.lineage_evidence import evidence_rows
from training.night.lineage_path import LineagePath, least_block
from training.night.pending_trials import PendingTrials
from training.night.preparation import training_facts
from training.night.refit import NO_FOLD, refit
from training.night.registry import (
    EventKind,
    VersionEvent,
    append_events,
    champion_after,
    events_before,
    read_versions,
)
from training.night.scoring import (
    EvaluationWindow,
    compare_with_champion,
    make_fold_context,
    make_summary,
    summarise_backtests,
    to_dense,
)
from training.night.tear_sheet import write_tear_sheet
from training.recipe import Recipe

logger = get_logger(__name__)

PATH: Final = "path"
"""Name of the lineage's path among the backtests, and of its part of `summary.json`."""
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
    "project_code",
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
    false_promotions: float,
    trials: PendingTrials,
    paper_serves: bool = False,
) -> dict[str, Any]:
    """Apply the gate to a night whose folds are all trained, and write `deploy/`, `summary.json` and `verdict.json`.

    Its fits and choices are audited first (training/night/fit_audit.py). The registry's events, the evidence and the
    trials are committed just before `verdict.json`, which marks the night as done.

    Args:
        folder: of the night.
        folds: oldest first.
        lake: has registry and evidence; no other table is read.
        device: that the night is computed with.
        models_dir: folder that the registry's paths start from.
        clock: stamps the events.
        false_promotions: limit of the home.
        trials: gets its rows once every model has been evaluated.
        paper_serves: a version that the gate keeps on paper is registered as champion, so that it is renewed and
            demoted as one; for replays, which trade on paper.
    """
    data, recipe = folder.read_data(), folder.recipe
    metrics = _read_metrics(folder, folds, recipe)
    audit = audit_fits(folder, folds, data, recipe)
    night, width_ns = folder.path.name, data.panel.width_ns

    # 1. Backtests of every model and seed over the tests, and the path of the models chosen before each.
    made = backtest_night(folder, folds, data, recipe, lake)
    window, dense, ledgers, path = made.window, made.dense, made.ledgers, made.path
    lineage, record, period_ns = made.lineage, made.record, made.period_ns
    choices = audit_choices(
        path,
        ledgers,
        window,
        folds,
        recipe,
        earlier=made.earlier,
        width_ns=width_ns,
        period_ns=period_ns,
        seed=folder.facts["seed"],
    )
    folder.write(FIT_AUDIT, replace(audit, choices=choices).to_dict())
    logger.info("fits audited", night=night, fits=audit.normalisers, choices=choices)
    challenger = path.last.model
    candidates = [name for name in ledgers if name not in recipe.controls]
    events = read_versions(lake, recipe=recipe.name)
    past = events_before(events, night)
    tried = trials.add(folder, folds, window, dense, ledgers, events, now_ns=clock.now_ns())
    backtests = summarise_backtests(
        {**ledgers, PATH: path.ledger}, recipe, candidates=candidates, trials=tried["may_serve"]
    )

    # 2. The gate.
    serving = champion_after(past)
    comparison, serving_net = (
        compare_serving(serving, dense[challenger], data, recipe, window, device, models_dir, period_ns)
        if serving
        else (None, {})
    )
    proof = folder.read("proof.json", step="build_panel")
    decided = decide_night(
        challenger,
        lineage,
        path.net,
        path.members,
        checks=preconditions(
            leaks=folder.read("folds.json")["leaks"],
            features_proven=proof["passed"] and proof["fingerprint"] == folder.facts["feature_fingerprint"],
            leak_suite=folder.read(LEAK_SUITE, step="plan_folds")["reason"],
            champion=comparison,
        ),
        record=record,
        serving=serving,
        serving_net=serving_net,
        must_beat=comparison is not None and not comparison.obstacle,
        least_block=least_block(recipe, width_ns=width_ns, period_ns=period_ns),
        false_promotions=false_promotions,
        seed=derive_seed(folder.facts["seed"], "gate"),
    )

    # 3. The deployable weights, and the results.
    budgets = [metrics[fold.index, challenger, 0]["budget"] for fold in folds]
    deployed = _refit(folder, folds, data, recipe, challenger, budgets, device)
    valid_ic = {
        name: [_number(metrics[fold.index, name, 0]["valid"]["ic"]["value"]) for fold in folds]
        for name in recipe.challengers
    }
    summary = make_summary(
        folder, folds, recipe, window, ledgers, backtests, valid_ic, challenger, comparison
    )
    described = {PATH: describe_path(path, backtests[PATH], period_ns), "trials": tried}
    folder.write("summary.json", summary | described)
    write_tear_sheet(
        folder, folds, data, recipe, made, device, challenger=challenger, trials=tried["may_serve"]
    )
    kind: EventKind = "champion" if paper_serves and decided.gate.state == "paper" else decided.gate.state
    _register(
        lake,
        folder,
        recipe,
        decided,
        kind,
        deployed,
        backtests[PATH],
        serving,
        models_dir,
        clock,
        trials.rows,
    )
    verdict = {
        "version": deployed["version"],
        "champion": serving.version if serving else None,
        "champion_lineage": lineage_name(serving),
        "champion_obstacle": comparison.obstacle if comparison else "",
        "comparison": asdict(comparison) if comparison else None,
        **decided.to_plain(false_promotions=false_promotions),
    }
    folder.write("verdict.json", verdict)
    logger.info("night judged", night=night, challenger=challenger, state=decided.gate.state)
    return dict(folder.read("verdict.json"))


def describe_path(path: LineagePath, result: BacktestResult, period_ns: int) -> dict[str, Any]:
    """Return the part of `summary.json` about the path of the lineage."""
    return {
        "by_fold": [choice.model for choice in path.by_fold],
        "choices": [asdict(choice) for choice in path.by_fold],
        "last": asdict(path.last),
        "traded": asdict(result),
        "period_ns": period_ns,
        "periods": {"start_ns": path.net.start_ns.tolist(), "net": path.net.net.tolist()},
        "quoted_share": float(path.net.is_quoted.mean()) if len(path.net) else None,
        "overfitting": overfitting_probability(path.members),
    }


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


def compare_serving(
    serving: VersionEvent,
    challenger: np.ndarray,
    data: NightData,
    recipe: Recipe,
    window: EvaluationWindow,
    device: torch.device,
    models_dir: Path,
    period_ns: int,
) -> tuple[ChampionComparison, dict[int, float]]:
    """Compare the challenger with the champion's deployed weights on the test steps after the champion's cut-off."""
    path = models_dir / serving.artefact
    try:
        champion = load_deployed(path, data, recipe, device)
    except (CheckpointError, SettingsError) as error:
        # Relative paths, so that the files of a night do not depend on the location of its home.
        obstacle = _OTHER.get(str(error.facts.get("field")), error.message).replace(
            str(path), serving.artefact
        )
        logger.warning("champion not evaluated", version=serving.version, reason=obstacle)
        is_damaged = isinstance(error, CheckpointError) and "field" not in error.facts
        return ChampionComparison(
            serving.version, 0, math.nan, math.nan, obstacle=obstacle, is_damaged=is_damaged
        ), {}
    steps = slice(window.first, window.stop)
    unseen = data.labels.ts_decided_ns[steps] >= serving.inputs["cutoff_ns"]
    rows = torch.zeros_like(data.labels.decidable)
    rows[:, steps] = data.labels.decidable[:, steps] & torch.from_numpy(unseen)
    predictions = predict_rows(champion, torch.nonzero(rows.flatten()).squeeze(-1), data)
    dense = to_dense([predictions], window, recipe)
    return compare_with_champion(
        dense,
        challenger,
        window,
        recipe,
        version=serving.version,
        unseen=unseen,
        width_ns=data.panel.width_ns,
        period_ns=period_ns,
    )


def load_deployed(path: Path, data: NightData, recipe: Recipe, device: torch.device) -> FittedModel:
    """Load a version's deployed weights for evaluation on a night's data.

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
    if saved.stamp.get("project_code", "") != network_code(str(saved.stamp["model"])):
        raise CheckpointError("it was trained with other code of the project folder", field="project_code")
    context = make_fold_context(data, Normaliser.from_plain(saved.normaliser), recipe, device)
    return load_model(context, saved)


def _refit(
    folder: NightArtifacts,
    folds: list[Fold],
    data: NightData,
    recipe: Recipe,
    challenger: str,
    budgets: list[int],
    device: torch.device,
) -> dict[str, Any]:
    budget = round(median(budgets))
    stamp = folder.stamp(
        model=challenger,
        fold=NO_FOLD,
        seed=derive_seed(folder.facts["seed"], challenger, "deploy"),
        feature_names=data.block.names,
        device=device.type,
    )
    made = refit(data, recipe, stamp, device, budget=budget, folder=folder.path / "deploy")
    last = int((made.seen % data.panel.n_steps).max())
    deployed = {
        "version": f"{challenger}-{folder.path.name}",
        "model": challenger,
        "budget": budget,
        "rows": len(made.seen),
        "cutoff_ns": int(data.labels.ts_span_end_ns[last]),
        "agreement": _agreement(folder, folds, made.context, made.fitted, recipe, challenger),
    }
    folder.write("deploy.json", deployed)
    return deployed


def _agreement(
    folder: NightArtifacts,
    folds: list[Fold],
    context: FoldContext,
    fitted: FittedModel,
    recipe: Recipe,
    model: str,
) -> float:
    """Return the refit's agreement with the models of its folds.

    Raises:
        FitError: it disagrees, or a prediction is not finite.
    """
    tested = [folder.read_predictions(folder.model_path(fold.index, model)) for fold in folds]
    rows = [
        torch.from_numpy(part.instrument.astype(np.int64) * context.windows.n_steps + part.step)
        for part in tested
    ]
    refit = [fitted.predict(index).to(torch.float32).numpy() for index in rows]
    for index, prediction in zip(rows, refit, strict=True):
        check_predictions(context, index, prediction, model=model, fold=NO_FOLD)
    return check_agreement(
        context,
        rows,
        refit,
        [part.prediction for part in tested],
        model=model,
        learning_rate=recipe.fit.learning_rate,
        epoch=fitted.history[-1].epoch if fitted.history else 0.0,
    )


def _register(
    lake: Lake,
    folder: NightArtifacts,
    recipe: Recipe,
    decided: NightDecision,
    kind: EventKind,
    deployed: dict[str, Any],
    result: BacktestResult,
    serving: VersionEvent | None,
    models_dir: Path,
    clock: TimeSource,
    trials: dict[str, pa.Table],
) -> None:
    facts, now_ns, gate = folder.facts, clock.now_ns(), decided.gate
    registered = VersionEvent(
        version=deployed["version"],
        event="registered",
        recipe=recipe.name,
        model=gate.challenger,
        night=folder.path.name,
        reason="chosen by net on earlier windows",
        metrics={
            "traded": asdict(result),
            "rules": {rule.name: rule.passed for rule in gate.rules},
            "gate": dict(decided.kept),
        },
        inputs={name: facts[name] for name in _REGISTERED}
        | training_facts(folder)
        | {"cutoff_ns": deployed["cutoff_ns"]},
        artefact=str((folder.path / "deploy").relative_to(models_dir)),
        ts_knowable_ns=now_ns,
    )
    events = [registered, replace(registered, event=kind, reason=gate.reason)]
    if serving is not None and (demotion := decided.demotion) is not None and demotion.is_demoted:
        reason = _demotion_reason(demotion)
        demoted = replace(serving, event="paper", reason=reason, ts_knowable_ns=now_ns, who="")
        events.insert(1, demoted)
    rows = evidence_rows(decided.lineage, recipe.name, folder.path.name, now_ns, decided.collected)
    append_events(
        lake,
        events,
        batch_id=f"versions-{folder.path.name}",
        expected=serving.version if serving else None,
        further=rows | trials,
    )


def _demotion_reason(demotion: Demotion) -> str:
    return (
        f"demoted after {demotion.days} days: its CUSUM is {demotion.statistic:.2f}, above "
        f"{demotion.threshold:.2f} for a daily Sharpe ratio of {demotion.daily_sharpe:.2f}"
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
