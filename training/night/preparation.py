"""Preparation of a night: panel, features, leak proofs, labels and folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from features.feature import FeatureBlock
from features.leakage.perturbation import PROOF_STEPS, prove
from features.leakage.point_in_time import prove_point_in_time
from features.leakage.smallest_input import write_smallest_input
from features.monitoring.health import TrainingWindow, check_health
from features.panel.panel import Panel
from features.sets import get_set
from features.store.incremental import built_block
from features.versioning.fingerprint import fingerprint
from storage.clock import NS, floor_ns, iso
from storage.contracts.tables import STATUSES
from storage.errors import CheckpointError, LeakError, RangeError
from storage.lake.lake import Lake
from storage.lake.point_in_time import Basis
from storage.logs import get_logger
from training.data.folds import Fold, Leaks, SplitRows, TimeSpan, count_leaks, split_rows, walk_forward_folds
from training.data.labels import BASES, Labels, less_market, make_labels, prices_at_close, trailing_return
from training.night.artifacts import Lessons, NightArtifacts, NightData
from training.night.fold_training import FoldRows, fold_rows
from training.night.input_audit import INPUT_AUDIT, InputAudit, check_labels, check_revisions, check_universe
from training.night.pinned_inputs import PinnedRows, of_venues, panel_loader, pinned_at, read_pinned
from training.night.registry import champion_after, events_before, read_versions
from training.recipe import Recipe

logger = get_logger(__name__)

TRAINING_FACTS: Final = ("since_ns", "feature_set", "width", "instruments")
"""Keys of the registry's inputs that describe the bars that a version was trained on."""


def prepare_data(folder: NightArtifacts, lake: Lake, *, features_dir: Path) -> NightData:
    """Read the pinned rows, build features and labels, and write `proof.json`, `health.json` and `input_audit.json`.

    Args:
        folder: the night.
        lake: has its rows.
        features_dir: cache of panels and of days of features, shared by all nights; missing entries are built, and
            the result does not depend on which were cached.

    Raises:
        LakeError: the pinned rows differ from those that the night was opened on.
        CheckpointError: the code of the features has changed since the night was opened.
        LeakError: a feature looks ahead, or universe, revisions or labels are from the future (input_audit.py).
        ContractError: a feature is unfit for training (features/monitoring/health.py).
    """
    pinned, at = read_pinned(folder, lake, features_dir=features_dir), pinned_at(lake, folder.facts)
    return build_data(
        folder,
        pinned,
        lake,
        at=at,
        features_dir=features_dir,
        prove_panel=lambda: prove_features(folder, pinned.panel, lake, at=at),
        learned=champion_training_window(folder, lake),
    )


def build_data(
    folder: NightArtifacts,
    pinned: PinnedRows,
    lake: Lake,
    *,
    at: int,
    features_dir: Path,
    prove_panel: Callable[[], None],
    learned: TrainingWindow | None,
) -> NightData:
    """Build features and labels of a night's rows, and write `proof.json`, `health.json` and `input_audit.json`.

    Args:
        folder: the night.
        pinned: its rows.
        lake: has them, for the audit.
        at: snapshot of the lake.
        features_dir: cache of days of features.
        prove_panel: writes `proof.json`, or raises `LeakError`.
        learned: bars that the champion was trained on, the reference for drift.

    Raises:
        CheckpointError, LeakError, ContractError: as for `prepare_data`.
    """
    facts, recipe = folder.facts, folder.recipe
    grace_ns = facts["grace_ms"] * 1_000_000
    panel, audit = pinned.panel, _audit_rows(folder, pinned, lake, at=at)
    code = fingerprint(get_set(recipe.feature_set))
    if code != facts["feature_fingerprint"]:
        raise CheckpointError(
            f"night {facts['night']} was opened with features {facts['feature_fingerprint'][:12]}, "
            f"their code is now {code[:12]}",
            hint="open a new night: tickwalk nightly",
        )
    # Before the features are built, which refuses some leaks too, but cannot name the bar.
    prove_panel()
    block = built_block(features_dir, panel, recipe.feature_set)
    health = check_health(block, panel, split_ns=_newest_test_ns(panel, recipe), learned=learned)
    folder.write("health.json", health.to_dict())
    health.refuse()
    served = learn_rows(panel, block, recipe, grace_ns=grace_ns)
    lessons = None
    if pinned.lessons is not None:
        taught = built_block(features_dir, pinned.lessons, recipe.feature_set)
        check_health(taught, pinned.lessons, split_ns=_newest_test_ns(panel, recipe), learned=None).refuse()
        lessons = learn_rows(pinned.lessons, taught, recipe, grace_ns=grace_ns)
    folder.write(INPUT_AUDIT, replace(audit, labels=int(served.labels.mask.sum())).to_dict())
    logger.info("inputs audited", night=folder.path.name, late_bars=audit.late_bars)
    return NightData(
        panel=panel,
        block=block,
        labels=served.labels,
        past=served.past,
        funding_paid=pinned.funding,
        lessons=lessons,
    )


