"""Judgement of predictions that were made elsewhere, in the place of a night's challengers.

A judgement is a night whose challenger is a file: the rows are pinned, features are built and proven, folds planned,
and the recipe's controls trained as in any night (training/night/steps.py). The file is then matched to the test rows,
checked for leaks, and judged by the same backtest, costs and gate. It differs in three points:

- There is nothing to choose: the path of the lineage is that of the predictions. A comparison with ridge, by the rule
  of choices, is reported.
- The lineage is that of the recipe and the name of the predictions.
- Without weights nothing can serve: no version is registered, and the best state is `paper`.

Further files of a judgement:

    outside.safetensors     the rows of the file (training.night.outside_predictions)
    predictions.json        name, unit (`label` or `return`), counts (training.night.outside_predictions.match_folds),
                            folds: [{index, test, test_rows, valid}], checks: [{name, passed, value, limit, reason}],
                            skill: [{bar, correlation, beyond, edge}], judged_ns: [start, end of the days that count]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import torch

from storage.clock import TimeSource, WallTime
from storage.contracts.tables import STATUSES
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.data.folds import Fold, draw_folds
from training.data.labels import delay_bars, prices_at_close
from training.evaluation.gate import GateDecision, GateRule, preconditions
from training.evaluation.period_net import PeriodNet
from training.evaluation.selection import NEVER_SERVE, ModelChoice, choose
from training.models.checkpoint import write_json
from training.models.device import derive_seed
from training.night.artifacts import (
    TEST_PREDICTIONS,
    VALID_PREDICTIONS,
    NightArtifacts,
    NightData,
    write_predictions,
)
from training.night.backtests import NightBacktests, backtest_night
from training.night.decision import NightDecision, decide_night, lineage_name
from training.night.fit_audit import FIT_AUDIT, audit_fits
from training.night.fit_job import night_device
from training.night.leak_suite import LEAK_SUITE
from training.night.lineage_evidence import evidence_rows
from training.night.lineage_path import least_block
from training.night.night_list import JUDGED
from training.night.outside_leaks import PredictionMarket, check_leaks
from training.night.outside_predictions import (
    OUTSIDE,
    BarGrid,
    FoldPredictions,
    OutsidePredictions,
    all_opinions,
    match_folds,
)
from training.night.pending_trials import PendingTrials
from training.night.pinned_inputs import panel_loader, pinned_at
from training.night.preparation import read_fold
from training.night.promotion import PATH, compare_serving, describe_path
from training.night.readable_range import enforce_on_night
from training.night.registry import champion_after, read_versions
from training.night.scoring import make_summary, score_folds, summarise_backtests
from training.night.steps import plan_folds
from training.night.tear_sheet import write_tear_sheet

logger = get_logger(__name__)

PREDICTIONS: Final = "predictions.json"
_NO_SERVICE: Final = "predictions without weights serve nothing"
_OBSERVED: Final = tuple(STATUSES.index(name) for name in ("printed", "quiet"))
# Longer than any history, so that every revision counts.
_EVER_NS: Final = 1 << 61


def match_predictions(settings: Settings, night: str) -> list[int]:
    """Match the file to the folds, check it for leaks, write its scores, and return the indices of the judged folds.

    Folds before the first opinion and after the last are left out of `folds.json`.

    Raises:
        InstrumentError, CaptureError, RangeError: the rows of the file do not fit the night.
        HoldoutError: its range was sealed meanwhile; `judge_predictions` raises this, too.
    """
    plan_folds(settings, night)
    folder = NightArtifacts.find(settings, night)
    plan = folder.read("folds.json")
    if folder.has(PREDICTIONS):
        return [int(entry["index"]) for entry in plan["folds"]]
    folder.refuse_other_code()
    outside, data, recipe = _read_outside(folder), folder.read_data(), folder.recipe
    grace_ns = folder.facts["grace_ms"] * 1_000_000
    with folder.timed("match_predictions"):
        folds = [read_fold(entry) for entry in plan["folds"]]
        parts, counts = match_folds(outside, data, folds, recipe, grace_ns=grace_ns)
        for part in parts:
            _write_member(folder, part, data)
        with Lake.open(settings, read_only=True) as lake:
            enforce_on_night(lake, folder)
            market = _prediction_market(folder, data, lake, grace_ns=grace_ns)
        opinions = all_opinions(outside, BarGrid.of(data.panel, grace_ns=grace_ns))
        checks, skill = check_leaks([part.test for part in parts], [opinions], market)
    kept = {part.fold.index for part in parts}
    entries = [entry for entry in plan["folds"] if entry["index"] in kept]
    span_ns = int(data.labels.ts_span_end_ns[0] - data.labels.ts_decided_ns[0])
    drawing = draw_folds([part.fold for part in parts], purge_ns=span_ns)
    folder.write("folds.json", plan | {"folds": entries, "drawing": drawing})
    folder.write(
        PREDICTIONS,
        {
            "name": outside.name,
            "unit": "return" if outside.is_return else "label",
            "counts": counts,
            "folds": [
                {
                    "index": part.fold.index,
                    "test": len(part.test.step),
                    "test_rows": part.test_rows,
                    "valid": len(part.valid.step),
                }
                for part in parts
            ],
            "checks": [asdict(rule) for rule in checks],
            "skill": [asdict(item) for item in skill],
            "judged_ns": judged_span(parts, data),
            "deviation": float(np.concatenate([part.test.prediction for part in parts]).std()),
        },
    )
    logger.info("predictions matched", night=night, predictions=outside.name, rows=counts["test"])
    return sorted(kept)


def judge_predictions(settings: Settings, night: str, *, clock: TimeSource | None = None) -> dict[str, Any]:
    """Apply the gate to the predictions, add their evidence and trial, and return the value of `verdict.json`.

    Raises:
        LeakError: a fit of a control used other rows than its own.
        GateError: a fold is not trained yet, or another judgement or night has just taken the lineage's number.
    """
    folder = NightArtifacts.find(settings, night)
    if folder.has("verdict.json"):
        return dict(folder.read("verdict.json"))
    device = night_device(folder)
    folder.read(PREDICTIONS, step="match_predictions")
    folds = [read_fold(entry) for entry in folder.read("folds.json")["folds"]]
    with (
        folder.timed("judge_night"),
        Lake.open(settings) as lake,
        PendingTrials(lake, night, "judge") as trials,
    ):
        enforce_on_night(lake, folder)
        return _judge(folder, folds, lake, device, settings, clock or WallTime(), trials)


def _judge(
    folder: NightArtifacts,
    folds: list[Fold],
    lake: Lake,
    device: torch.device,
    settings: Settings,
    clock: TimeSource,
    trials: PendingTrials,
) -> dict[str, Any]:
    data, recipe, found = folder.read_data(), folder.recipe, folder.read(PREDICTIONS)
    name, width_ns = recipe.predictions, data.panel.width_ns
    folder.write(FIT_AUDIT, audit_fits(folder, folds, data, recipe).to_dict())

    # 1. The path is that of the predictions, over the days that they cover.
    made = backtest_night(folder, folds, data, recipe, lake, order=(name,))
    net, members = _within(made, found["judged_ns"])
    past = read_versions(lake, recipe=recipe.name)
    now_ns = clock.now_ns()
    tried = trials.add(folder, folds, made.window, made.dense, made.ledgers, (), now_ns=now_ns)
    backtests = summarise_backtests(
        {**made.ledgers, PATH: made.path.ledger}, recipe, candidates=[name], trials=tried["may_serve"]
    )

    # 2. The gate.
    serving = champion_after(past)
    comparison, serving_net = (
        compare_serving(
            serving, made.dense[name], data, recipe, made.window, device, settings.models_dir, made.period_ns
        )
        if serving
        else (None, {})
    )
    proof = folder.read("proof.json")
    checks = preconditions(
        leaks=folder.read("folds.json")["leaks"],
        features_proven=proof["passed"] and proof["fingerprint"] == folder.facts["feature_fingerprint"],
        leak_suite=folder.read(LEAK_SUITE, step="plan_folds")["reason"],
        champion=comparison,
    )
    block = least_block(recipe, width_ns=width_ns, period_ns=made.period_ns)
    decided = without_service(
        decide_night(
            name,
            made.lineage,
            net,
            members,
            checks=(*checks, *_rules(found["checks"])),
            record=made.record,
            serving=serving,
            serving_net=serving_net,
            must_beat=comparison is not None and not comparison.obstacle,
            least_block=block,
            false_promotions=settings.gate.false_promotions,
            seed=derive_seed(folder.facts["seed"], "gate"),
        )
    )

    # 3. The results, and the rows of the lake.
    path = replace(made.path, net=net, members=members, last=_against_ridge(made, members, folder, block))
    valid_ic = {name: [_valid_ic(folder, fold, name) for fold in folds]}
    summary = make_summary(
        folder, folds, recipe, made.window, made.ledgers, backtests, valid_ic, name, comparison
    )
    described = {PATH: describe_path(path, backtests[PATH], made.period_ns), "trials": tried}
    folder.write("summary.json", summary | described)
    write_tear_sheet(
        folder,
        folds,
        data,
        recipe,
        replace(made, path=path),
        device,
        challenger=name,
        trials=tried["may_serve"],
    )
    _commit(folder, lake, decided, trials.rows, now_ns=now_ns)
    folder.write(
        "verdict.json",
        {
            "version": None,
            "champion": serving.version if serving else None,
            "champion_lineage": lineage_name(serving),
            "champion_obstacle": comparison.obstacle if comparison else "",
            "comparison": asdict(comparison) if comparison else None,
            **decided.to_plain(false_promotions=settings.gate.false_promotions),
        },
    )
    logger.info("predictions judged", night=folder.path.name, predictions=name, state=decided.gate.state)
    return dict(folder.read("verdict.json"))


def _read_outside(folder: NightArtifacts) -> OutsidePredictions:
    """Return the rows of the file.

    Raises:
        GateError: the night is no judgement.
    """
    if not folder.has(OUTSIDE):
        raise GateError(
            f"night {folder.path.name} has no {OUTSIDE}",
            hint="judge a file: tickwalk judge FILE --recipe NAME",
        )
    return OutsidePredictions.read(folder.path / OUTSIDE)


def _write_member(folder: NightArtifacts, part: FoldPredictions, data: NightData) -> None:
    """Write predictions and scores of a fold, as a fit of a model would."""
    recipe, fold = folder.recipe, part.fold
    name, target = recipe.predictions, folder.path / folder.model_path(fold.index, recipe.predictions)
    target.mkdir(parents=True, exist_ok=True)
    write_predictions(target / TEST_PREDICTIONS, part.test, data.panel)
    write_predictions(target / VALID_PREDICTIONS, part.valid, data.panel)
    seed = derive_seed(folder.facts["seed"], name, fold.test.start_ns, 0)
    write_json(
        target / "metrics.json",
        {
            "model": name,
            "number": 0,
            "tested_ns": [fold.test.start_ns, fold.test.stop_ns],
            "seed": seed,
            "parameters": 0,
            "budget": 0,
            "history": [],
            "rows": {"train": part.train_rows, "valid": part.valid_rows, "test": len(part.test.step)},
            "valid": asdict(score_folds([part.valid], recipe, seed=seed)),
            "test": asdict(score_folds([part.test], recipe, seed=seed)),
        },
    )


def _prediction_market(
    folder: NightArtifacts, data: NightData, lake: Lake, *, grace_ns: int
) -> PredictionMarket:
    """Return prices as known at each decision, and as known at the night's snapshot with every revision."""
    facts, label = folder.facts, folder.recipe.label
    load = panel_loader(folder, pinned_at(lake, facts))
    revised = load(
        lake, since_ns=facts["since_ns"], instruments=list(data.panel.instruments), grace_ns=_EVER_NS
    ).reindexed(data.panel.instruments)
    observed = np.isin(data.panel.status.numpy(), _OBSERVED) | np.isin(revised.status.numpy(), _OBSERVED)
    return PredictionMarket(
        price=prices_at_close(data.panel).price.numpy(),
        revised=prices_at_close(revised).price.numpy(),
        scale=data.labels.scale.numpy(),
        could_know=np.maximum.accumulate(observed, axis=1),
        delay_bars=delay_bars(data.panel.width_ns, grace_ns=grace_ns, delay_ms=label.delay_ms),
        horizon_bars=label.horizon_bars,
    )


