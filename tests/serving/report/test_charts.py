"""Properties of charts and formatting for any data."""

from __future__ import annotations

import doctest
import itertools
import math
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving import formatting
from serving.report import charts as svg
from serving.report import features
from serving.report import lake_queries as recorded
from serving.report import pnl as money
from storage.clock import DAY_NS, NS

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


class Reader(HTMLParser):
    """The elements and the text of a piece of markup."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("module", [features, money, recorded, svg, formatting])
def test_examples_in_docstrings_hold(module: object) -> None:
    done = doctest.testmod(module)  # type: ignore[arg-type]
    assert done.attempted > 0
    assert done.failed == 0


@given(st.text().filter(lambda text: "\r" not in text and "\x00" not in text))
def test_text_is_escaped(text: str) -> None:
    read = Reader(svg.el("text", text, aria_label=text))
    assert read.tags == ["text"]
    assert read.attributes == [("aria-label", text)]
    assert read.text == text


@given(FINITE, FINITE, st.integers(1, 12))
def test_ticks_are_few_round_and_within_the_scale(low: float, high: float, most: int) -> None:
    assume(high - low > max(abs(low), abs(high), 1e-3) * 1e-6)
    ticks = svg.Linear(low, high).ticks(most)
    room = (high - low) * 1e-6
    assert len(ticks) <= most
    assert all(low - room <= at <= high + room for at in ticks)
    assert ticks == sorted(set(ticks))


@given(st.lists(FINITE, max_size=20))
def test_scale_covers_every_value_and_zero(values: list[float]) -> None:
    scale = svg.Linear.around([*values, math.nan], include=(0.0,))
    assert all(0.0 <= scale.share(value) <= 1.0 for value in (*values, 0.0))


@given(st.integers(0, 20_000 * DAY_NS), st.integers(60 * NS, 3_000 * DAY_NS), st.integers(2, 8))
def test_time_ticks_are_few_and_within_the_axis(start_ns: int, length_ns: int, most: int) -> None:
    ticks = svg.TimeAxis(start_ns, start_ns + length_ns).ticks(most)
    assert len(ticks) <= most + 1
    assert all(0.0 <= share <= 1.0 and text for share, text in ticks)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_names_of_lines_do_not_overlap(wanted: list[float]) -> None:
    places = money.spread(sorted(wanted), least=15.0, low=8.0, high=294.0)
    assert all(b - a >= 15.0 - 1e-6 for a, b in itertools.pairwise(places))
    assert places[0] >= 8.0 - 1e-6
    assert places[-1] <= 294.0 + 1e-6


@given(st.floats(0, 1, allow_nan=False))
def test_only_exact_0_and_1_are_shown_as_0_and_100_percent(share: float) -> None:
    assert (formatting.percent(share) == "100%") == (share == 1.0)
    assert (formatting.percent(share) == "0%") == (share == 0.0)
    assert formatting.percent(share) not in ("100.0%", "0.0%")


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_figures_are_never_written_as_nan_or_negative_zero(value: float) -> None:
    for said in (formatting.signed(value), formatting.decimal(value), formatting.signed_percent(value)):
        assert "nan" not in said
        assert "inf" not in said
        assert said.strip("%").removeprefix(formatting.MINUS) != "0.00" or formatting.MINUS not in said
        assert "-" not in said


@given(st.integers(1, 3_000), st.sampled_from([1, 60, 300, 3_600]))
def test_heat_map_never_has_too_many_columns(hours: int, bar_s: int) -> None:
    start_ns = 1_700_000_000 * NS
    stop_ns = start_ns + hours * 3_600 * NS
    bin_ns = recorded.choose_bin_ns(start_ns, stop_ns, bar_ns=bar_s * NS)
    assert (stop_ns - start_ns) / bin_ns <= 168
    assert bin_ns % (bar_s * NS) == 0
