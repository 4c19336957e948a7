"""The rows that a night is pinned to: bars, funding and fees, with a hash of each.

A night reads bars as they were knowable, the funding that was paid in them, and the taker fees in force. Each is hashed
when the night is opened. The hashes are part of the night's id, so rows that arrive later make another night, and a
snapshot whose rows have other hashes is refused. The snapshot's number is that of the night's pin, since a rebuilt
lake has other numbers. Panels come from `features.store.panel_cache`, so the steps of a night read the lake once; a
panel from a file is hashed like one from the lake.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.panel.panel import Panel, content_hash, load_panel, no_bars_error, served_instruments
from features.sets import columns_of, get_set
from features.store.panel_cache import cached_panel
from storage.clock import NS
from storage.errors import LakeError, RangeError, SettingsError, TickwalkError
from storage.lake.fees import BASE, FeeSchedule, read_fees
from storage.lake.lake import Lake
from storage.lake.point_in_time import Basis
from storage.lake.snapshots import Pin, pins
from storage.settings import Settings
from training.evaluation.costs import Costs
from training.evaluation.funding_charges import due_times
from training.night.artifacts import NightArtifacts
from training.night.readable_range import withheld_from, withholding
from training.recipe import Recipe

_MINUTE_NS: Final = 60 * NS


@dataclass(frozen=True, slots=True)
class PinnedRows:
    """What a night reads.

    Args:
        panel: the served bars.
        lessons: the available bars on the same instruments and steps, where those teach.
        funding: see `read_funding`.
    """

    panel: Panel
    lessons: Panel | None
    funding: np.ndarray | None


def chosen_instruments(
    lake: Lake, recipe: Recipe, *, since_ns: int | None, until_ns: int | None, at: int, grace_ns: int
) -> Sequence[str] | None:
    """Return the ids that a night of the recipe is opened on; `None`: every instrument with bars in the range.

    Raises:
        RangeError: no bar in the range is of an accepted venue.
    """
    if recipe.instruments or not recipe.venues:
        return recipe.instruments or None
    query: dict[str, Any] = {
        "width": recipe.width,
        "since_ns": since_ns,
        "until_ns": until_ns,
        "origins": recipe.origins,
        "at": at,
        "grace_ns": grace_ns,
    }
    found = served_instruments(lake, **query)
    names = [name for name in found if recipe.accepts(name)]
    if not names:
        error = no_bars_error(recipe.width, recipe.origins, since_ns, until_ns)
        venues = sorted({name.partition("|")[0] for name in found})
        raise RangeError(
            f"{error.message} at {' or '.join(recipe.venues)}, which recipe {recipe.name} asks for; "
            f"there are bars of: {', '.join(venues) or 'no venue'}",
            hint="see which recipes fit the lake: tickwalk recipes check",
        )
    return names


def of_venues(panel: Panel, recipe: Recipe) -> Panel:
    """Return the instruments of a panel that are of an accepted venue.

    Raises:
        RangeError: none is.
    """
    places = [place for place, name in enumerate(panel.instruments) if recipe.accepts(name)]
    if not places:
        raise RangeError(f"no bar of {' or '.join(recipe.venues)} is in the range")
    return panel if len(places) == panel.n_instruments else panel.select(places)


def read_pinned(folder: NightArtifacts, lake: Lake, *, features_dir: Path) -> PinnedRows:
    """Return the rows of a night.

    Raises:
        LakeError: the pinned rows differ from those that the night was opened on.
        SettingsError: a fee is missing.
    """
    facts = folder.facts
    at = pinned_at(lake, facts)
    panel, content = cached_panel(
        features_dir,
        lake,
        since_ns=facts["since_ns"],
        instruments=facts["instruments"],
        **_panel_query(folder, at),
    )
    taught = read_lessons(
        lake, folder.recipe, panel, features_dir=features_dir, at=at, grace_ns=_grace_ns(facts)
    )
    funding = read_funding(lake, panel, at=at)
    fees = read_taker_fees(lake, panel, folder.recipe.costs, at=at)
    lessons_hash = None if taught is None else content_hash(taught, folder.recipe.rows)
    hashes = {
        "content_hash": content,
        "lessons_hash": lessons_hash,
        "funding_hash": funding_hash(funding),
        "fee_hash": fee_hash(fees),
    }
    for name, value in hashes.items():
        if value != facts.get(name):
            raise LakeError(
                f"night {facts['night']} was opened on rows with hash {str(facts.get(name))[:12]}, they now have "
                f"{str(value)[:12]}",
                hint="the lake was edited under a pinned snapshot; open a new night",
            )
    return PinnedRows(panel, taught, funding)


def read_lessons(
    lake: Lake, recipe: Recipe, panel: Panel, *, features_dir: Path | None, at: int, grace_ns: int
) -> Panel | None:
    """Return the bars that teach in place of the served ones, on their instruments and steps; `None`: the served do.

    Args:
        lake: has the rows.
        recipe: says which rows teach.
        panel: the served bars.
        features_dir: cache of panels; `None`: read without it, as for a lake of which a part is hidden.
        at: snapshot of the lake.
        grace_ns: as in `load_panel`.
    """
    if recipe.rows == "served":
        return None
    bounds: dict[str, Any] = {"since_ns": int(panel.ts_open_ns[0]), "until_ns": int(panel.ts_close_ns[-1])}
    query: dict[str, Any] = {
        "width": recipe.width,
        "origins": recipe.origins,
        "at": at,
        "grace_ns": grace_ns,
        "rows": recipe.rows,
    } | bounds
    found = set(served_instruments(lake, **query))
    names = [name for name in panel.instruments if name in found]
    if not names:
        raise no_bars_error(recipe.width, recipe.origins, bounds["since_ns"], bounds["until_ns"])
    query |= {"instruments": names, "joined": columns_of(get_set(recipe.feature_set))}
    if features_dir is None:
        lessons = load_panel(lake, **query)
    else:
        lessons, _ = cached_panel(features_dir, lake, **query)
    return lessons.reindexed(panel.instruments)


def pinned_at(lake: Lake, facts: Mapping[str, Any]) -> int:
    """Return the snapshot that has a night's rows: that of its pin, or else that of `night.json`."""
    pinned = [pin.snapshot for pin in pins(lake) if pin.name == facts["night"]]
    return pinned[-1] if pinned else int(facts["snapshot"])