def judged_span(parts: Sequence[FoldPredictions], data: NightData) -> list[int]:
    """Return the time in which every decision could have an opinion of the file, start and end in ns.

    Days that begin before it or end after it are no evidence: the file has not begun, or has ended.
    """
    panel = data.panel
    steps = np.concatenate([part.steps for part in parts])
    opinions = np.concatenate([part.test.step for part in parts])
    before, after = steps[steps < opinions.min()], steps[steps > opinions.max()]
    start_ns = panel.ts_close_ns[before.max()] if len(before) else 0
    stop_ns = panel.ts_open_ns[after.min()] if len(after) else np.iinfo(np.int64).max
    return [int(start_ns), int(stop_ns)]


def _within(made: NightBacktests, span_ns: Sequence[int]) -> tuple[PeriodNet, np.ndarray]:
    """Return the days of a path, and of its members, that lie within a time."""
    net = made.path.net
    kept = (net.start_ns >= span_ns[0]) & (net.start_ns + net.period_ns <= span_ns[1])
    arrays = ("start_ns", "net", "volatility", "worst_loss", "is_quoted")
    return replace(net, **{name: getattr(net, name)[kept] for name in arrays}), made.path.members[kept]


def _rules(checks: Sequence[dict[str, Any]]) -> list[GateRule]:
    """Return the outcomes of leak checks as conditions of the gate; null stands for NaN."""
    return [
        GateRule(**item | {name: np.nan if item[name] is None else item[name] for name in ("value", "limit")})
        for item in checks
    ]


