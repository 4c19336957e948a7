"""Judgement of predictions from Python; the only part of the public interface that writes into a home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.clock import iso
from storage.settings import load_settings
from tickwalk.instants import Instant, to_ns

if TYPE_CHECKING:
    from training.night.night_list import NightDetails


def judge_in(
    predictions: str | Path | Any,
    *,
    recipe: str,
    name: str | None,
    since: Instant | None,
    until: Instant | None,
    at: int | None,
    home: str | Path | None,
    config: str | Path | None,
) -> NightDetails:
    """Judge predictions and return the result; see `tickwalk.judge`."""
    from serving.judging import run_judgement
    from training.night.night_list import read_night

    settings = load_settings(None if config is None else Path(config), {"home": home})
    done = run_judgement(
        settings,
        predictions,
        recipe=recipe,
        name=name,
        since=_text(since, "since"),
        until=_text(until, "until"),
        at=at,
    )
    return read_night(settings, done.night)


def _text(value: Instant | None, name: str) -> str | None:
    """Return an instant as the steps of a night take it."""
    return None if value is None else iso(to_ns(value, name=name))