def reads_as_pinned(settings: Settings, pin: Pin, lake: Lake, at: int) -> bool | None:
    """Return whether a snapshot has the rows of a night's pin; `None` if the night's folder is gone."""
    folder = NightArtifacts(settings.models_dir / "nights" / pin.name)
    if not folder.has("night.json"):
        return None
    with withholding(lake, withheld_from(folder)):
        return _has_pinned_rows(settings, folder, pin, lake, at)


def _has_pinned_rows(settings: Settings, folder: NightArtifacts, pin: Pin, lake: Lake, at: int) -> bool:
    facts = folder.facts
    try:
        panel = panel_loader(folder, at)(lake, since_ns=facts["since_ns"], instruments=facts["instruments"])
        lessons = read_lessons(
            lake,
            folder.recipe,
            panel,
            features_dir=settings.features_dir,
            at=at,
            grace_ns=_grace_ns(facts),
        )
        funding = read_funding(lake, panel, at=at)
        # Older nights took fees from the code and recorded no hash of them.
        fees = (
            fee_hash(read_taker_fees(lake, panel, folder.recipe.costs, at=at))
            if "fee_hash" in facts
            else None
        )
    except TickwalkError:  # bars of some instrument, or a fee, are missing
        return False
    taught = None if lessons is None else content_hash(lessons, folder.recipe.rows)
    hashes = [pin.content, facts.get("lessons_hash"), facts.get("funding_hash"), facts.get("fee_hash")]
    return [content_hash(panel), taught, funding_hash(funding), fees] == hashes


