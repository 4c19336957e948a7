"""Which networks of a night train as stacks (training/models/stacked.py): measured once, when the night is opened.

Stacked fits have other bits than single ones, so the choice is part of the night's identity and of a fit's. What was
measured is kept in `models/stacking.json` of the home; nights of the same networks on the same computer repeat it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from features.sets import get_set
from storage.code_version import sources_hash
from storage.errors import SettingsError
from storage.logs import get_logger
from storage.settings import Settings
from training.data.panel import PanelWindows
from training.models.checkpoint import ONE_BY_ONE, write_json
from training.models.controls import BASELINES
from training.models.device import compute_identity
from training.models.fit_rule import FitRule
from training.models.networks import make_network, network_code
from training.models.stacked import StackedFit, fit_stacked
from training.models.trainer import TrainingRows, fit_network
from training.night.paces import random_windows
from training.recipe import Recipe

logger = get_logger(__name__)

LANES: Final = 16
LEAST_GAIN: Final = 1.5
"""Ratio of the time of single fits to that of a stack from which a network is stacked."""
_LEAST_FITS: Final = 8
_BATCHES: Final = 4
_LONG_STEP_S: Final = 0.02
"""A step that takes longer has enough arithmetic, and a stack of several would take long to measure."""


def stacking_name(lanes: int) -> str:
    """Return how a fit is computed, for its stamp.

    >>> stacking_name(16), stacking_name(0)
    ('16 lanes', 'one by one')
    """
    return f"{lanes} lanes" if lanes else ONE_BY_ONE


def choose_stacking(settings: Settings, recipe: Recipe, device: torch.device) -> dict[str, int]:
    """Return the number of lanes of each network that a night trains as a stack.

    Args:
        settings: `training.stacking` is `auto` (networks that gain `LEAST_GAIN` or more), `on` (all that can be
            stacked) or `off`; the home keeps what was measured.
        recipe: its networks; with fewer than `_LEAST_FITS` fits of each, `auto` trains them one by one.
        device: that computes them.
    """
    mode = settings.training.stacking
    fits = recipe.folds.n_folds * recipe.seeds
    if mode == "off" or (mode == "auto" and fits < _LEAST_FITS):
        return {}
    names = [name for name, _ in recipe.trained if name not in BASELINES]
    known = _Known(settings.models_dir / "stacking.json")
    chosen = {}
    for name in dict.fromkeys(names):
        key = _key(name, recipe, device)
        gain = known.gain(key)
        if gain is None:
            gain = measure_gain(name, recipe, device, fits=fits)
            known.keep(key, name, gain)
            logger.info("stacking measured", model=name, lanes=LANES, gain=round(gain, 2))
        if gain > 0 if mode == "on" else gain >= LEAST_GAIN:
            chosen[name] = LANES
    return chosen


class _Known:
    """The gains that were measured in a home."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}  # never measured, or damaged: measured again
        return found

    def gain(self, key: str) -> float | None:
        entry = self._read().get(key)
        return None if entry is None else float(entry["gain"])

    def keep(self, key: str, model: str, gain: float) -> None:
        write_json(self._path, self._read() | {key: {"model": model, "lanes": LANES, "gain": gain}})


def _key(name: str, recipe: Recipe, device: torch.device) -> str:
    """Return a hash of everything that the gain of a network depends on."""
    parts: Mapping[str, Any] = compute_identity(device) | {
        "model": name,
        "project_code": network_code(name),
        "code": sources_hash("training"),
        "torch": str(torch.__version__),
        "window_bars": recipe.window_bars,
        "n_features": len(get_set(recipe.feature_set)),
        "batch": recipe.fit.batch,
        "lanes": LANES,
        "fits": recipe.folds.n_folds * recipe.seeds,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def measure_gain(name: str, recipe: Recipe, device: torch.device, *, fits: int) -> float:
    """Return how many times as fast some fits of a network train in stacks as alone; 0 where they cannot be stacked.

    A stack takes the same time however many of its lanes have a fit. Processor time counts on a CPU, so that other work
    of the machine decides nothing.
    """
    rule = FitRule(epochs=1, checks=1, batch=recipe.fit.batch)
    index = torch.arange(_BATCHES * rule.batch)
    windows = random_windows(recipe, rows=len(index), device=device)
    label = torch.randn(len(index), generator=torch.Generator().manual_seed(1))
    rows = TrainingRows(index, label, torch.ones(len(index), dtype=torch.bool))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    alone_s = _seconds_alone(name, windows, rows, rule, clock)
    if alone_s > _LONG_STEP_S * _BATCHES:
        return 0.0
    warm = replace(rows, index=index[: rule.batch], label=label[: rule.batch], mask=rows.mask[: rule.batch])
    try:
        for part in (warm, rows):
            stack = [_fit(name, windows, part, seed) for seed in range(LANES)]
            began_s = clock()
            fit_stacked(stack, rule, lanes=LANES)
            stacked_s = clock() - began_s
    except SettingsError as error:
        logger.info("network is trained one by one", model=name, reason=error.message)
        return 0.0
    return fits * alone_s / max(math.ceil(fits / LANES) * stacked_s, 1e-9)


def _seconds_alone(name: str, windows: PanelWindows, rows: TrainingRows, rule: FitRule, clock: Any) -> float:
    for _ in range(2):
        network = _network(name, windows, 0)
        began_s = clock()
        fit_network(network, windows, rows, None, rule, seed=0, points=1)
        taken_s: float = clock() - began_s
    return taken_s


def _fit(name: str, windows: PanelWindows, rows: TrainingRows, seed: int) -> StackedFit:
    return StackedFit(_network(name, windows, seed), windows, rows, None, seed, points=1)


def _network(name: str, windows: PanelWindows, seed: int) -> torch.nn.Module:
    return make_network(name, window_bars=windows.window_bars, n_features=windows.n_features, seed=seed)
