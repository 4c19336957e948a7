"""What do the feature commands do: which bars are read, what is proven and judged, where does it lie?"""

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
from features.monitoring.health import FeatureHealth, check_health
from features.panel.panel import Panel, load_panel
from features.sets import columns_of, get_set
from features.store.manifest import StoreKey
from features.versioning.set_diff import EDITION, SUFFIX, edition_of, edition_path, read_edition
from serving.report import formatting as words
from storage.atomic_write import write_atomic
from storage.clock import parse_time_ns, width_ns
from storage.errors import RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.artifacts import NightArtifacts


@dataclass(frozen=True, slots=True)
class BarSelection:
    """Which bars of a home's lake are meant.

    Args:
        settings: whose lake, and whose grace.
        feature_set: whose columns are joined beside the bars.
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
        """Return what the options of a command mean.

        Raises:
            SettingsError: there is no such set or width, or a time is none.
            RangeError: the range ends before it begins.
        """
        get_set(feature_set)
        width_ns(width or settings.bars.width)
        since_ns, until_ns = (parse_time_ns(text) if text else None for text in (since, until))
        if since_ns is not None and until_ns is not None and until_ns <= since_ns:
            raise RangeError(
                f"--until {until} is not after --since {since}, so no bar lies between",
                hint="swap them, or leave one out",
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
    def question(self) -> StoreKey:
        """What a store, or a follower, is asked for them."""
        return StoreKey(
            self.feature_set, self.width, self.settings.bars.grace_ns, instruments=self.instruments
        )

    def load(self) -> Panel:
        """Return the panel."""
        with Lake.open(self.settings, read_only=True) as lake:
            return self.load_from(lake, since_ns=self.since_ns)

    def load_from(self, lake: Lake, *, since_ns: int | None) -> Panel:
        """Return the panel of a lake that is open, from a bar on."""
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


# Proof.


def prove_set(bars: BarSelection, *, seed: int) -> list[str]:
    """Prove a set on bars of the lake; return what was compared, line by line.

    Raises:
        LeakError: a feature looks ahead, or the proof is blind.
        RangeError: there are too few bars.
    """
    feature_set = bars.feature_set
    with Lake.open(bars.settings, read_only=True) as lake:
        panel = bars.load_from(lake, since_ns=bars.since_ns).steps(-PROOF_STEPS, None)
        proof = prove(panel, feature_set, seed=seed)
        load = partial(bars.load_from, since_ns=int(panel.ts_open_ns[0]))
        hindsight = prove_point_in_time(
            lake, load, get_set(feature_set), grace_ns=bars.settings.bars.grace_ns, seed=seed
        )
    told = {"passed": True} | proof.to_dict() | {"hindsight": hindsight.to_dict()}
    reach = words.span(int(panel.ts_open_ns[0]), int(panel.ts_close_ns[-1]))
    lines = [
        f"set {feature_set}, {len(get_set(feature_set))} features, code {proof.fingerprint[:12]}: nothing looks ahead",
        f"on {proof.instruments} instruments x {proof.steps:,} {bars.width} bars, {reach} UTC",
        *(f"  {said:52} {count:>14} values, none moved" for said, count in words.proven(told)[:-1]),
        f"  {'beside the returns that came after':52} {hindsight.foretold:>14,} pairs, none is one",
        f"  {'planted leaks':52} {proof.canaries_caught + hindsight.canaries_caught:>14} caught, all of them",
    ]
    if proof.unproven:
        lines.append(f"nowhere known on these bars, so not proven: {', '.join(proof.unproven)}")
    for name, ahead, agreed in hindsight.suspects:
        lines.append(
            f"check {name}: it predicts the return of {ahead} bars with a rank correlation of {agreed:+.2f}"
        )
    return lines


# Health.


def health_of(block: FeatureBlock, panel: Panel, *, newest: float) -> FeatureHealth:
    """Return the health of a block, its newest share of steps held against the rest."""
    refuse_share(newest)
    split = int(panel.n_steps * (1.0 - newest))
    return check_health(block, panel, split_ns=int(panel.ts_open_ns[split]))


def refuse_share(newest: float) -> None:
    """Refuse what is no share, before anything is built for it.

    Raises:
        SettingsError: it is not between 0 and 1.
    """
    if not 0.0 < newest < 1.0:
        raise SettingsError(f"--newest is {newest:g}; it is a share between 0 and 1", hint="use 0.2")


def health_rows(health: FeatureHealth, *, is_short: bool) -> pa.Table:
    """Return one row a feature: how much is known, and how far it drifted; short ones fit a terminal."""
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


def edition_now(feature_set: str) -> dict[str, Any]:
    """Return the edition of a set as its code stands here."""
    return edition_of(get_set(feature_set), feature_set=feature_set)


def write_edition(path: Path, feature_set: str) -> None:
    """Write the edition of a set as its code stands here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(edition_now(feature_set), indent=1, sort_keys=True))


def find_edition(settings: Settings, what: str) -> dict[str, Any]:
    """Return the edition of a night by its id, of a block or an edition by its file, or of a checkpoint by its folder.

    Raises:
        ContractError: nothing readable lies there.
        GateError: no night has that id.
    """
    path = Path(what)
    if path.is_dir():
        held = [folder / EDITION for folder in (path.resolve(), *path.resolve().parents)]
        return read_edition(next((found for found in held if found.exists()), held[0]))
    if path.suffix:
        return read_edition(path if path.name.endswith(SUFFIX) else edition_path(path))
    return read_edition(NightArtifacts.find(settings, what).path / EDITION)
