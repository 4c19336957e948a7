"""Trial ledger: every member that was evaluated on test rows, in the table `trials`.

A member is one model and seed of a recipe over a range of tests. It counts once by content: the same predictions under
the same position rule and costs over the same tests are one trial, whatever recipe, model or night they come from. Who
tries many and shows the best is then measured against all of them, not against the last night's (Bailey and Lopez de
Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40(5), 2014).

A member counts from its backtest over the tests on. Nights commit their rows together with their events in the
registry; a night that fails between the backtest and the registry commits them alone (`commit_trials`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from storage.contracts.lake_records import TRIALS
from training.data.folds import Fold
from training.evaluation.metrics import sharpe
from training.evaluation.positions import PositionLedger
from training.night.lineage_evidence import lineage_of
from training.night.scoring import EvaluationWindow, period_returns
from training.recipe import Recipe

TrialSource = Literal["night", "judge", "notebook"]
SOURCES: Final[tuple[TrialSource, ...]] = ("night", "judge", "notebook")


@dataclass(frozen=True, slots=True)
class EvaluatedMember:
    """One model and seed, evaluated on a range of tests.

    Args:
        trial: hash of what was evaluated.
        model: its name.
        seed: number of its seed, from 0.
        instruments: ids of those with a prediction.
        tested_since_ns, tested_until_ns: start of the first test, and end of the last.
        net: return after costs, a share of capital; `None`: not told.
        sharpe: Sharpe ratio of the net per holding period; `None`: undefined, or not told.
    """

    trial: str
    model: str
    seed: int
    instruments: tuple[str, ...]
    tested_since_ns: int
    tested_until_ns: int
    net: float | None = None
    sharpe: float | None = None


def evaluated_member(
    model: str,
    seed: int,
    prediction: np.ndarray,
    window: EvaluationWindow,
    folds: Sequence[Fold],
    recipe: Recipe,
    *,
    ledger: PositionLedger,
) -> EvaluatedMember:
    """Return the trial of predictions on the tests of folds.

    Args:
        model: its name.
        seed: number of its seed, from 0.
        prediction: (S, T) over the window, NaN where there is none.
        window: the time of all tests.
        folds: of these tests, oldest first.
        recipe: position rule and costs.
        ledger: backtest of the predictions over the window.
    """
    since_ns, until_ns = folds[0].test.start_ns, folds[-1].test.stop_ns
    named = sorted(zip(window.market.instruments, prediction, strict=True), key=lambda item: item[0])
    closes = np.asarray(window.market.ts_close_ns, dtype="<i8")
    plain = recipe.to_plain()
    tests = [[fold.test.start_ns, fold.test.stop_ns] for fold in folds]
    digest = hashlib.sha256(json.dumps([tests, plain["position"], plain["costs"]], sort_keys=True).encode())
    found = []
    for name, values in named:
        is_there = np.isfinite(values)
        if is_there.any():
            found.append(name)
            # Adding 0 gives -0 the bytes of 0.
            digest.update(json.dumps([name, int(is_there.sum())]).encode())
            digest.update(closes[is_there].tobytes())
            digest.update(np.asarray(values[is_there] + 0.0, dtype="<f8").tobytes())
    return EvaluatedMember(
        trial=digest.hexdigest()[:24],
        model=model,
        seed=seed,
        instruments=tuple(found),
        tested_since_ns=since_ns,
        tested_until_ns=until_ns,
        net=_finite(float(ledger.net.sum())),
        sharpe=_finite(sharpe(period_returns(ledger, recipe))),
    )


def trial_rows(
    members: Sequence[EvaluatedMember],
    *,
    source: TrialSource,
    run: str,
    recipe: Recipe,
    now_ns: int,
    who: str = "",
) -> dict[str, pa.Table]:
    """Return the rows of evaluated members for a commit, by table; nothing where there is no member.

    Members of equal content make one row, that of the first. Members that the lake has already are skipped by the
    commit.

    Args:
        members: see `evaluated_member`.
        source: what evaluated them.
        run: the night, or the id of the judged file.
        recipe: that they belong to.
        now_ns: the current time.
        who: `user@host`; empty: a night.
    """
    common = {
        "source": source,
        "run": run,
        "recipe": recipe.name,
        "lineage": lineage_of(recipe).name,
        "who": who,
        "ts_knowable_ns": now_ns,
    }
    first: dict[str, EvaluatedMember] = {}
    for member in members:
        first.setdefault(member.trial, member)
    rows = [
        asdict(member) | common | {"instruments": json.dumps(member.instruments)} for member in first.values()
    ]
    return {TRIALS.name: TRIALS.rows(rows)} if rows else {}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
