"""Predictions of a replay's versions on the bars that followed their nights."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from features.feature import FeatureBlock
from features.store.incremental import built_block
from storage.lake.fees import FeeSchedule
from training.data.labels import Labels
from training.night.artifacts import NightData, Predictions, write_predictions
from training.night.fold_training import predict_rows
from training.night.preparation import learn_rows
from training.night.promotion import load_deployed
from training.replay.folder import ReplayedNight, ReplayFolder
from training.replay.known_rows import KnownRows


@dataclass(frozen=True, slots=True)
class FollowingBars:
    """All bars of a replay's range, with features and scales, as they were known at each bar.

    Args:
        data: features and labels; labels are read by nothing that serves.
        fees: taker fees in force at the bars.
    """

    data: NightData
    fees: FeeSchedule

    @classmethod
    def build(cls, rows: KnownRows, replay: ReplayFolder) -> FollowingBars:
        """Build features and scales of the range."""
        pinned, fees = rows.at_night(rows.to_ns)
        block = built_block(replay.home.features_dir, pinned.panel, rows.recipe.feature_set)
        learned = learn_rows(pinned.panel, block, rows.recipe, grace_ns=rows.grace_ns)
        return cls(NightData(pinned.panel, block, learned.labels, learned.past, pinned.funding), fees)

    def steps(self, start_ns: int, stop_ns: int) -> tuple[int, int]:
        """Return the steps that are decided in `[start_ns, stop_ns)`."""
        first, stop = np.searchsorted(self.data.labels.ts_decided_ns, [start_ns, stop_ns])
        return int(first), int(stop)

    def predict(
        self,
        replay: ReplayFolder,
        rows: KnownRows,
        night: str,
        start_ns: int,
        stop_ns: int,
        device: torch.device,
    ) -> Predictions:
        """Return what a night's deployed weights predict for the bars that are decided in `[start_ns, stop_ns)`.

        Rows are those on which a live system would have decided, numbered in the panel of the whole range.

        Raises:
            CheckpointError: the weights are gone or damaged.
        """
        first, stop = self.steps(start_ns, stop_ns)
        begin = max(0, first - rows.recipe.window_bars + 1)
        part = _cut(self.data, begin, stop)
        wanted = part.labels.decidable & part.block.mask.any(dim=-1)
        wanted[:, : first - begin] = False
        index = torch.nonzero(wanted.flatten()).squeeze(-1)
        if not len(index):
            nothing = np.zeros(0, dtype=np.int32)
            return Predictions(nothing, nothing, np.zeros(0, np.float32), np.zeros(0, np.float32))
        model = load_deployed(replay.night(night).path / "deploy", part, rows.recipe, device)
        found = predict_rows(model, index, part)
        return replace(
            found, step=found.step + np.int32(begin), label=np.full(len(index), np.nan, np.float32)
        )


def write_served(
    replay: ReplayFolder,
    rows: KnownRows,
    following: FollowingBars,
    number: int,
    night: ReplayedNight,
    stop_ns: int,
    device: torch.device,
) -> None:
    """Write what the version that serves and the newest refit predict until the next night.

    A version that is the newest refit itself is written once.
    """
    files = {"newest": night.newest_night}
    if night.serving_night != night.newest_night:
        files["serving"] = night.serving_night
    for what, origin in files.items():
        if origin:
            found = following.predict(replay, rows, origin, night.at_ns, stop_ns, device)
            path = replay.night_file(number, what)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(path, found, following.data.panel)


def _cut(data: NightData, first: int, stop: int) -> NightData:
    """Return steps of a night's data."""
    panel = data.panel.steps(first, stop)
    block: FeatureBlock = replace(
        data.block,
        values=data.block.values[:, first:stop],
        mask=data.block.mask[:, first:stop],
        ts_open_ns=panel.ts_open_ns,
    )
    labels: dict[str, Any] = {
        item.name: getattr(data.labels, item.name)[..., first:stop] for item in fields(Labels)
    }
    return replace(data, panel=panel, block=block, labels=Labels(**labels), past=data.past[:, first:stop])
