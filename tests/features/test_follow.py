"""What is computed beside the recorder, bar by bar, is what a build makes of the same bars afterwards."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from features.follow import Follower
from features.hindsight import LakeAsKnown
from features.manifest import Question
from features.spec import FeatureBlock
from features.step import Row
from storage.clock import NS
from storage.errors import InstrumentError, RangeError
from storage.lake import Lake
from storage.settings import Settings
from tests.features.test_live import SET, Day, make_day


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Four and a half hours with an outage of seven minutes, silence, and prints that come after their bar."""
    return make_day(tmp_path_factory.mktemp("day"), 4.5)


def compare(row: Row, block: FeatureBlock, *, mask: bool) -> int:
    """Refuse a bar that a build makes otherwise; return how many of its values are known."""
    step = int(np.searchsorted(block.ts_open_ns, row.ts_open_ns))
    assert row.ts_open_ns == block.ts_open_ns[step]
    if mask:
        assert torch.equal(row.mask, block.mask[:, step])
    built = block.values[:, step].contiguous()
    assert bool(block.mask[:, step][row.mask].all())
    assert torch.equal(row.values.view(torch.int32)[row.mask], built.view(torch.int32)[row.mask])
    return int(row.mask.sum())


def question_of(
    settings: Settings, width: str = "1m", instruments: tuple[str, ...] | None = None
) -> Question:
    return Question(SET, width, settings.bars.grace_ns, instruments=instruments)


def test_each_bar_is_given_in_its_turn_and_is_the_batch(day: Day) -> None:
    """The lake as it was known at every instant: what came later, a revision for one, is not there yet."""
    first = day.block.lookback_bars + 2
    compared, waited, rows = 0, 0, []
    with Lake.open(day.settings, read_only=True) as lake:

        def known_at(t_ns: int) -> Lake:
            return cast("Lake", LakeAsKnown(lake, t_ns))

        follower = Follower.begin(known_at(int(day.panel.ts_close_ns[first])), question_of(day.settings))
        assert follower.instruments == day.panel.instruments
        for number, close_ns in enumerate(day.panel.ts_close_ns[first + 1 :].tolist()):
            # Now and then it is asked too early.
            for t_ns in (close_ns + day.settings.bars.grace_ns + 10 * NS, close_ns)[
                :: -1 if number % 8 == 0 else 2
            ]:
                while (row := follower.step(known_at(t_ns))) is not None:
                    assert row.ts_open_ns + day.panel.width_ns + day.settings.bars.grace_ns < t_ns
                    compared += compare(row, day.block, mask=True)
                    rows.append(row.ts_open_ns)
                waited += follower.due_ns < t_ns
    assert rows == day.block.ts_open_ns[first - 1 : first - 1 + len(rows)].tolist()
    assert len(rows) > 100
    assert compared > 20_000
    assert waited > 3, "an outage is waited out: what was missed may still be told"


def test_a_bar_that_is_overdue_is_unknown_where_nothing_came(day: Day) -> None:
    with Lake.open(day.settings, read_only=True) as lake:
        follower = Follower.begin(lake, question_of(day.settings))
        newest = follower.step(lake, is_overdue=True)
        assert newest is not None
        assert newest.ts_open_ns == day.panel.ts_open_ns[-1]
        compare(newest, day.block, mask=True)
        assert follower.step(lake) is None
        beyond = follower.step(lake, is_overdue=True)
        assert beyond is not None
        known = {
            name for name, is_known in zip(day.block.names, beyond.mask.any(dim=0), strict=True) if is_known
        }
        assert known >= {"hour_sin", "hour_cos", "realised_volatility_120"}
        assert not known & {"log_return_1", "relative_spread", "funding_level", "log_return_60"}


def test_some_instruments_are_followed_and_one_that_is_not_there_is_refused(day: Day) -> None:
    names = day.panel.instruments
    with Lake.open(day.settings, read_only=True) as lake:
        follower = Follower.begin(lake, question_of(day.settings, instruments=names[2:4]))
        assert follower.instruments == names[2:4]
        row = follower.step(lake, is_overdue=True)
        assert row is not None
        assert row.values.shape == (2, len(day.block.names))
        with pytest.raises(InstrumentError, match=r"hyperliquid\|perp\|NONE has no bar"):
            Follower.begin(lake, question_of(day.settings, instruments=("hyperliquid|perp|NONE",)))


def test_an_empty_lake_is_refused(settings: Settings) -> None:
    with Lake.open(settings) as lake, pytest.raises(RangeError, match="no 1m bar"):
        Follower.begin(lake, question_of(settings))
