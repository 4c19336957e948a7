"""Features in special cases: listings, halts, recycled names, silent or single instruments, unwatched hours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.build import build_features
from features.feature import FeatureBlock
from features.monitoring.health import check_health
from features.panel.panel import Panel
from features.sets import FEATURE_SETS, get_set
from tests.features.panels import CODE, random_panel, with_quotes
from training.data.labels import LabelRule, make_labels
from training.data.panel import Normaliser, PanelWindows

STEPS = 640
HOLE = slice(300, 360)
WHOLE = random_panel(5, STEPS, seed=21)
SETS = sorted(FEATURE_SETS)
OF_MIDS = {
    "log_return_1": "mid_return_1",
    "realised_volatility_30": "mid_volatility_30",
    "return_rank_5": "mid_return_rank_5",
    "market_residual_5": "mid_residual_5",
}
"""Features of prints, and the same of mids, in a set without prints."""
WINDOW = 16


def watched(*, gaps: dict[int, tuple[slice, str]] | None = None, instruments: tuple[str, ...] = ()) -> Panel:
    """Return a panel in which every bar printed, except for stretches of some rows with another status."""
    status = torch.full_like(WHOLE.status, CODE["printed"])
    values = {name: value.clone() for name, value in with_quotes(WHOLE).values.items()}
    values["close"] = torch.nan_to_num(values["close"], nan=100.0)
    for name in ("open", "high", "low", "vwap"):
        values[name] = torch.where(values[name].isnan(), values["close"], values[name])
    for row, (steps, name) in (gaps or {}).items():
        status[row, steps] = CODE[name]
        for column, value in values.items():
            if name != "quiet" or column in ("open", "high", "low", "close", "vwap"):
                value[row, steps] = torch.nan
    held = instruments or tuple(f"hyperliquid|perp|C{row}" for row in range(WHOLE.n_instruments))
    return replace(WHOLE, instruments=held, status=status, values=values)


def built(panel: Panel, name: str) -> FeatureBlock:
    """Build a set and check the invariants of every block: finite values, and zero where masked."""
    block = build_features(panel, name)
    assert torch.isfinite(block.values).all()
    assert not block.values[~block.mask].any()
    assert block.mask.any()
    return block


def own(name: str) -> list[int]:
    """Return the indices of features that need the instrument's own bars: no clock or whole-market features."""
    alone = build_features(WHOLE.select([0]), name)
    return [
        place
        for place, item in enumerate(get_set(name))
        if not item.is_clock and bool(alone.mask[:, :, place].any())
    ]


def place_of(block: FeatureBlock, name: str) -> int:
    """Return the place of a feature, or of the same of mids."""
    return block.names.index(name if name in block.names else OF_MIDS[name])


def known_in(block: FeatureBlock, name: str, row: int, hole: slice, places: list[int]) -> list[str]:
    """Return the features that stay known in a hole for longer than a window that needs four fifths of its bars."""
    features = get_set(name)
    found = []
    for place in places:
        borne = (features[place].own_lookback_bars + 1) // 5 + 1
        if bool(block.mask[row, hole.start + borne : hole.stop, place].any()):
            found.append(features[place].name)
    return found


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


# One instrument among others.


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("status", ["unlisted", "halted", "blind", "unknown"])
def test_a_stretch_without_information_is_masked_and_not_bridged(name: str, status: str) -> None:
    block = built(watched(gaps={2: (HOLE, status)}), name)
    places = own(name)
    assert len(places) > 8
    assert known_in(block, name, 2, HOLE, places) == []
    one_bar = place_of(block, "log_return_1")
    assert not block.mask[2, HOLE.stop, one_bar], "the first bar after a hole has no return"
    assert block.mask[2, HOLE.stop + 1, one_bar]
    # Others are as they would be without it, but for what is across instruments.
    whole = built(watched(), name)
    for place in places:
        assert same(block.values[0, :, place], whole.values[0, :, place]), block.names[place]


@pytest.mark.parametrize("name", SETS)
def test_an_instrument_that_lists_is_known_from_its_own_bars_on(name: str) -> None:
    block = built(watched(gaps={1: (slice(0, 200), "unlisted")}), name)
    assert not block.mask[1, :200][:, own(name)].any()
    assert not block.mask[1, 200, place_of(block, "log_return_1")]
    assert block.mask[1, 201, place_of(block, "log_return_1")]
    # A window of which four fifths are there is known; before that it is not.
    volatility = place_of(block, "realised_volatility_30")
    assert block.mask[1, :, volatility].nonzero()[0].item() == 200 + 24
    health = check_health(
        block, watched(gaps={1: (slice(0, 200), "unlisted")}), split_ns=int(block.ts_open_ns[500])
    )
    assert health.refusals == ()
    assert health.coverage[place_of(block, "log_return_1"), 1] > 0.99, "what was not listed does not count"