def learn_rows(panel: Panel, block: FeatureBlock, recipe: Recipe, *, grace_ns: int) -> Lessons:
    """Return features, audited labels and past returns of a panel."""
    labels = make_labels(panel, recipe.label, grace_ns=grace_ns)
    check_labels(panel, labels, recipe.label, grace_ns=grace_ns)
    past = trailing_return(prices_at_close(panel), recipe.label.horizon_bars)
    if recipe.label.target == "excess":
        past, seen = less_market(past, torch.isfinite(past))
        past = torch.where(seen, past, torch.nan)
    return Lessons(block, labels, past / labels.scale)


def _audit_rows(folder: NightArtifacts, pinned: PinnedRows, lake: Lake, *, at: int) -> InputAudit:
    """Check universe and revisions of the rows of a night; the labels are counted later."""
    recipe, grace_ns = folder.recipe, folder.facts["grace_ms"] * 1_000_000
    instruments = check_universe(pinned.panel, lake, recipe, at=at, grace_ns=grace_ns)
    late = check_revisions(pinned.panel, lake, recipe, at=at, grace_ns=grace_ns)
    if pinned.lessons is not None:
        late += check_revisions(pinned.lessons, lake, recipe, at=at, grace_ns=grace_ns, rows=recipe.rows)
    return InputAudit(instruments, late, 0)


def champion_training_window(folder: NightArtifacts, lake: Lake) -> TrainingWindow | None:
    """Return the bars that the current champion was trained on, as the reference for drift.

    Return `None` if no version serves, or if the champion was trained on another feature set or bar width (a recipe
    may change under its name), since this night's features are then not comparable with the champion's.
    """
    past = read_versions(lake, recipe=folder.recipe.name)
    serving = champion_after(events_before(past, folder.path.name))
    if serving is None:
        return None
    inputs = dict(serving.inputs)
    night = NightArtifacts(folder.path.with_name(serving.night))
    # Older events of the registry lack these keys, and their night's folder may still have them.
    if not inputs.keys() >= set(TRAINING_FACTS) and night.has("night.json"):
        inputs |= training_facts(night)
    recipe = folder.recipe
    if (inputs.get("feature_set"), inputs.get("width")) != (recipe.feature_set, recipe.width):
        return None
    return TrainingWindow(
        serving.version, int(inputs["since_ns"]), int(inputs["cutoff_ns"]), frozenset(inputs["instruments"])
    )


def training_facts(night: NightArtifacts) -> dict[str, Any]:
    """Return the values of `TRAINING_FACTS` for a night."""
    facts = night.facts | {"width": night.recipe.width}
    return {name: facts[name] for name in TRAINING_FACTS}


