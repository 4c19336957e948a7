"""Page of a replay: figures, who served when, promotions and demotions, and a link to each night's evidence."""

from __future__ import annotations

from serving.formatting import MINUS
from serving.report.replay_page import render_replay
from tests.serving.report.html_page import Page
from tests.serving.report.replays import HOSTILE, NIGHTS, replay_report


def test_the_page_shows_who_served_and_every_change() -> None:
    page = Page(render_replay(replay_report()))
    pictures = [class_ for name, class_ in ((name, held.get("class")) for name, held in page.elements)]
    assert pictures.count("served-paper") == 2  # one band, and the legend
    assert pictures.count("served-champion") == 2
    assert pictures.count("change promoted") == 5  # two lines, two marks, and the legend
    assert pictures.count("change demoted") == 3
    assert "+12.00% after costs" in page.text
    assert f"newest refit: {MINUS}3.00%" in page.text
    assert "of this on paper: 33.3%" in page.text


def test_every_night_that_was_judged_links_to_its_evidence() -> None:
    page = Page(render_replay(replay_report()))
    links = [
        held["href"] for name, held in page.elements if name == "a" and "verdict" in str(held.get("href"))
    ]
    # Of the four nights in the table of changes one failed.
    assert len(links) == NIGHTS - 1 + 3
    assert links[-1] == "../models/replays/x/nights/candles-000000000000/verdict.json"


def test_data_cannot_run_in_the_page() -> None:
    text = render_replay(replay_report())
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_a_replay_in_which_nothing_served_says_so() -> None:
    report = replay_report()
    nothing = dict(report.result) | {"served": [], "changes": [], "served_share": 0.0}
    page = Page(render_replay(type(report)(report.facts, report.recipe, (), nothing, report.home)))
    assert "Nothing served" in page.text
    assert "No night changed what served." in page.text
