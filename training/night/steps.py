"""The steps of one retraining night, and the files that they write.

Each step takes the night's id, reads and writes the night's folder, and may run again, in another process or after a
crash: finished work is kept, and interrupted work continues. The night's id is a hash of the recipe, the pinned rows,
the features, the seed, the code of `training`, and the device, hardware and threads that it is computed with, so one
night cannot give two results. Later steps use that device and that number of threads, whatever the settings say then.

The folder `models/nights/<night>/`:

    night.json              night, recipe, since_ns, until_ns, instruments, snapshot, rows, content_hash,
                            lessons_hash (null: the served rows teach), funding_hash, fee_hash, fees (role, tier, rows
                            in force), feature_set, feature_names, feature_fingerprint, seed, grace_ms, training_code,
                            project_code (hash by model of the user's project), code, lock, torch_version, device,
                            hardware, threads (training.models.device.compute_identity),
                            stacking (training.night.stacking); of a judgement also
                            predictions, a hash of their rows (training.night.outside_judgement has its other files)
    holdout.json            only where a range was sealed as the night was opened: withheld: [[start_ns, stop_ns]], cut:
                            that at which the night ends, or null (training.night.readable_range)
    panel.safetensors       the panel (features.store.serialization.read_panel)
    features.safetensors    the feature block (features.store.serialization.read_block)
    labels.safetensors      label mask basis scale decidable past, (S, T); ts_*_ns, (T,); funding_paid if known
    lessons-*.safetensors   features and labels of the rows that teach, where those are `available`
    panel.json              steps, instruments, rows (labelled), status (counts by status), basis (labels of mid and
                            of print), valid_share (by feature), funding_share (of instrument-hours; null: none),
                            lesson_rows (labelled rows that may teach)
    edition.json            the code of the features (features.versioning.set_diff), for `tickwalk features diff`
    proof.json              passed, and what features.leakage.perturbation and features.leakage.point_in_time compared;
                            lessons_hindsight: the latter for `available` rows
    leak-<feature>.parquet  of a failed proof: the smallest input that shows it (features.leakage.smallest_input)
    health.json             coverage, nulls, drift by feature and instrument, and findings of the limits
                            (features.monitoring.health);
                            trained_since_ns, trained_until_ns: the reference window of the drift; champion: the
                            version that was trained on it ("": none, the reference is the rest of the range)
    input_audit.json        instruments, late_bars, labels: how many were compared (training.night.input_audit)
    folds.json              folds: [{index, train, valid, test: [start_ns, stop_ns], embargo_ns, rows: {train, valid,
                            test, purged, embargoed}, leaks: {label, embargo, shared}}], leaks (total), drawing (text)
    leak_suite.json         passed, reason, is_decided, folds, rows, level, most_extra, shuffled: {ic, true_ic, kept,
                            mean, limit, passed}, shifts: [{bars, over, prices, features, extra, low, blocks,
                            is_finding}], planted: {the same, is_caught} (training.night.leak_suite)
    fold-XX/<fit>/          one fit: `model`, or `model+1` for its second seed; links to `models/fits/<id>/`, which
                            nights share (training.night.fit_store):
        manifest.json, weights-*.safetensors, state-*.pt     the checkpoint (training.models.checkpoint)
        predictions.safetensors     instrument (place in the list of the file's metadata), ts_open_ns, prediction, label
                                    (NaN: not observed); test rows
        validation.safetensors      the same for all rows of the valid window on which a live system would have decided
        metrics.json                model, number, tested_ns (the test), seed, parameters, budget (best
                                    validation point, or rounds), history: [{epoch, train_loss, valid_loss,
                                    best_epoch}], one a validation point, rows: {train (of one epoch), valid, test},
                                    valid and test: {rows, ic, rank_ic: {value, low, high}, r2, hit_rate}
        fit.json                    fit (its id), files: {name: sha256}
    fit_audit.json          normalisers, predictions, losses, ridges, choices: how many were compared
                            (training.night.fit_audit)
    deploy/                 checkpoint of the challenger's refit on all rows up to the cut-off
    deploy.json             version, model, budget, rows, cutoff_ns (end of the last label that it was trained on),
                            agreement (with the folds' models, training.models.fit_health; null: neither has an opinion)
    verdict.json            version, challenger, state (champion, paper, rejected), promoted, rules: [{name, passed,
                            value, limit, reason}], reason, champion (the version that served before, or null),
                            champion_lineage, champion_obstacle (why it cannot be evaluated and so counts as none, or
                            ""), comparison (with its weights), lineage: {name, definition}, false_promotions, evidence:
                            [{null, k, alpha, p_value, start, value, quoted_value, days, quoted_days, needed, history}],
                            other_limits, demotion (training.night.decision)
    summary.json            for the report: models: {name: {role, folds: [test scores], test (all folds together),
                            traded: {gross, fee, spread, impact, funding, net, fills, sharpe, deflated_sharpe}}},
                            equity: {ts_ns, net: {model: cumulated share of capital}}, valid_ic: {challenger: [by
                            fold]}, seed_ic: [of the challenger], notes (caveats); path: {by_fold, choices, last,
                            traded, period_ns, periods: {start_ns, net}, quoted_share, overfitting}; trials: {by_source,
                            may_serve}, members that the home has evaluated on these tests
                            (training.night.trial_ledger)
    tear_sheet.json         predictive power and earnings in parts (training.night.tear_sheet)
    timings/<step>.json     seconds; kept apart, since equal nights take unequal time; of a fold that was trained beside
                            others, its share of the time by the clock, and busy_s, the seconds of its own jobs
    timings/fits-XX.json    {member: {fit, is_reused, seconds}} of a fold: is_reused, another night had trained it
    timings/estimate.json   the estimate when the night was opened (training.night.time_budget.TimeEstimate)

JSON has sorted keys, and null where a figure is undefined. Nothing outside `timings/` depends on the wall clock or
on the location of the home.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from features.sets import columns_of, get_set
from features.store.panel_cache import cached_panel
from storage.clock import TimeSource, WallTime, parse_time_ns
from storage.contracts.lake_records import PINS
from storage.errors import GateError, LeakError
from storage.lake.fees import seed_fees
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.data.folds import Fold, draw_folds
from training.models.device import prepare_device
from training.models.estimators import OnEpoch
from training.night.artifacts import NightArtifacts
from training.night.fit_job import FitJob, list_jobs, night_device
from training.night.fold_training import FoldFits, train_models
from training.night.identity import name_of, night_identity, write_facts
from training.night.leak_suite import LEAK_SUITE, run_leak_suite
from training.night.outside_predictions import OUTSIDE, BarGrid, OutsidePredictions, place_rows
from training.night.pending_trials import PendingTrials
from training.night.pinned_inputs import (
    PinnedRows,
    chosen_instruments,
    read_funding,
    read_lessons,
    read_taker_fees,
)
from training.night.preparation import (
    count_data,
    describe_fold,
    describe_leaks,
    plan_night_folds,
    prepare_data,
    read_fold,
)
from training.night.promotion import finish_night
from training.night.readable_range import enforce_holdouts, enforce_on_night, write_readable
from training.night.recipe_choice import choose_recipe, forecast_folds
from training.night.runners import count_workers, make_runner
from training.night.stacked_training import train_stacks
from training.night.stacking import choose_stacking
from training.night.time_budget import ESTIMATE, keep_within
from training.recipe import get_recipe, judged_recipe

logger = get_logger(__name__)


def open_night(
    settings: Settings,
    *,
    recipe: str | None = None,
    since: str | None = None,
    until: str | None = None,
    at: int | None = None,
    outside: OutsidePredictions | None = None,
    within_s: float | None = None,
    workers: int = 1,
) -> str:
    """Pin the rows that a night reads, and return the night's id.

    Published fees that the lake lacks are written first, unless `at` names a snapshot. Without `until` a night ends
    before the first sealed holdout.

    Args:
        settings: the home, the seed and the device.
        recipe: name of a recipe, or path of a TOML file (default: see `training.night.recipe_choice.choose_recipe`).
        since, until: bounds of the bars' open, ISO 8601 in UTC (default: all bars).
        at: snapshot of the lake to read (default: the newest).
        outside: predictions that are judged in place of the recipe's challengers (training.night.outside_judgement).
        within_s: time until the next night starts; a night that would take longer has fewer seeds, if its recipe
            allows, or is refused (`training.night.time_budget`). Infinite: no limit, and `None`: no estimate either.
        workers: processes that will train at once, for the estimate.

    Raises:
        SettingsError: the recipe does not exist, none was named and not exactly one fits the lake, the night would
            not end in time, a time is not valid, or a fee is missing.
        RangeError: no bar lies in the range, or it is too short for a fold.
        InstrumentError, CaptureError: the predictions have rows of no bar of the night.
        HoldoutError: the bounds reach into a sealed holdout, or no bar lies outside of it.
    """
    device = prepare_device(settings.training.device, threads=settings.training.threads)
    bounds: dict[str, Any] = {
        "since_ns": parse_time_ns(since) if since else None,
        "until_ns": parse_time_ns(until) if until else None,
    }
    plan = get_recipe(recipe) if recipe else None
    with Lake.open(settings) as lake:
        seed_fees(lake)
        snapshot = lake.snapshot() if at is None else at
        if plan is None:
            chosen = choose_recipe(settings, lake, at=snapshot, **bounds)
            logger.info("recipe chosen", recipe=chosen.recipe, reason=chosen.reason)
            plan = get_recipe(chosen.recipe)
        if outside is not None:
            plan = judged_recipe(plan, outside.name)
        features = get_set(plan.feature_set)
        bounds |= {"at": snapshot, "grace_ns": settings.bars.grace_ns}
        readable = enforce_holdouts(lake, plan, **bounds)
        bounds |= {"since_ns": readable.since_ns, "until_ns": readable.until_ns}
        panel, content = cached_panel(
            settings.features_dir,
            lake,
            width=plan.width,
            instruments=chosen_instruments(lake, plan, **bounds),
            origins=plan.origins,
            joined=columns_of(features),
            **bounds,
        )
        fees = read_taker_fees(lake, panel, plan.costs, at=snapshot)
        first_ns, last_ns = int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1])
        with readable.named_in_errors():
            if outside is not None:
                place_rows(outside, BarGrid.of(panel, grace_ns=settings.bars.grace_ns))
            forecast_folds(first_ns, last_ns, plan, grace_ns=settings.bars.grace_ns)
        lessons = read_lessons(
            lake,
            plan,
            panel,
            features_dir=settings.features_dir,
            at=snapshot,
            grace_ns=settings.bars.grace_ns,
        )
        pinned = PinnedRows(panel, lessons, read_funding(lake, panel, at=snapshot))
        identity = night_identity(
            plan,
            pinned,
            fees,
            content=content,
            seed=settings.training.seed,
            device=device,
            stacking=choose_stacking(settings, plan, device),
            predictions=outside.content if outside else "",
        )
        estimate = None
        if within_s is not None:
            plan, estimate = keep_within(settings, plan, panel, identity, within_s=within_s, workers=workers)
            identity |= {"recipe": plan.to_plain()}
        night = name_of(plan, identity)
        folder = NightArtifacts(settings.models_dir / "nights" / night)
        if folder.has("night.json"):
            logger.info("night already open", night=night, recipe=plan.name)
            return night
        pin = {"pin": night, "snapshot": snapshot, "content": identity["content_hash"], "event": "pinned"}
        rows = PINS.rows([pin | {"ts_knowable_ns": WallTime().now_ns()}])
        lake.commit({"pins": rows}, batch_id=f"pin-{night}-{snapshot}", inputs={"snapshot": snapshot})
    write_readable(folder, readable)
    if outside is not None:
        outside.write(folder.path / OUTSIDE)
    write_facts(folder, identity, pinned, fees, settings, snapshot=snapshot)
    if estimate is not None:
        folder.write(ESTIMATE, estimate.to_plain())
        logger.info("night estimated", night=night, **estimate.described())
    logger.info("night opened", night=night, recipe=plan.name, snapshot=snapshot, steps=panel.n_steps)
    return night


def build_panel(settings: Settings, night: str) -> dict[str, Any]:
    """Build panel, features and labels, prove the features free of leaks, and return the value of `panel.json`.

    Raises:
        CheckpointError: the code has changed since the night was opened; every step with work left raises this.
        LakeError: the pinned rows differ from those that the night was opened on.
        LeakError: a feature looks ahead, or universe, revisions or labels are from the future.
        ContractError: a feature is unfit for training.
        HoldoutError: its range was sealed meanwhile; `train_fold` and `judge_night` raise this, too.
    """
    folder = NightArtifacts.find(settings, night)
    if folder.has("panel.json"):
        return dict(folder.read("panel.json"))
    folder.refuse_other_code()
    with folder.timed("build_panel"), Lake.open(settings, read_only=True) as lake:
        enforce_on_night(lake, folder)
        data = prepare_data(folder, lake, features_dir=settings.features_dir)
        folder.write_data(data)
    counts = count_data(data)
    folder.write("panel.json", counts)
    logger.info("panel built", night=night, instruments=counts["instruments"], rows=counts["rows"])
    return counts


def plan_folds(settings: Settings, night: str) -> list[int]:
    """Split the labelled range into folds, count leaked rows, run the leak suite, and return the folds' indices.

    Raises:
        RangeError: the range is too short for the recipe's folds.
        LeakError: a row is leaked, or the leak suite is broken; nothing is trained then.
    """
    return planned_folds(NightArtifacts.find(settings, night))


def planned_folds(
    folder: NightArtifacts,
    *,
    known_suite: Callable[[Sequence[Fold]], Mapping[str, Any] | None] = lambda _: None,
) -> list[int]:
    """Split the labelled range of an opened night into folds; see `plan_folds`.

    Args:
        folder: the night.
        known_suite: returns the outcome of a leak suite that holds for these folds, or `None`: it is run.
    """
    night = folder.path.name
    if not folder.has("folds.json"):
        folder.refuse_other_code()
        with folder.timed("plan_folds"):
            data, recipe = folder.read_data(), folder.recipe
            folds = plan_night_folds(data, recipe)
        entries = [describe_fold(fold, data, recipe) for fold in folds]
        leaks = sum(sum(entry["leaks"].values()) for entry in entries)
        span_ns = int(data.labels.ts_span_end_ns[0] - data.labels.ts_decided_ns[0])
        drawing = draw_folds(folds, purge_ns=span_ns)
        folder.write("folds.json", {"folds": entries, "leaks": leaks, "drawing": drawing})
        logger.info("folds planned", night=night, folds=len(folds), leaks=leaks)
    plan = folder.read("folds.json")
    if plan["leaks"]:
        raise LeakError(
            f"{plan['leaks']} leaked rows in the folds of night {night}; the count must be 0: "
            f"{describe_leaks(plan['folds'])}",
            hint=f"folds.json in {folder.path} names the fold and the kind of leak",
            check="folds",
        )
    if not folder.has(LEAK_SUITE):
        folds = [read_fold(entry) for entry in plan["folds"]]
        if (known := known_suite(folds)) is not None:
            folder.write(LEAK_SUITE, known)
            return [fold.index for fold in folds]
        night_device(folder)
        with folder.timed("leak_suite"):
            suite = run_leak_suite(folder.read_data(), folds, folder.recipe, seed=folder.facts["seed"])
            folder.write(LEAK_SUITE, suite.to_dict())
        logger.info("leak suite run", night=night, passed=not suite.reason, reason=suite.reason)
    return [int(entry["index"]) for entry in plan["folds"]]


def train_folds(settings: Settings, night: str, *, on_epoch: OnEpoch | None = None) -> None:
    """Train every fold of a night by the runner of the settings, several at once where it has several processes.

    Args:
        settings: the home, `training.runner` and `training.workers`.
        night: the night.
        on_epoch: called in this process at every validation point of a network with model, fold and log.

    Raises:
        SettingsError: no such runner, or its processes do not fit this machine.
        CheckpointError, FitError: see `train_fold`; also a `FitError` if a process died repeatedly.
    """
    folder = NightArtifacts.find(settings, night)
    facts, chosen = folder.facts, settings.training
    night_device(folder)
    with Lake.open(settings, read_only=True) as lake:
        enforce_on_night(lake, folder)
    room: dict[str, Any] = {"threads": facts["threads"], "device": facts["device"]}
    runner = make_runner(chosen.runner, chosen.workers, **room)
    jobs = list_jobs(folder, workers=count_workers(chosen.runner, chosen.workers, **room))
    busy_s: dict[int, float] = dict.fromkeys((fold for job in jobs for fold in job.folds), 0.0)

    def add_time(job: FitJob, seconds: float) -> None:
        for fold in job.folds:
            busy_s[fold] += seconds / len(job.folds)

    began_s = time.perf_counter()
    runner.run(jobs, on_epoch=on_epoch, on_done=add_time)
    share = (time.perf_counter() - began_s) / max(sum(busy_s.values()), 1e-9)
    for fold, seconds in busy_s.items():
        timing = {"seconds": round(seconds * share, 3), "busy_s": round(seconds, 3)}
        folder.write(f"timings/train_fold-{fold:02d}.json", timing)


def train_fold(
    settings: Settings, night: str, fold: int, *, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """Train every model and seed of the recipe on one fold, and return the test IC of each.

    Args:
        settings: the home and the device.
        night: the night.
        fold: index of the fold.
        on_epoch: called at every validation point of a network with model, fold and log.

    Raises:
        GateError: the night has no such fold.
        CheckpointError: the folder has checkpoints of another origin, or the night was opened on other hardware.
        FitError: the fold has rows that cannot train a model, or a fit diverged.
    """
    folder = NightArtifacts.find(settings, night)
    entries = {entry["index"]: entry for entry in folder.read("folds.json", step="plan_folds")["folds"]}
    if fold not in entries:
        raise GateError(f"night {night} has no fold {fold}", hint=f"its folds: {sorted(entries)}")
    device = night_device(folder)
    with Lake.open(settings, read_only=True) as lake:
        enforce_on_night(lake, folder)
    with folder.timed(f"train_fold-{fold:02d}"):
        fits = FoldFits(folder, read_fold(entries[fold]), folder.read_data(), device)
        train_stacks(folder, [fits], on_epoch=on_epoch)
        return train_models(fits, on_epoch=on_epoch)


def judge_night(settings: Settings, night: str, *, clock: TimeSource | None = None) -> dict[str, Any]:
    """Apply the gate, refit the challenger, register the version, and return the value of `verdict.json`.

    Args:
        settings: the home and the device.
        night: the night; all of its folds must be trained.
        clock: stamps the registry's events (default: wall clock).

    Raises:
        GateError: a fold is not trained yet.
        LeakError: a fit or a choice used other rows than its own.
        FitError: the refit diverged, or disagrees with its folds.
    """
    folder = NightArtifacts.find(settings, night)
    if folder.has("verdict.json"):
        return dict(folder.read("verdict.json"))
    device = night_device(folder)
    folds = [read_fold(entry) for entry in folder.read("folds.json", step="plan_folds")["folds"]]
    with (
        folder.timed("judge_night"),
        Lake.open(settings) as lake,
        PendingTrials(lake, night) as trials,
    ):
        enforce_on_night(lake, folder)
        return finish_night(
            folder,
            folds,
            lake,
            device,
            models_dir=settings.models_dir,
            clock=clock or WallTime(),
            false_promotions=settings.gate.false_promotions,
            trials=trials,
        )
