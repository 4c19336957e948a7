"""What are the steps of one retraining night?

Each step is named by its night, reads and writes the night's folder, and may be run again, in another process or
after a crash: what is done is kept, what was cut short goes on. The night's id is a hash of the recipe, the rows,
the features, the seed and this room's code; so the same night cannot give two results.

The folder `models/nights/<night>/`:

    night.json              night, recipe, since_ns, until_ns, instruments, snapshot, content_hash, funding_hash,
                            fee_hash, fees (role, tier, rows in force), feature_set, feature_names,
                            feature_fingerprint, seed, grace_ms, training_code, code, lock, torch_version, device
    panel.safetensors       the panel (features.store.serialization.read_panel)
    features.safetensors    the block (features.store.serialization.read_block)
    labels.safetensors      label mask basis scale decidable past, (S, T); ts_*_ns, (T,); funding_paid where known
    panel.json              steps, instruments, rows (labelled), status (counts by status), basis (labels of mid and
                            of print), valid_share (by feature), funding_share (of instrument-hours; null: none)
    edition.json            what the features' code said (features.versioning.set_diff), for `tickwalk features diff`
    proof.json              passed, and what features.leakage.perturbation and features.leakage.point_in_time compared
    health.json             coverage, nulls, drift by feature and instrument, and what the limits say
    (features.monitoring.health);
                            trained_since_ns, trained_until_ns: what the newest share is compared with; champion: the
                            version that learned from that ("": none, it is the rest of the range)
    folds.json              folds: [{index, train, valid, test: [start_ns, stop_ns], embargo_ns, rows: {train, valid,
                            test, purged, embargoed}, leaks: {label, embargo, shared}}], leaks (total), drawing (text)
    fold-XX/<member>/       a member is a model, or `model+1` for its second seed:
        manifest.json, weights-*.safetensors, state-*.pt     the checkpoint (training.models.checkpoint)
        predictions.safetensors     instrument, step (int32), prediction, label (float32, NaN: not observed); test rows
        metrics.json                model, number, fold, seed, role, parameters, budget (best epoch, or rounds),
                                    history: [{epoch, train_loss, valid_loss, best_epoch}], rows: {train, valid, test},
                                    valid and test: {rows, ic, rank_ic: {value, low, high}, r2, hit_rate}
    deploy/                 checkpoint of the challenger's refit on everything up to the cut-off
    deploy.json             version, model, budget, rows, cutoff_ns (end of the last label it learnt from)
    verdict.json            version, challenger, promoted, rules: [{name, passed, value, limit, reason}], champion
                            (what served before this night, or null), reason
    summary.json            for the report: models: {name: {role, folds: [test figures], test (all folds together),
                            traded: {gross, fee, spread, impact, funding, net, fills, sharpe, deflated_sharpe}}},
                            equity: {ts_ns, net: {model: cumulated share of capital}}, valid_ic: {challenger: [by
                            fold]}, seed_ic: [of the challenger], notes (what a reader must know)
    timings/<step>.json     seconds; apart from everything else, since equal nights take unequal time

JSON has sorted keys, and null where a figure is undefined. Nothing outside `timings/` depends on the wall clock or
on where the home lies.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch

from features.sets import columns_of, get_set
from features.store.panel_cache import cached_panel
from features.versioning.fingerprint import fingerprint
from features.versioning.set_diff import EDITION, edition_of
from storage.clock import TimeSource, WallTime, parse_time_ns
from storage.code_version import code_version, lock_hash
from storage.contracts.tables import PINS
from storage.errors import GateError, LeakError
from storage.lake.fees import seed_fees
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings
from training.data.folds import draw_folds
from training.models.device import prepare_device
from training.models.estimators import OnEpoch
from training.night.artifacts import NightArtifacts, training_code
from training.night.fold_training import train_models
from training.night.pinned_inputs import fee_hash, funding_hash, read_funding, read_taker_fees
from training.night.preparation import count_data, describe_fold, prepare_data, plan_night_folds, read_fold
from training.night.promotion import finish_night
from training.recipe import get_recipe

logger = get_logger(__name__)


def open_night(
    settings: Settings,
    *,
    recipe: str,
    since: str | None = None,
    until: str | None = None,
    at: int | None = None,
) -> str:
    """Pin what a night reads, and return the night's id.

    Args:
        settings: the home, the seed and the device.
        recipe: name of a recipe, or path of a TOML file.
        since, until: bounds of the bars' open, ISO 8601 in UTC; open ones end where the bars do.
        at: snapshot of the lake to read; the newest by default.

    Raises:
        SettingsError: no such recipe, or a time that is none.
        RangeError: no bar lies in the range.
    """
    plan = get_recipe(recipe)
    device = prepare_device(settings.training.device, threads=settings.training.threads)
    features = get_set(plan.feature_set)
    with Lake.open(settings) as lake:
        if at is None:
            seed_fees(lake)
        snapshot = lake.snapshot() if at is None else at
        panel, content = cached_panel(
            settings.features_dir,
            lake,
            width=plan.width,
            since_ns=parse_time_ns(since) if since else None,
            until_ns=parse_time_ns(until) if until else None,
            instruments=plan.instruments or None,
            origins=plan.origins,
            joined=columns_of(features),
            at=snapshot,
            grace_ns=settings.bars.grace_ns,
        )
        fees = read_taker_fees(lake, panel, plan.costs, at=snapshot)
        identity = {
            "recipe": plan.to_plain(),
            "content_hash": content,
            "funding_hash": funding_hash(read_funding(lake, panel, at=snapshot)),
            "fee_hash": fee_hash(fees),
            "feature_fingerprint": fingerprint(features),
            "seed": settings.training.seed,
            "training_code": training_code(),
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        night = f"{plan.name}-{digest[:12]}"
        folder = NightArtifacts(settings.models_dir / "nights" / night)
        if folder.has("night.json"):
            logger.info("night opened again", night=night, recipe=plan.name)
            return night
        pin = {"pin": night, "snapshot": snapshot, "content": identity["content_hash"], "event": "pinned"}
        rows = PINS.rows([pin | {"ts_knowable_ns": WallTime().now_ns()}])
        lake.commit({"pins": rows}, batch_id=f"pin-{night}-{snapshot}", inputs={"snapshot": snapshot})
    folder.write(EDITION, edition_of(features, feature_set=plan.feature_set))
    folder.write(
        "night.json",
        identity
        | {
            "night": night,
            "since_ns": int(panel.ts_open_ns[0]),
            "until_ns": int(panel.ts_close_ns[-1]),
            "instruments": panel.instruments,
            "snapshot": snapshot,
            "fees": asdict(fees),
            "feature_set": plan.feature_set,
            "feature_names": [item.name for item in features],
            "grace_ms": settings.bars.grace_ms,
            "code": code_version(),
            "lock": lock_hash(),
            "torch_version": str(torch.__version__),
            "device": device.type,
        },
    )
    logger.info("night opened", night=night, recipe=plan.name, snapshot=snapshot, steps=panel.n_steps)
    return night


def build_panel(settings: Settings, night: str) -> dict[str, Any]:
    """Make panel, features and labels, prove the features, and return the counts of `panel.json`.

    Raises:
        CheckpointError: the code changed since the night was opened; so in every step that has work left.
        LakeError: the pinned rows read otherwise than when the night was opened.
        LeakError: a feature looks ahead.
        ContractError: a feature is not fit to learn from.
    """
    folder = NightArtifacts.find(settings, night)
    if folder.has("panel.json"):
        return dict(folder.read("panel.json"))
    folder.refuse_other_code()
    with folder.timed("build_panel"), Lake.open(settings, read_only=True) as lake:
        data = prepare_data(folder, lake, features_dir=settings.features_dir)
        folder.write_data(data)
    counts = count_data(data)
    folder.write("panel.json", counts)
    logger.info("panel built", night=night, instruments=counts["instruments"], rows=counts["rows"])
    return counts


def plan_folds(settings: Settings, night: str) -> list[int]:
    """Cut the labelled range into folds, count leaks, and return the folds' indices.

    Raises:
        RangeError: the range is too short for the recipe's folds.
        LeakError: a row breaks a law of the folds; nothing is trained then.
    """
    folder = NightArtifacts.find(settings, night)
    if not folder.has("folds.json"):
        folder.refuse_other_code()
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
            f"{plan['leaks']} rows of night {night} break a law of the folds; the counter must read 0",
            hint=f"folds.json in {folder.path} says which fold and which law",
        )
    return [int(entry["index"]) for entry in plan["folds"]]


def train_fold(
    settings: Settings, night: str, fold: int, *, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """Train every member of the recipe on one fold, and return the test IC by member.

    Args:
        settings: the home and the device.
        night: the night.
        fold: index of the fold.
        on_epoch: told of every epoch of every network, with model and fold.

    Raises:
        GateError: the night has no such fold.
        CheckpointError: the folder holds checkpoints of something else.
    """
    folder = NightArtifacts.find(settings, night)
    entries = {entry["index"]: entry for entry in folder.read("folds.json", step="plan_folds")["folds"]}
    if fold not in entries:
        raise GateError(f"night {night} has no fold {fold}", hint=f"its folds: {sorted(entries)}")
    folder.refuse_other_code()
    device = prepare_device(settings.training.device, threads=settings.training.threads)
    with folder.timed(f"train_fold-{fold:02d}"):
        return train_models(folder, read_fold(entries[fold]), device, on_epoch=on_epoch)


def judge_night(settings: Settings, night: str, *, clock: TimeSource | None = None) -> dict[str, Any]:
    """Put the evidence before the gate, refit the challenger, write the ledger, and return `verdict.json`.

    Args:
        settings: the home and the device.
        night: the night; all of its folds must be trained.
        clock: stamps the ledger's rows; the wall by default.

    Raises:
        GateError: a fold is not trained yet.
    """
    folder = NightArtifacts.find(settings, night)
    if folder.has("verdict.json"):
        return dict(folder.read("verdict.json"))
    folder.refuse_other_code()
    device = prepare_device(settings.training.device, threads=settings.training.threads)
    folds = [read_fold(entry) for entry in folder.read("folds.json", step="plan_folds")["folds"]]
    with folder.timed("judge_night"), Lake.open(settings) as lake:
        return finish_night(
            folder, folds, lake, device, models_dir=settings.models_dir, clock=clock or WallTime()
        )
