"""One night of a replay: the steps of a night on the rows that it knew, with the replay's own registry and evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch

from features.panel.panel import content_hash
from storage.clock import ManualTime
from storage.errors import ContractError, FitError, LeakError
from storage.lake.lake import Lake
from storage.logs import get_logger
from training.data.folds import Fold
from training.night.artifacts import NightArtifacts
from training.night.fold_training import NO_SNAPSHOT, FoldFits, train_models
from training.night.identity import name_of, night_identity, write_facts
from training.night.leak_suite import LEAK_SUITE
from training.night.night_list import verdict_state
from training.night.pending_trials import PendingTrials
from training.night.pinned_inputs import PinnedRows
from training.night.preparation import (
    build_data,
    champion_training_window,
    count_data,
    prove_features,
    read_fold,
)
from training.night.promotion import finish_night
from training.night.registry import VersionEvent, champion_after, read_versions
from training.night.steps import planned_folds
from training.replay.folder import ReplayedNight, ReplayFolder
from training.replay.known_rows import KnownRows

logger = get_logger(__name__)
_OF_NIGHT: Final = "of_night"
"""Key of `leak_suite.json`, where that is of an earlier night."""


def run_replayed_night(
    replay: ReplayFolder,
    records: Lake,
    rows: KnownRows,
    at_ns: int,
    device: torch.device,
    *,
    before: ReplayedNight | None,
    on_step: Callable[[str], None],
) -> ReplayedNight:
    """Run the night at a time; finished steps are kept.

    The features are proven by the first night, and later nights keep its proof, which is of the same code. The leak
    suite runs again once all tests are new.

    Args:
        replay: the folder.
        records: registry and evidence of the replay.
        rows: of the home.
        at_ns: the time; the night's events have it.
        device: to train on.
        before: the night before.
        on_step: called with the description of each step.

    Raises:
        LeakError: in the first night a feature looks ahead, rows are leaked, or the leak suite is broken.
        RangeError: the range is too short for the recipe's folds.
    """
    pinned, fees = rows.at_night(at_ns)
    settings = replay.home
    identity = night_identity(
        rows.recipe,
        pinned,
        fees,
        content=content_hash(pinned.panel),
        seed=settings.training.seed,
        device=device,
        stacking={},
    )
    folder = replay.night(name_of(rows.recipe, identity))
    if not folder.has("night.json"):
        write_facts(folder, identity, pinned, fees, settings, snapshot=NO_SNAPSHOT)
    reason = ""
    try:
        if not folder.has("verdict.json"):
            _judge(replay, records, rows, pinned, folder, at_ns, device, before=before, on_step=on_step)
    except (ContractError, FitError, LeakError) as error:
        if isinstance(error, LeakError) and before is None:
            raise  # no night of this code would do better
        # The nightly run would have failed, too, and the version before it would have served on.
        logger.warning("replayed night failed", night=folder.path.name, reason=error.message)
        reason = error.message
    return _describe(records, rows, folder, at_ns, before=before, failure=reason)


def _judge(
    replay: ReplayFolder,
    records: Lake,
    rows: KnownRows,
    pinned: PinnedRows,
    folder: NightArtifacts,
    at_ns: int,
    device: torch.device,
    *,
    before: ReplayedNight | None,
    on_step: Callable[[str], None],
) -> None:
    """Build the data, plan the folds, train them, and judge."""

    def prove_panel() -> None:
        if before is not None and (first := replay.night(replay.nights()[0].night)).has("proof.json"):
            folder.write("proof.json", first.read("proof.json"))
        else:
            on_step("proving features")
            prove_features(folder, pinned.panel, rows.lake, at=rows.at, bases=("served",))

    if not folder.has("panel.json"):
        on_step("building features")
        data = build_data(
            folder,
            pinned,
            rows.known_at(at_ns),
            at=rows.at,
            features_dir=replay.home.features_dir,
            prove_panel=prove_panel,
            learned=champion_training_window(folder, records),
        )
        folder.write_data(data)
        folder.write("panel.json", count_data(data))
    on_step("planning folds, and checking them for leaks")
    numbers = planned_folds(folder, known_suite=partial(_known_suite, replay, before))
    folds = [read_fold(entry) for entry in folder.read("folds.json")["folds"]]
    prepared = folder.read_data()
    for fold in folds:
        on_step(f"fold {fold.index + 1} of {len(numbers)}")
        train_models(FoldFits(folder, fold, prepared, device))
    on_step("judging")
    with PendingTrials(records, folder.path.name) as trials:
        finish_night(
            folder,
            folds,
            records,
            device,
            models_dir=replay.records.models_dir,
            clock=ManualTime(at_ns),
            false_promotions=replay.home.gate.false_promotions,
            trials=trials,
            paper_serves=True,
        )


def _known_suite(
    replay: ReplayFolder, before: ReplayedNight | None, folds: Sequence[Fold]
) -> dict[str, Any] | None:
    """Return the leak suite of an earlier night for these folds, or `None` if they need one of their own.

    The suite takes most of a night's time, so it runs again once all tests are new, or if the last one did not pass.
    """
    if before is None or not (night := replay.night(before.night)).has(LEAK_SUITE):
        return None
    suite: dict[str, Any] = night.read(LEAK_SUITE)
    origin = suite.get(_OF_NIGHT, before.night)
    last_test = read_fold(replay.night(origin).read("folds.json")["folds"][-1]).test
    if suite["reason"] or folds[0].test.start_ns >= last_test.stop_ns:
        return None
    return suite | {_OF_NIGHT: origin}


def _describe(
    records: Lake,
    rows: KnownRows,
    folder: NightArtifacts,
    at_ns: int,
    *,
    before: ReplayedNight | None,
    failure: str,
) -> ReplayedNight:
    serving = champion_after(read_versions(records, recipe=rows.recipe.name))
    verdict = {} if failure else folder.read("verdict.json")
    weighed = (verdict.get("evidence") or [{}])[0]
    kind = _outcome(verdict, serving, folder.path.name, before)
    newest = folder.path.name if verdict else (before.newest_night if before else "")
    return ReplayedNight(
        at_ns=at_ns,
        night=folder.path.name,
        outcome=kind,
        is_demoted=bool((verdict.get("demotion") or {}).get("is_demoted")),
        reason=failure or verdict["reason"],
        model=verdict.get("challenger", ""),
        evidence=weighed.get("value"),
        needed=weighed.get("needed"),
        serving=serving.version if serving else "",
        serving_night=serving.night if serving else "",
        on_paper=serving is not None and _is_on_paper(kind, verdict, before),
        newest_night=newest,
        folds=len(folder.read("folds.json")["folds"]) if folder.has("folds.json") else 0,
    )


def _outcome(
    verdict: dict[str, Any], serving: VersionEvent | None, night: str, before: ReplayedNight | None
) -> str:
    if not verdict:
        return "failed"
    if serving is None or serving.night != night:
        return "refused"
    return "renewed" if before is not None and before.serving else "promoted"


def _is_on_paper(outcome: str, verdict: dict[str, Any], before: ReplayedNight | None) -> bool:
    """Return whether what serves after a night does so without the evidence of days with quotes."""
    if outcome == "promoted":
        return verdict_state(verdict) == "paper"
    if before is None or not before.on_paper:
        return False
    weighed = (verdict.get("evidence") or [{}])[0]
    return not weighed or bool(weighed["quoted_value"] < weighed["needed"])