def count_data(data: NightData) -> dict[str, Any]:
    """Return the value of `panel.json`."""
    panel, labels = data.panel, data.labels
    by_status = torch.bincount(panel.status.flatten().to(torch.int64), minlength=len(STATUSES))
    by_basis = torch.bincount(labels.basis.flatten().to(torch.int64), minlength=len(BASES))
    share = data.block.mask.to(torch.float64).mean(dim=(0, 1))
    hours = (panel.n_steps * panel.width_ns) / (3600 * NS) * panel.n_instruments
    paid = None if data.funding_paid is None else min(1.0, float((data.funding_paid != 0).sum()) / hours)
    return {
        "instruments": panel.n_instruments,
        "steps": panel.n_steps,
        "since": iso(int(panel.ts_open_ns[0])),
        "until": iso(int(panel.ts_close_ns[-1])),
        "rows": int(labels.mask.sum()),
        "status": dict(zip(STATUSES, by_status.tolist(), strict=True)),
        "basis": dict(zip(BASES[1:], by_basis.tolist()[1:], strict=True)),
        "valid_share": dict(zip(data.block.names, share.tolist(), strict=True)),
        "funding_share": paid,
        "lesson_rows": int(data.teaching.labels.mask.sum()),
    }


def plan_night_folds(data: NightData, recipe: Recipe) -> list[Fold]:
    """Return the folds of the labelled range.

    It starts with the first decision that has a label, and stops where labels would need bars after the panel. So the
    rows of a fold, and their labels, do not depend on later bars.

    Raises:
        RangeError: the range is too short for the recipe's folds.
    """
    return folds_until(data.labels, data.panel, recipe, n_steps=data.panel.n_steps)


def folds_until(labels: Labels, panel: Panel, recipe: Recipe, *, n_steps: int) -> list[Fold]:
    """Return the folds of the first `n_steps` steps of a panel, at least one; see `plan_night_folds`."""
    width_ns, last_ns = panel.width_ns, panel.ts_close_ns[n_steps - 1]
    is_complete = labels.ts_span_end_ns <= last_ns
    decided = labels.ts_decided_ns[labels.mask.any(dim=0).numpy() & is_complete]
    complete = labels.ts_decided_ns[is_complete]
    if not len(decided) or not len(complete):
        raise RangeError(
            f"none of {n_steps} bars from {iso(int(panel.ts_open_ns[0]))} has a label",
            hint="record or import more history, or lower label.horizon_bars in the recipe",
        )
    # Boundaries are on the grid of the bars, and the next decision is one bar after the last complete one.
    start_ns = floor_ns(int(decided[0]), width_ns)
    stop_ns = floor_ns(int(complete[-1]), width_ns) + width_ns
    return walk_forward_folds(start_ns, stop_ns, width_ns=width_ns, geometry=recipe.folds)


def describe_fold(fold: Fold, data: NightData, recipe: Recipe) -> dict[str, Any]:
    """Return a fold's entry in `folds.json`: its windows, rows and leaks."""
    labels = data.labels
    parts = split_rows(fold, labels.ts_decided_ns, labels.ts_span_end_ns)
    rows = fold_rows(data, parts, recipe)
    leaks = count_row_leaks(fold, rows, labels)
    return {
        "index": fold.index,
        "train": [fold.train.start_ns, fold.train.stop_ns],
        "valid": [fold.valid.start_ns, fold.valid.stop_ns],
        "test": [fold.test.start_ns, fold.test.stop_ns],
        "embargo_ns": fold.embargo_ns,
        "rows": {
            "train": len(rows.train),
            "valid": len(rows.valid),
            "test": len(rows.test),
            "purged": _labelled(labels, parts.purged),
            "embargoed": _labelled(labels, parts.embargoed),
        },
        "leaks": asdict(leaks),
    }


_KINDS: Final = {
    "label": "train or validate although their label or decision reaches past a boundary (the split is not purged)",
    "embargo": "are decided within the embargo after a boundary",
    "shared": "are in two parts, so that validation or training sees a test",
}


