"""Trials of a home as a list, and trials that a user's own code makes on the tests of a night."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, Final

from storage.author import current_author
from storage.clock import TimeSource, WallTime, iso
from storage.contracts.lake_records import TRIALS
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.lake.snapshots import tables_at
from storage.logs import get_logger
from storage.settings import Settings
from training.data.folds import Fold
from training.night.artifacts import NightArtifacts
from training.night.lineage_evidence import lineage_of
from training.night.preparation import read_fold
from training.night.trial_ledger import EvaluatedMember, TrialSource, trial_rows

logger = get_logger(__name__)

COLUMNS: Final = (
    "at",
    "source",
    "run",
    "recipe",
    "lineage",
    "model",
    "seed",
    "tests_since",
    "tests_until",
    "instruments",
    "net",
    "sharpe",
    "who",
    "trial",
)
_LISTED: Final = """
    SELECT * FROM trials
    WHERE coalesce(source = $1, true) AND coalesce(recipe = $2, true)
      AND coalesce(tested_until_ns > $3, true) AND coalesce(tested_since_ns < $4, true)
    ORDER BY ts_knowable_ns, run, model, seed
"""


def list_trials(
    lake: Lake,
    *,
    source: TrialSource | None = None,
    recipe: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    instruments: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return one row of `COLUMNS` a trial, oldest first.

    Args:
        lake: of the home; one that an older release wrote has no trials.
        source, recipe: only these.
        since_ns, until_ns: only trials with a test in this range.
        instruments: only trials on one of these ids.
    """
    if TRIALS.name not in tables_at(lake):
        return []
    found = []
    for row in lake.query(_LISTED, (source, recipe, since_ns, until_ns)).to_pylist():
        names = json.loads(row["instruments"])
        if instruments and set(instruments).isdisjoint(names):
            continue
        values = row | {
            "at": iso(row["ts_knowable_ns"]),
            "tests_since": iso(row["tested_since_ns"]),
            "tests_until": iso(row["tested_until_ns"]),
            "instruments": len(names),
            "who": row["who"] or "night",
        }
        found.append({name: values[name] for name in COLUMNS})
    return found


def record_trial(
    settings: Settings,
    night: str,
    *,
    model: str,
    seed: int = 0,
    folds: Sequence[int] | None = None,
    net: float | None = None,
    sharpe: float | None = None,
    who: str | None = None,
    clock: TimeSource | None = None,
) -> bool:
    """Record that a user's code evaluates a model on the tests of a night; return whether it is new.

    Nobody can see what such code does with test rows, so the trial is the name: the same name, seed and tests count
    once, whichever night has them, and a changed model needs a new name. Predictions that `judge` evaluates count by
    their content.

    Args:
        settings: the home.
        night: whose tests are read.
        model: a name for what is evaluated.
        seed: number of its seed.
        folds: indices of the folds that are read (default: all).
        net: return after costs over the tests, a share of capital, where known.
        sharpe: its Sharpe ratio per holding period, where known.
        who: `user@host` (default: the current user).
        clock: stamps the row (default: wall clock).

    Raises:
        GateError: there is no such night or fold, its folds are not planned, or the model has no name.
    """
    folder = NightArtifacts.find(settings, night)
    if not model.strip():
        raise GateError(
            f"a trial on night {night} needs the name of a model", hint='name what you evaluate: model="..."'
        )
    recipe, tests = folder.recipe, _folds_of(folder, folds)
    names = tuple(sorted(folder.facts["instruments"]))
    windows = [[fold.test.start_ns, fold.test.stop_ns] for fold in tests]
    content = ["notebook", lineage_of(recipe).name, names, windows, model.strip(), seed]
    member = EvaluatedMember(
        trial=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24],
        model=model.strip(),
        seed=seed,
        instruments=names,
        tested_since_ns=tests[0].test.start_ns,
        tested_until_ns=tests[-1].test.stop_ns,
        net=net,
        sharpe=sharpe,
    )
    rows = trial_rows(
        [member],
        source="notebook",
        run=night,
        recipe=recipe,
        now_ns=(clock or WallTime()).now_ns(),
        who=who or current_author(),
    )
    with Lake.open(settings, clock=clock) as lake:
        done = lake.commit(rows, batch_id=f"trial-{member.trial}", inputs={"night": night})
    is_new = bool(done.rows.get(TRIALS.name))
    if is_new:
        logger.info("trial recorded", night=night, model=member.model, seed=seed, tests=len(tests))
    return is_new


def _folds_of(folder: NightArtifacts, chosen: Sequence[int] | None) -> list[Fold]:
    """Return the chosen folds of a night, oldest first.

    Raises:
        GateError: it has no such fold, or none is chosen.
    """
    entries = {
        entry["index"]: read_fold(entry) for entry in folder.read("folds.json", step="plan_folds")["folds"]
    }
    wanted = sorted(entries) if chosen is None else sorted(set(chosen))
    if not wanted or not set(wanted) <= set(entries):
        raise GateError(
            f"night {folder.path.name} has no folds {wanted}", hint=f"its folds: {sorted(entries)}"
        )
    return [entries[index] for index in wanted]
