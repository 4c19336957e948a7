"""Bitwise equality of live, replayed, batch and incremental features over a day with disconnects and late prints."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from features.build import build_features
from features.feature import FeatureBlock
from features.leakage.perturbation import prove
from features.leakage.point_in_time import PointInTimeLake, prove_point_in_time
from features.panel.panel import content_hash
from features.sets import get_set
from storage.lake.lake import Lake
from tests.features.recorded_day import SET, Day, make_day


def compare(one: FeatureBlock, other: FeatureBlock) -> int:
    """Check that two blocks have the same bits; return the number of known values."""
    assert (one.names, one.instruments) == (other.names, other.instruments)
    assert np.array_equal(one.ts_open_ns, other.ts_open_ns)
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(one.values.contiguous().view(torch.int32), other.values.contiguous().view(torch.int32))
    return int(one.mask.sum())


def check_faults(day: Day) -> dict[str, int]:
    """Check that the injected faults took effect; return their counts."""
    with Lake.open(day.settings, read_only=True) as lake:
        found = lake.query(
            "SELECT count(*) FILTER (status = 'blind') AS blind, count(*) FILTER (status = 'quiet') AS quiet, "
            "count(*) FILTER (revision > 0) AS revised FROM bars"
        ).to_pylist()[0]
    counts = {name: int(count) for name, count in found.items()}
    assert all(count > 0 for count in counts.values()), counts
    return counts


def check_replay(day: Day) -> int:
    with Lake.open(day.replayed, read_only=True) as lake:
        panel = day.load(lake)
    assert content_hash(panel) == content_hash(day.panel)
    return compare(build_features(panel, SET), day.block)


def joined(pieces: Iterator[FeatureBlock]) -> FeatureBlock:
    """Concatenate consecutive blocks."""
    parts = list(pieces)
    return dataclasses.replace(
        parts[0],
        values=torch.cat([piece.values for piece in parts], dim=1),
        mask=torch.cat([piece.mask for piece in parts], dim=1),
        ts_open_ns=np.concatenate([piece.ts_open_ns for piece in parts]),
    )


def piecewise(day: Day, edges: list[int]) -> Iterator[FeatureBlock]:
    """Yield the blocks between edges, each computed from its own bars and the lookback before them."""
    opens = day.panel.ts_open_ns
    with Lake.open(day.settings, read_only=True) as lake:
        for start, stop in itertools.pairwise(edges):
            since = max(start - day.block.lookback_bars, 0)
            until_ns = int(opens[stop - 1]) + day.panel.width_ns
            bars = day.load(
                lake, since_ns=int(opens[since]), until_ns=until_ns, instruments=day.panel.instruments
            )
            block = build_features(bars, SET)
            yield dataclasses.replace(
                block,
                values=block.values[:, start - since :],
                mask=block.mask[:, start - since :],
                ts_open_ns=block.ts_open_ns[start - since :],
            )


def check_live(day: Day, steps: list[int]) -> int:
    """Compare bars with their live computation, from the rows of the lake that were knowable at their close."""
    opens, compared = day.panel.ts_open_ns, 0
    with Lake.open(day.settings, read_only=True) as lake:
        for step in steps:
            now_ns = int(day.panel.ts_close_ns[step]) + day.settings.bars.grace_ns
            known = cast("Lake", PointInTimeLake(lake, now_ns))
            since_ns = int(opens[step - day.block.lookback_bars])
            block = build_features(day.load(known, since_ns=since_ns, instruments=day.panel.instruments), SET)
            assert block.ts_open_ns[-1] == opens[step], "no later bar was known yet"
            assert torch.equal(block.mask[:, -1], day.block.mask[:, step])
            assert torch.equal(
                block.values[:, -1].contiguous().view(torch.int32),
                day.block.values[:, step].contiguous().view(torch.int32),
            )
            compared += int(block.mask[:, -1].sum())
    return compared


def test_the_day_had_disconnects_silence_and_late_prints(day: Day) -> None:
    assert check_faults(day)["revised"] > 10
    assert day.panel.n_steps > 250
    assert int(day.block.mask[:, -60:].sum()) > 3_000


def test_live_is_replay(day: Day) -> None:
    assert check_replay(day) > 15_000


def test_live_is_incremental(day: Day) -> None:
    steps = day.panel.n_steps
    compared = compare(joined(piecewise(day, [0, 50, 170, 171, 230, steps])), day.block)
    assert compared > 15_000


def test_batch_is_what_was_known_when_each_bar_closed(day: Day) -> None:
    """Through the disconnects and the late prints: a revision that came later is not in it."""
    steps = list(range(day.block.lookback_bars, day.panel.n_steps - 1, 7))
    assert len(steps) > 10
    assert check_live(day, steps) > 500


def test_the_day_is_proven_from_its_lake(day: Day) -> None:
    result = prove(day.panel, SET, seed=0)
    assert min(result.compared.values()) > 1_000
    with Lake.open(day.settings, read_only=True) as lake:
        found = prove_point_in_time(lake, day.load, get_set(SET), grace_ns=day.settings.bars.grace_ns, seed=0)
    assert found.compared > 5_000
    assert len(found.cuts) == 3


@pytest.mark.drill
@pytest.mark.timeout(1_800)
def test_a_whole_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began_s = time.monotonic()
    whole = make_day(tmp_path, 24.0)
    faults_seen = check_faults(whole)
    steps = whole.panel.n_steps
    assert steps >= 24 * 60 - 1
    counts = {
        "replay": check_replay(whole),
        "hour by hour": compare(joined(piecewise(whole, [*range(0, steps, 60), steps])), whole.block),
        "as known at the close": check_live(whole, list(range(whole.block.lookback_bars, steps - 1, 10))),
    }
    assert min(counts.values()) > 5_000
    with capsys.disabled():
        summary = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print(
            f"\na day of {steps} bars x {whole.panel.n_instruments} ({faults_seen}): equal known values by {summary}; "
            f"{time.monotonic() - began_s:.0f} s"
        )