def without_service(decided: NightDecision) -> NightDecision:
    """Return a decision in which nothing serves, and no champion is demoted."""
    gate = decided.gate
    if gate.state == "champion":
        gate = GateDecision(gate.challenger, "paper", gate.rules, f"{gate.reason}; {_NO_SERVICE}")
    return replace(decided, gate=gate, demotion=None)


def _against_ridge(
    made: NightBacktests, members: np.ndarray, folder: NightArtifacts, block: int
) -> ModelChoice:
    """Return the predictions with their comparisons by the rule of choices, which decide nothing here."""
    recipe = folder.recipe
    names = [name for name in made.ledgers if name not in NEVER_SERVE]
    compared = choose(
        dict(zip(names, members.T, strict=True)),
        order=recipe.models,
        least_block=block,
        seed=derive_seed(folder.facts["seed"], "choice"),
    )
    return ModelChoice(recipe.predictions, compared.comparisons)


def _valid_ic(folder: NightArtifacts, fold: Fold, name: str) -> float:
    value = folder.read(f"{folder.model_path(fold.index, name)}/metrics.json")["valid"]["ic"]["value"]
    return np.nan if value is None else float(value)


def _commit(
    folder: NightArtifacts,
    lake: Lake,
    decided: NightDecision,
    trials: Mapping[str, pa.Table],
    *,
    now_ns: int,
) -> None:
    """Add the evidence of the lineage and the trial in one commit; a second one adds nothing."""
    recipe, night = folder.recipe, folder.path.name
    starts = [item.start.k for item in decided.collected if item.start is not None]

    def check(run: duckdb.DuckDBPyConnection) -> None:
        for k in starts:
            taken = run.execute(
                "SELECT lineage FROM lineages WHERE k = ? AND lineage <> ?", [k, decided.lineage.name]
            ).fetchone()
            if taken is not None:
                raise GateError(
                    f"lineage {taken[0]} has just taken number {k}, with which {recipe.predictions} was judged",
                    hint="judge the file again; no evidence was written",
                )

    lake.commit(
        evidence_rows(decided.lineage, recipe.name, night, now_ns, decided.collected) | dict(trials),
        batch_id=f"{JUDGED}{night}",
        inputs={"night": night, "predictions": folder.facts["predictions"]},
        check=check,
    )
