"""Trial ledger: every member that was evaluated on test rows, in the table `trials`.

A member is one model and seed of a recipe over a range of tests. It counts once by content: the same predictions under
the same position rule and costs over the same tests are one trial, whatever recipe, model or night they come from. Who
tries many and shows the best is then measured against all of them, not against the last night's (Bailey and Lopez de
Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40(5), 2014).

A member counts from its backtest over all tests on. A night commits its rows together with its events in the registry;
one that fails between the backtest and the registry commits them alone (training/night/pending_trials.py). A night that
was never judged has no backtest, and counts nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from storage.contracts.lake_records import TRIALS
from storage.lake.lake import Lake
from storage.lake.snapshots import tables_at
from training.data.folds import Fold
from training.evaluation.metrics import sharpe
from training.evaluation.positions import PositionLedger
from training.evaluation.selection import NEVER_SERVE
from training.night.artifacts import NightArtifacts
from training.night.lineage_evidence import lineage_of
from training.night.scoring import EvaluationWindow, period_returns
from training.recipe import Recipe

TrialSource = Literal["night", "judge", "notebook"]
SOURCES: Final[tuple[TrialSource, ...]] = ("night", "judge", "notebook")
_OVERLAPPING: Final = """
    SELECT trial, source, model, instruments FROM trials
    WHERE tested_since_ns < ? AND tested_until_ns > ? AND coalesce(ts_knowable_ns < ?, true)
"""


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


@dataclass(frozen=True, slots=True)
class EarlierTrial:
    """A row of `trials` that shares instruments and test days with others."""

    trial: str
    source: TrialSource
    model: str

    @property
    def may_serve(self) -> bool:
        """Whether it could have been chosen; the references of nights never are."""
        return self.source != "night" or self.model not in NEVER_SERVE


def overlapping_trials(
    lake: Lake,
    instruments: Collection[str],
    *,
    since_ns: int,
    until_ns: int,
    before_ns: int | None = None,
) -> list[EarlierTrial]:
    """Return the trials of a home that looked at these test days of any of these instruments, whatever their recipe.

    A trial of other instruments on the same days is left out; one of these and others is not, so that one more
    instrument does not start the count anew.

    Args:
        lake: of the home; one that an older release wrote has none.
        instruments: ids.
        since_ns, until_ns: start of the first test, and end of the last.
        before_ns: only trials from before this time (default: all).
    """
    if TRIALS.name not in tables_at(lake):
        return []
    wanted = set(instruments)
    rows = lake.query(_OVERLAPPING, (until_ns, since_ns, before_ns)).to_pylist()
    return [
        EarlierTrial(row["trial"], row["source"], row["model"])
        for row in rows
        if not wanted.isdisjoint(json.loads(row["instruments"]))
    ]


def with_members(
    earlier: Sequence[EarlierTrial], members: Sequence[EvaluatedMember], *, source: TrialSource
) -> list[EarlierTrial]:
    """Return earlier trials and those of members that are not among them yet, each once."""
    found = {item.trial: item for item in earlier}
    for member in members:
        found.setdefault(member.trial, EarlierTrial(member.trial, source, member.model))
    return list(found.values())


def count_by_source(trials: Sequence[EarlierTrial]) -> dict[str, int]:
    """Return the number of trials by source, of those that have any, in the order of `SOURCES`."""
    counts = Counter(item.source for item in trials)
    return {source: counts[source] for source in SOURCES if counts[source]}


def count_on_tests(lake: Lake, folder: NightArtifacts) -> dict[str, int]:
    """Return the number of members that a home has evaluated on the tests of a night until now, by source.

    A night without folds has no tests, and none.
    """
    if not folder.has("folds.json"):
        return {}
    tests = [entry["test"] for entry in folder.read("folds.json")["folds"]]
    names = folder.facts["instruments"]
    found = overlapping_trials(lake, names, since_ns=tests[0][0], until_ns=tests[-1][1])
    return count_by_source(found)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return the number of evaluated members in a sentence.

    >>> describe_counts({"night": 12, "notebook": 1})
    'This home has evaluated 13 members on these test days: 12 in nights, 1 in notebooks.'
    """
    places = {"night": "in nights", "judge": "from files of predictions", "notebook": "in notebooks"}
    total = sum(counts.values())
    parts = ", ".join(f"{number:,} {places[source]}" for source, number in counts.items())
    noun = "member" if total == 1 else "members"
    return f"This home has evaluated {total:,} {noun} on these test days{f': {parts}' if parts else ''}."


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
