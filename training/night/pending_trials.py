"""Trials of one night or judgement: rows of `trials` that wait for its commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.logs import get_logger
from training.data.folds import Fold
from training.evaluation.positions import PositionLedger
from training.night.artifacts import NightArtifacts
from training.night.registry import VersionEvent
from training.night.scoring import EvaluationWindow
from training.night.trial_ledger import (
    TrialSource,
    count_by_source,
    evaluated_member,
    overlapping_trials,
    trial_rows,
    with_members,
)

logger = get_logger(__name__)


class PendingTrials:
    """Rows of `trials` for the commit of a night; if the `with` block fails, they are committed alone.

    Attributes:
        rows: by table; none before `add`.
    """

    def __init__(self, lake: Lake, night: str, source: TrialSource = "night") -> None:
        """Begin without rows.

        Args:
            lake: of the home.
            night: id of the night or judgement.
            source: what evaluates the members; `judge` counts the judged predictions only, since the controls beside
                them are no trial of anybody.
        """
        self.rows: dict[str, pa.Table] = {}
        self._lake, self._night, self._source = lake, night, source

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit the rows where the block failed; one that was interrupted (Ctrl-C) goes on later."""
        if not self.rows or not isinstance(error, Exception):
            return
        try:
            self._lake.commit(self.rows, batch_id=f"trials-{self._night}", inputs={"night": self._night})
        except LakeError as failure:
            logger.warning("trials not recorded", night=self._night, reason=failure.message)

    def add(
        self,
        folder: NightArtifacts,
        folds: Sequence[Fold],
        window: EvaluationWindow,
        dense: Mapping[str, np.ndarray],
        ledgers: Mapping[str, PositionLedger],
        events: Sequence[VersionEvent],
        *,
        now_ns: int,
    ) -> dict[str, Any]:
        """Add the members of a night, and count them together with earlier ones of the home on the same tests.

        Args:
            folder: the night.
            folds: its folds, oldest first.
            window: the time of all tests.
            dense: (S, T) predictions over the window by model and seed.
            ledgers: their backtests.
            events: of the night's recipe.
            now_ns: the current time.

        Returns:
            `by_source`: number of members by what evaluated them; `may_serve`: those of all that could be chosen.
        """
        recipe = folder.recipe
        members = []
        for model, number in recipe.model_seeds:
            if self._source == "judge" and (model, number) in recipe.trained:
                continue
            name = folder.model_name(model, number)
            member = evaluated_member(model, number, dense[name], window, folds, recipe, ledger=ledgers[name])
            members.append(member)
        self.rows = trial_rows(members, source=self._source, run=self._night, recipe=recipe, now_ns=now_ns)
        # A night that is judged again counts what was there the first time.
        first_ns = min((event.ts_knowable_ns for event in events if event.night == self._night), default=None)
        earlier = overlapping_trials(
            self._lake,
            {name for member in members for name in member.instruments},
            since_ns=folds[0].test.start_ns,
            until_ns=folds[-1].test.stop_ns,
            before_ns=first_ns,
        )
        found = with_members(earlier, members, source=self._source)
        return {"by_source": count_by_source(found), "may_serve": sum(item.may_serve for item in found)}