@pytest.mark.parametrize("name", SETS)
def test_a_recycled_name_ignores_its_predecessor(name: str) -> None:
    names = ("hyperliquid|perp|X", "hyperliquid|perp|X~2", *(f"hyperliquid|perp|C{row}" for row in range(3)))
    gaps = {0: (slice(250, STEPS), "unlisted"), 1: (slice(0, 260), "unlisted")}
    panel = watched(gaps=gaps, instruments=names)
    block = built(panel, name)
    places = own(name)
    assert not block.mask[1, :260][:, places].any()
    assert known_in(block, name, 0, slice(250, STEPS), places) == []
    # With another past of the first, the second is the same to the bit.
    values = {column: value.clone() for column, value in panel.values.items()}
    for value in values.values():
        value[0] = value[0].abs() ** 1.5
    other = built(replace(panel, values=values), name)
    for place in places:
        assert same(block.values[1, :, place], other.values[1, :, place]), block.names[place]
    assert not same(block.values[0], other.values[0])
    labels = make_labels(panel, LabelRule(horizon_bars=5, volatility_bars=20), grace_ns=2_000_000_000)
    assert not labels.mask[0, 244:].any(), "no label reaches over the delisting"
    assert not labels.mask[1, :260].any()
    assert labels.mask[1, 300:600].any()


def test_an_instrument_that_never_prints_is_quiet_and_not_missing() -> None:
    panel = watched(gaps={3: (slice(0, STEPS), "quiet")})
    block = built(panel, "live")
    known = {item: block.mask[3, 200:, place] for place, item in enumerate(block.names)}
    value = {item: block.values[3, 200:, place] for place, item in enumerate(block.names)}
    assert known["empty_share_30"].all()
    assert (value["empty_share_30"] == 1.0).all()
    assert known["print_rate_30"].all()
    assert (value["print_rate_30"] == 0.0).all()
    for name in (
        "log_return_5",
        "realised_volatility_30",
        "vwap_distance_30",
        "flow_imbalance_5",
        "price_age",
    ):
        assert not known[name].any(), name
    assert known["relative_spread"].any(), "its book is watched all the same"


@pytest.mark.parametrize("name", SETS)
def test_a_panel_of_one_instrument_has_its_own_features_and_no_market(name: str) -> None:
    panel = watched()
    alone, among = built(panel.select([2]), name), built(panel, name)
    for place in own(name):
        item = get_set(name)[place]
        if not torch.equal(alone.mask[0, :, place], among.mask[2, :, place]):
            continue  # of a leader, or of a market that one instrument does not make
        assert same(alone.values[0, :, place], among.values[2, :, place]), item.name
    for item in ("return_rank_5", "market_residual_5"):
        assert not alone.mask[0, :, place_of(alone, item)].any()
        assert among.mask[2, :, place_of(among, item)].any()


# Everyone at once.


@pytest.mark.parametrize("name", SETS)
def test_an_unwatched_hour_is_masked_and_no_window_bridges_it(name: str) -> None:
    panel = watched(gaps=dict.fromkeys(range(5), (HOLE, "blind")))
    block = built(panel, name)
    clocks = [place for place, item in enumerate(get_set(name)) if item.is_clock]
    others = [place for place in range(len(block.names)) if place not in clocks]
    for row in range(5):
        assert known_in(block, name, row, HOLE, others) == []
    assert block.mask[:, HOLE][:, :, [block.names.index("hour_sin")]].all()
    assert block.mask[:, HOLE.stop + 200][:, others].any()

    # What a model is given: finite, and every window holds as many steps of the clock, the hole among them.
    rows = torch.ones(block.mask.shape[:2], dtype=torch.bool)
    normaliser = Normaliser.fit(block.values, block.mask, rows)
    windows = PanelWindows(block, normaliser, window_bars=WINDOW, device=torch.device("cpu"))
    samples = torch.arange(5 * STEPS)
    x, mask = windows.batch(samples)
    assert torch.isfinite(x).all()
    assert x.abs().max() <= normaliser.clip
    assert not x[mask == 0.0].any()
    compared = 0
    for step in range(HOLE.start, HOLE.stop + WINDOW):
        expected = block.mask[1, step - WINDOW + 1 : step + 1].to(torch.float32)
        assert torch.equal(mask[1 * STEPS + step], expected)
        inside = [place for place in range(WINDOW) if HOLE.start <= step - WINDOW + 1 + place < HOLE.stop]
        assert not mask[1 * STEPS + step][inside][:, place_of(block, "log_return_1")].any()
        compared += len(inside)
    assert compared == WINDOW * (HOLE.stop - HOLE.start)

    # No label is learnt from over the hole.
    rule = LabelRule(horizon_bars=5, volatility_bars=20)
    labels = make_labels(panel, rule, grace_ns=2_000_000_000)
    assert not labels.mask[:, HOLE.start - 5 : HOLE.stop].any()
    assert labels.mask[:, HOLE.stop + 30 :].any()
    assert np.isfinite(labels.label[labels.mask].numpy()).all()


def test_a_fully_blind_panel_yields_no_training_data_and_no_error() -> None:
    panel = watched(gaps={row: (slice(0, STEPS), "blind") for row in range(5)})
    block = built(panel, "live")
    normaliser = Normaliser.fit(block.values, block.mask, torch.ones(block.mask.shape[:2], dtype=torch.bool))
    x, _ = PanelWindows(block, normaliser, window_bars=WINDOW, device=torch.device("cpu")).batch(
        torch.arange(5 * STEPS)
    )
    assert torch.isfinite(x).all()
    assert not make_labels(panel, LabelRule(horizon_bars=5), grace_ns=0).mask.any()
    assert check_health(block, panel, split_ns=int(block.ts_open_ns[500])).refusals == ()
