"""Trials that a user's own code makes on the tests of a night, recorded in the home."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage.settings import load_settings


def record_trial(
    night: str,
    *,
    model: str,
    seed: int = 0,
    folds: Sequence[int] | None = None,
    net: float | None = None,
    sharpe: float | None = None,
    who: str | None = None,
    home: str | Path | None = None,
    config: str | Path | None = None,
) -> bool:
    """Record that your code evaluates a model on the test rows of a night; return whether it is a new trial.

    It adds at most one row to the table `trials`: the same model, seed and tests count once. Give a changed model a
    new name. `tickwalk trials` lists them, and every later report on these test days counts them.

    Args:
        night: its id, as in `HomeReader.nights`.
        model: a name for what you evaluate.
        seed: number of its seed, from 0.
        folds: indices of the folds whose test rows you read (default: all).
        net: return after costs over these tests, a share of capital, if you know it.
        sharpe: its Sharpe ratio per holding period, not annualised, if you know it.
        who: `user@host` (default: you).
        home: the home's folder (default: setting `home`, `./var`).
        config: a settings file, as in `tickwalk.open`.

    Raises:
        GateError: there is no such night or fold, its folds are not planned, or the model has no name.
    """
    from training.night.trial_list import record_trial as record

    settings = load_settings(None if config is None else Path(config), {"home": home})
    return record(settings, night, model=model, seed=seed, folds=folds, net=net, sharpe=sharpe, who=who)
