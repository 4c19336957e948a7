"""Bars chosen by the feature commands, their leakage tests, health checks and editions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from features.feature import FeatureBlock
from features.leakage.perturbation import PROOF_STEPS, prove
from features.leakage.point_in_time import prove_point_in_time
from features.leakage.smallest_input import write_smallest_input
from features.monitoring.health import FeatureHealth, check_health
from features.panel.panel import Panel, load_panel
from features.sets import columns_of, get_set
from features.store.manifest import StoreKey
from features.versioning.set_diff import EDITION, SUFFIX, edition_of, edition_path, read_edition
from serving import formatting
from storage.atomic_write import write_atomic
from storage.clock import parse_time_ns, width_ns
from storage.errors import LeakError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class BarSelection:
    """Selection of bars in a home's lake.

    Args:
        settings: home of the lake, and the grace period.
        feature_set: set whose columns are joined to the bars.
        width, since_ns, until_ns, at, instruments: as in `features.panel.panel.load_panel`.
    """

    settings: Settings
    feature_set: str
    width: str
    since_ns: int | None
    until_ns: int | None
    at: int | None
    instruments: tuple[str, ...] | None

    @classmethod
    def of(
        cls,
        settings: Settings,
        feature_set: str,
        *,
        width: str | None,
        since: str | None,
        until: str | None,
        at: int | None,
        instruments: Sequence[str] | None,
    ) -> Self:
        """Return the selection for the options of a command.

        Raises:
            SettingsError: the set, the width or a time is invalid.
            RangeError: the range ends before it starts.
        """
        get_set(feature_set)
        width_ns(width or settings.bars.width)
        since_ns, until_ns = (parse_time_ns(text) if text else None for text in (since, until))
        if since_ns is not None and until_ns is not None and until_ns <= since_ns:
            raise RangeError(
                f"--until {until} is not after --since {since}, so the range is empty",
                hint="swap them, or omit one",
            )
        return cls(
            settings=settings,
            feature_set=feature_set,
            width=width or settings.bars.width,
            since_ns=since_ns,
            until_ns=until_ns,
            at=at,
            instruments=tuple(instruments) if instruments else None,
        )

    @property
    def store_key(self) -> StoreKey:
        """Key of these bars in a feature store or a follower."""
        return StoreKey(
            self.feature_set, self.width, self.settings.bars.grace_ns, instruments=self.instruments
        )

    def load(self) -> Panel:
        """Return the panel."""
        with Lake.open(self.settings, read_only=True) as lake:
            return self.load_from(lake, since_ns=self.since_ns)

    def load_from(self, lake: Lake, *, since_ns: int | None) -> Panel:
        """Return the panel from an open lake, starting at `since_ns`."""
        return load_panel(
            lake,
            width=self.width,
            since_ns=since_ns,
            until_ns=self.until_ns,
            instruments=self.instruments,
            joined=columns_of(get_set(self.feature_set)),
            at=self.at,
            grace_ns=self.settings.bars.grace_ns,
        )


# Leakage tests.


def prove_set(bars: BarSelection, *, seed: int) -> list[str]:
    """Test a set for look-ahead on bars of the lake; return the report as lines.

    Raises:
        LeakError: a feature looks ahead, and the hint names a file that shows it; or a planted leak was not caught.
        RangeError: there are too few bars.
    """
    feature_set = bars.feature_set
    with Lake.open(bars.settings, read_only=True) as lake:
        panel = bars.load_from(lake, since_ns=bars.since_ns).steps(-PROOF_STEPS, None)
        load = partial(bars.load_from, since_ns=int(panel.ts_open_ns[0]))
        try:
            proof = prove(panel, feature_set, seed=seed)
            hindsight = prove_point_in_time(
                lake, load, get_set(feature_set), grace_ns=bars.settings.bars.grace_ns, seed=seed
            )
        except LeakError as error:
            folder = bars.settings.home / "leaks"
            raise write_smallest_input(error, panel, get_set(feature_set), feature_set, folder) from error
    result = {"passed": True} | proof.to_dict() | {"hindsight": hindsight.to_dict()}
    time_range = formatting.span(int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1]))
    lines = [
        f"set {feature_set}, {len(get_set(feature_set))} features, code {proof.fingerprint[:12]}: no look-ahead",
        f"on {proof.instruments} instruments x {proof.steps:,} {bars.width} bars, {time_range} UTC",
        *(
            f"  {check:52} {count:>14} values, none changed"
            for check, count in formatting.leakage_checks(result)[:-1]
        ),
        f"  {'correlated with the returns that follow':52} {hindsight.foretold:>14,} pairs, none suspicious",
        f"  {'planted leaks':52} {proof.canaries_caught + hindsight.canaries_caught:>14} caught, all of them",
    ]
    if proof.unproven:
        lines.append(f"unknown on all of these bars, so not tested: {', '.join(proof.unproven)}")
    for name, ahead, agreed in hindsight.suspects:
        lines.append(
            f"inspect {name}: its correlation with the return of the next {ahead} bars is {agreed:+.2f}"
        )
    return lines


def audit_set(bars: BarSelection, *, python: Path | None) -> list[str]:
    """Let forecastguard test a set on bars of the lake; return its report as lines.

    Args:
        bars: the set and the bars.
        python: interpreter of Python 3.12 or newer (default: one that is found).

    Raises:
        LeakError: it found a leak, or could not finish.
        SettingsError: there is no such interpreter, its environment cannot be made, or there are too few bars.
    """
    from features.frame_features import FrameFeatures
    from serving.feature_jobs.outside_audit import audit, find_python, prepare_environment

    folder = bars.settings.home / "auditors"
    prepared = prepare_environment(folder, find_python(python))
    features_of = FrameFeatures(bars.feature_set, width=bars.width)
    return audit(features_of, bars.load(), bars.feature_set, python=prepared, folder=folder).lines()


# Health.


def health_of(block: FeatureBlock, panel: Panel, *, newest: float) -> FeatureHealth:
    """Return the health of a block, comparing its newest share of steps with the rest."""
    check_share(newest)
    split = int(panel.n_steps * (1.0 - newest))
    return check_health(block, panel, split_ns=int(panel.ts_open_ns[split]))


def check_share(newest: float) -> None:
    """Check a share before anything is built.

    Raises:
        SettingsError: it is not between 0 and 1.
    """
    if not 0.0 < newest < 1.0:
        raise SettingsError(f"--newest is {newest:g}; it must be between 0 and 1", hint="use 0.2")


def health_rows(health: FeatureHealth, *, is_short: bool) -> pa.Table:
    """Return one row per feature with coverage and drift; `is_short` drops columns to fit a terminal."""
    rows = []
    for place, name in enumerate(health.names):
        figures = {key: getattr(health, key)[place] for key in ("coverage", "nulls", "psi", "ks")}
        rows.append(
            {
                "feature": name,
                "known": _figure(np.nanmean, figures["coverage"]),
                "least_known": _figure(np.nanmin, figures["coverage"]),
                "nulls": _figure(np.nanmean, figures["nulls"]),
                "constant_on": int(np.nansum(health.constant[place])),
                "psi": _figure(np.nanmedian, figures["psi"]),
                "most_psi": _figure(np.nanmax, figures["psi"]),
                "most_ks": _figure(np.nanmax, figures["ks"]),
            }
        )
    table = pa.Table.from_pylist(rows)
    return table.drop_columns(["least_known", "constant_on", "most_ks"]) if is_short else table


def _figure(of: Any, figures: np.ndarray) -> float | None:
    return round(float(of(figures)), 4) if np.isfinite(figures).any() else None


# Editions.


def current_edition(feature_set: str) -> dict[str, Any]:
    """Return the edition of a set by the current code."""
    return edition_of(get_set(feature_set), feature_set=feature_set)


def write_edition(path: Path, feature_set: str) -> None:
    """Write the edition of a set by the current code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(current_edition(feature_set), indent=1, sort_keys=True))


def find_edition(settings: Settings, what: str) -> dict[str, Any]:
    """Return the edition of a night (by id), a block or an edition (by file), or a checkpoint (by folder).

    Raises:
        ContractError: no readable edition is there.
        GateError: no night has that id.
    """
    path = Path(what)
    if path.is_dir():
        candidates = [folder / EDITION for folder in (path.resolve(), *path.resolve().parents)]
        return read_edition(next((found for found in candidates if found.exists()), candidates[0]))
    if path.suffix:
        return read_edition(path if path.name.endswith(SUFFIX) else edition_path(path))
    from training.night.artifacts import NightArtifacts  # its models take 2 s to import

    return read_edition(NightArtifacts.find(settings, what).path / EDITION)
