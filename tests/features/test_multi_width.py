"""Features of wider bars joined to narrower ones, point-in-time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from features.build import build_features
from features.multi_width import join_wider
from features.panel.panel import Panel
from storage.errors import ContractError
from tests.features.panels import MINUTE_NS, START_NS, random_panel
from tests.plugins.property_tests import examples as example_count

HOUR_NS = 60 * MINUTE_NS
FIRST_NS = START_NS // HOUR_NS * HOUR_NS
HOURS = 200


def hours(seed: int = 1) -> Panel:
    clock = FIRST_NS + HOUR_NS * np.arange(HOURS, dtype=np.int64)
    panel = random_panel(4, HOURS, seed=seed).select([0, 1, 2])
    return replace(panel, width_ns=HOUR_NS, ts_open_ns=clock)


WIDE = hours()
NARROW = replace(
    random_panel(4, 900),
    ts_open_ns=FIRST_NS + 160 * HOUR_NS - 30 * MINUTE_NS + MINUTE_NS * np.arange(900, dtype=np.int64),
)
BLOCK, WIDE_BLOCK = build_features(NARROW, "candles"), build_features(WIDE, "candles")
JOINED = join_wider(BLOCK, WIDE_BLOCK)


def test_each_close_has_the_last_completed_hour() -> None:
    count, compared = len(BLOCK.names), 0
    assert JOINED.names[count:] == (*(f"{name}@1h" for name in WIDE_BLOCK.names), "age@1h")
    assert torch.equal(JOINED.values[:, :, :count], BLOCK.values)
    for step, open_ns in enumerate(BLOCK.ts_open_ns.tolist()):
        close_ns = open_ns + MINUTE_NS
        hour = (close_ns - FIRST_NS) // HOUR_NS - 1  # the last one that ended at or before this close
        known = WIDE_BLOCK.mask[:, hour]
        assert torch.equal(JOINED.mask[:3, step, count:-1], known)
        assert torch.equal(JOINED.values[:3, step, count:-1], WIDE_BLOCK.values[:, hour])
        age = (close_ns - FIRST_NS) % HOUR_NS // MINUTE_NS
        assert JOINED.values[:3, step, -1].tolist() == [
            age if some else 0 for some in known.any(dim=1).tolist()
        ]
        compared += int(known.sum())
    assert compared > 20_000
    assert not JOINED.mask[3, :, count:].any(), "the fourth instrument has no hours"


@examples(max_examples=example_count(20), deadline=None)
@given(step=st.integers(0, 899))
def test_an_incomplete_hour_changes_nothing(step: int) -> None:
    """Replace every hour that closes after a minute's close: no value at or before that minute changes."""
    close_ns = int(BLOCK.ts_open_ns[step]) + MINUTE_NS
    over = int((WIDE.ts_close_ns <= close_ns).sum())
    other = hours(seed=2)
    values = {
        name: torch.cat((WIDE.values[name][:, :over], other.values[name][:, over:]), 1)
        for name in WIDE.values
    }
    status = torch.cat((WIDE.status[:, :over], other.status[:, over:]), 1)
    changed = join_wider(BLOCK, build_features(replace(WIDE, values=values, status=status), "candles"))
    assert torch.equal(changed.values[:, : step + 1], JOINED.values[:, : step + 1])
    assert torch.equal(changed.mask[:, : step + 1], JOINED.mask[:, : step + 1])
    if over < HOURS and step < 800:
        assert not torch.equal(changed.values, JOINED.values), "what comes later must come through"


def test_before_the_first_completed_hour_values_are_missing() -> None:
    late = replace(WIDE_BLOCK, ts_open_ns=WIDE_BLOCK.ts_open_ns + 165 * HOUR_NS)
    joined = join_wider(BLOCK, late)
    assert not joined.mask[:, : 30 + 6 * 60 - 1, len(BLOCK.names) :].any()
    assert joined.mask[:, 30 + 6 * 60 - 1 :, len(BLOCK.names) :].any()


def test_narrower_bars_are_refused() -> None:
    with pytest.raises(ContractError, match="bars of 1m cannot be joined to bars of 1h"):
        join_wider(WIDE_BLOCK, BLOCK)