def describe_leaks(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the leaked rows of entries of `folds.json` by kind, in words."""
    counts = {kind: sum(entry["leaks"][kind] for entry in entries) for kind in _KINDS}
    return ", ".join(f"{count} {_KINDS[kind]}" for kind, count in counts.items() if count)


def count_row_leaks(fold: Fold, rows: FoldRows, labels: Labels) -> Leaks:
    """Count leaks among the rows that are actually trained and tested on in any epoch, from their own times."""
    n_steps = labels.mask.shape[1]
    counts = [
        torch.bincount(part % n_steps, minlength=n_steps).numpy()
        for part in (rows.seen, rows.valid, rows.test)
    ]
    train, valid, test = (count > 0 for count in counts)
    nothing = np.zeros(n_steps, dtype=bool)
    parts = SplitRows(train, valid, test, purged=nothing, embargoed=nothing)
    if (train.astype(np.int8) + valid + test).max(initial=0) <= 1:
        # Rows of a step share its times, so steps are checked, and count as often as they have rows.
        return count_leaks(
            fold, parts, labels.ts_decided_ns, labels.ts_span_end_ns, rows=counts[0] + counts[1] + counts[2]
        )
    used = torch.from_numpy(np.unique(torch.cat((rows.seen, rows.valid, rows.test)).numpy()))
    nothing = np.zeros(len(used), dtype=bool)
    parts = SplitRows(
        train=torch.isin(used, rows.seen).numpy(),
        valid=torch.isin(used, rows.valid).numpy(),
        test=torch.isin(used, rows.test).numpy(),
        purged=nothing,
        embargoed=nothing,
    )
    step = (used % n_steps).numpy()
    return count_leaks(fold, parts, labels.ts_decided_ns[step], labels.ts_span_end_ns[step])


def read_fold(entry: dict[str, Any]) -> Fold:
    """Return the fold of an entry of `folds.json`."""
    spans = {name: TimeSpan(*entry[name]) for name in ("train", "valid", "test")}
    return Fold(index=entry["index"], embargo_ns=entry["embargo_ns"], **spans)


def prove_features(
    folder: NightArtifacts, panel: Panel, lake: Lake, *, at: int, bases: Sequence[Basis] | None = None
) -> None:
    """Run both leak proofs, and write `proof.json`: what was compared, or why a proof failed.

    The proof from the lake hides rows by the clock of their basis: once for the bars that judge, and once for those
    that teach, where these are others.

    Args:
        folder: the night.
        panel: its bars.
        lake: has them.
        at: snapshot of the lake.
        bases: rows to prove (default: those that judge, and those that teach).

    Raises:
        LeakError: a feature looks ahead.
    """
    facts, recipe = folder.facts, folder.recipe
    grace_ns = facts["grace_ms"] * 1_000_000
    newest_ns = int(panel.ts_open_ns[-PROOF_STEPS:][0])
    hindsight = {}
    features = get_set(recipe.feature_set)
    try:
        proof = prove(panel, recipe.feature_set, seed=facts["seed"])
        for rows in dict.fromkeys(bases or ("served", recipe.rows)):
            load = partial(_newest_bars, folder, rows, at=at, since_ns=newest_ns)
            hindsight[rows] = prove_point_in_time(
                lake, load, get_set(recipe.feature_set), grace_ns=grace_ns, seed=facts["seed"], rows=rows
            ).to_dict()
    except LeakError as error:
        folder.write("proof.json", {"passed": False, "reason": error.message})
        newest = panel.steps(-PROOF_STEPS, None)
        raise write_smallest_input(error, newest, features, recipe.feature_set, folder.path) from error
    more = {"lessons_hindsight": found} if (found := hindsight.get("available")) is not None else {}
    results = {"passed": True, "reason": ""} | proof.to_dict()
    folder.write("proof.json", results | {"hindsight": hindsight["served"]} | more)


def _newest_bars(folder: NightArtifacts, rows: Basis, lake: Lake, *, at: int, since_ns: int) -> Panel:
    recipe = folder.recipe
    # An instrument that was listed later is missing from the lake as of an earlier time, so none is required.
    instruments = recipe.instruments or None
    panel = panel_loader(folder, at, rows)(lake, since_ns=since_ns, instruments=instruments)
    return of_venues(panel, recipe)


def _newest_test_ns(panel: Panel, recipe: Recipe) -> int:
    """Return the start of the newest part of the range, which is as long as a fold's test window."""
    return max(int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1]) - recipe.folds.test_ns)


def _labelled(labels: Labels, steps: np.ndarray) -> int:
    return int(labels.mask[:, torch.from_numpy(steps)].sum())