def panel_loader(folder: NightArtifacts, at: int, rows: Basis = "served") -> Callable[..., Panel]:
    """Return `load_panel` for a night's bars at a snapshot, without the lake, start and instruments."""
    return partial(load_panel, rows=rows, **_panel_query(folder, at))


def _grace_ns(facts: Mapping[str, Any]) -> int:
    return int(facts["grace_ms"]) * 1_000_000


def _panel_query(folder: NightArtifacts, at: int) -> dict[str, Any]:
    """Return a night's arguments of `load_panel` at a snapshot, without start and instruments."""
    facts, recipe = folder.facts, folder.recipe
    return {
        "width": recipe.width,
        "until_ns": facts["until_ns"],
        "origins": recipe.origins,
        "joined": columns_of(get_set(recipe.feature_set)),
        "at": at,
        "grace_ns": _grace_ns(facts),
    }


def read_funding(lake: Lake, panel: Panel, *, at: int) -> np.ndarray | None:
    """Return the funding rates due within each bar, (S, T), or `None` if the lake has none in the range.

    A payment due at a bar's close belongs to that bar (training.evaluation.funding_charges.due_times). A payment that
    is stored twice, with its stamp and without its delay, counts once: the row with the earlier stamp. Stamps after the
    last close are not read, so that nothing after the range changes a night.
    """
    rows = lake.query(
        "SELECT instrument, epoch_us(ts_event) * 1000 AS at_ns, funding_rate FROM funding "
        "WHERE list_contains(?, instrument) AND epoch_us(ts_event) BETWEEN ? AND ? ORDER BY instrument, ts_event",
        (
            list(panel.instruments),
            int(panel.ts_open_ns[0] - _MINUTE_NS) // 1000,
            int(panel.ts_close_ns[-1]) // 1000,
        ),
        at=at,
    )
    if rows.num_rows == 0:
        return None
    due_ns = due_times(rows["at_ns"].to_numpy())
    instrument = np.array([panel.instruments.index(name) for name in rows["instrument"].to_pylist()])
    step = (due_ns - int(panel.ts_open_ns[0]) - 1) // panel.width_ns
    is_first = np.ones(len(due_ns), dtype=bool)
    is_first[1:] = (np.diff(due_ns) != 0) | (np.diff(instrument) != 0)
    counts = is_first & (step >= 0) & (step < panel.n_steps)
    paid = np.zeros(panel.status.shape)
    np.add.at(paid, (instrument[counts], step[counts]), rows["funding_rate"].to_numpy()[counts])
    return paid


def funding_hash(paid: np.ndarray | None) -> str:
    """Return a hash of the result of `read_funding`."""
    return hashlib.sha256(b"" if paid is None else np.ascontiguousarray(paid, dtype="<f8").data).hexdigest()


def read_taker_fees(lake: Lake, panel: Panel, costs: Costs, *, at: int) -> FeeSchedule:
    """Return the taker fees in force at the closes of a panel's bars, as known at each; none where `costs` sets one.

    A snapshot from before the lake had any fees reads the newest ones: they are reference data with times of their own.

    Raises:
        SettingsError: the lake has no fee for an instrument at some close.
    """
    if costs.taker_fee_bps is not None:
        return FeeSchedule("taker", BASE, ())
    until_ns = int(panel.ts_close_ns[-1])
    fees = read_fees(lake, "taker", until_ns=until_ns, at=at)
    if not fees.rows:
        fees = read_fees(lake, "taker", until_ns=until_ns)
    try:
        for name in panel.instruments:
            fees.bps(name, panel.ts_close_ns)
    except SettingsError as error:
        raise SettingsError(
            f"{error.message} (snapshot {at})",
            hint="set costs.taker_fee_bps in the recipe; the known fees are listed by: tickwalk reference fees",
        ) from error
    return fees.used(panel.instruments, panel.ts_close_ns)


def fee_hash(fees: FeeSchedule) -> str:
    """Return a hash of the result of `read_taker_fees`."""
    return hashlib.sha256(json.dumps(asdict(fees), sort_keys=True).encode()).hexdigest()
