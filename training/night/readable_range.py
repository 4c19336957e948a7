"""Bars that a recipe may read while holdouts are sealed.

Two rules keep market data of a sealed range from a recipe. The range of bars must not reach into it
(`enforce_holdouts`), and while a night reads, the lake hides every row that speaks of a time in it, such as the funding
that a feature looks back on (storage/lake/withheld.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from features.panel.panel import open_bounds_us
from storage.clock import US_NS, floor_ns, iso, width_ns
from storage.errors import HoldoutError, RangeError
from storage.lake.lake import Lake
from storage.lake.withheld import TimeRange
from storage.logs import get_logger
from training.night.artifacts import NightArtifacts
from training.night.holdouts import HoldoutEvent, read_holdouts, sealed_now
from training.recipe import Recipe

logger = get_logger(__name__)

_BARS: Final = """
    SELECT epoch_us(min(ts_open)) AS first_us,
           epoch_us(max(ts_open) FILTER (ts_close <= make_timestamptz($2))) AS last_us
    FROM bars
    WHERE width = $1 AND ts_open >= make_timestamptz($3) AND ts_open < make_timestamptz($4)
      AND ts_knowable_ns <= epoch_us(ts_close) * 1000 + $5
      AND list_contains($6, origin) AND (len($7) = 0 OR list_contains($7, instrument))
      AND (len($8) = 0 OR list_contains($8, split_part(instrument, '|', 1)))
"""
_EVER_NS: Final = 2**62
_FILE: Final = "holdout.json"


@dataclass(frozen=True, slots=True)
class ReadableRange:
    """The bars that a recipe may read.

    Args:
        since_ns, until_ns: bounds of the bars' open, as they were given or cut; `None`: no bound.
        cut: the holdout at which the range ends, because no end was given; `None`: it is not cut.
        withheld: all sealed ranges.
    """

    since_ns: int | None
    until_ns: int | None
    cut: TimeRange | None
    withheld: tuple[TimeRange, ...]

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Say in a `RangeError` of the block that the range ends at a sealed holdout, if it does."""
        try:
            yield
        except RangeError as error:
            if self.cut is None:
                raise
            since_ns, until_ns = self.cut
            raise RangeError(
                f"{error.message}; the range ends at the sealed holdout {iso(since_ns)} to {iso(until_ns)}",
                hint=f"{error.hint}; bars after it: --since {iso(until_ns)}",
            ) from error


def enforce_holdouts(
    lake: Lake,
    recipe: Recipe,
    *,
    since_ns: int | None,
    until_ns: int | None,
    grace_ns: int,
    at: int | None = None,
) -> ReadableRange:
    """Return the bars that a recipe may read, and hide market data of sealed ranges from every later query of a lake.

    Without `until_ns`, bars are read up to the first seal after the first bar. What counts as the first and the last
    bar does not depend on rows within a seal, and a bar that closes within one belongs to it.

    Args:
        lake: of the home; what it hides is set.
        recipe: names the bars: their width, origins, venues and instruments.
        since_ns, until_ns: bounds of the bars' open; `None`: all bars.
        grace_ns: from a bar's close until it must be known, as in `load_panel`.
        at: a snapshot of the lake (default: the newest); seals are always those of now.

    Raises:
        HoldoutError: the bounds reach into a sealed range, or no bar is left outside.
    """
    sealed = sealed_now(read_holdouts(lake))
    lake.withhold([(item.since_ns, item.until_ns) for item in sealed])
    width, step_ns = recipe.width, width_ns(recipe.width)
    last_open_ns = None if until_ns is None else until_ns + -until_ns % step_ns
    near = [item for item in sealed if item.overlaps(_or(since_ns, -_EVER_NS), _or(last_open_ns, _EVER_NS))]
    if not near:
        return ReadableRange(since_ns, until_ns, None, lake.withheld)

    def bounds_of_bars(closed_ns: int) -> tuple[int | None, int | None]:
        """Return the open of the first bar, and of the last that closes by a time."""
        first_us, stop_us = open_bounds_us(since_ns, until_ns)
        chosen = [list(names) for names in (recipe.origins, recipe.instruments, recipe.venues)]
        params = [width, closed_ns // US_NS, first_us, stop_us, grace_ns, *chosen]
        row = lake.query(_BARS, params, at=at).to_pylist()[0]
        first, last = (None if row[name] is None else row[name] * US_NS for name in ("first_us", "last_us"))
        return first, last

    start_ns = bounds_of_bars(_EVER_NS)[0] if since_ns is None else since_ns
    if start_ns is None:
        raise _nothing_left(near[0], width)
    ahead = next((item for item in near if item.until_ns > start_ns), None)
    if ahead is None:
        return ReadableRange(since_ns, until_ns, None, lake.withheld)
    if ahead.since_ns <= start_ns or (until_ns is not None and until_ns > ahead.since_ns):
        raise _reaches_in(ahead, since_ns, until_ns)
    if until_ns is not None:  # a bar that opens before it closes within the seal
        return ReadableRange(since_ns, floor_ns(ahead.since_ns, step_ns), None, lake.withheld)
    _, last_ns = bounds_of_bars(ahead.since_ns)
    if last_ns is None:
        raise _nothing_left(ahead, width)
    logger.info("range ends at a sealed holdout", since=iso(ahead.since_ns), until=iso(ahead.until_ns))
    return ReadableRange(since_ns, last_ns + step_ns, (ahead.since_ns, ahead.until_ns), lake.withheld)


def write_readable(folder: NightArtifacts, readable: ReadableRange) -> None:
    """Write `holdout.json` of a night, if any range is sealed."""
    if readable.withheld:
        folder.write(_FILE, {"withheld": readable.withheld, "cut": readable.cut})


def withheld_from(folder: NightArtifacts) -> list[TimeRange]:
    """Return the ranges that were sealed as a night was opened."""
    found = folder.read(_FILE)["withheld"] if folder.has(_FILE) else []
    return [(since_ns, until_ns) for since_ns, until_ns in found]


def cut_of(folder: NightArtifacts) -> TimeRange | None:
    """Return the holdout at which a night ends, because no end was given; `None`: it is not cut."""
    cut = folder.read(_FILE)["cut"] if folder.has(_FILE) else None
    return None if cut is None else (cut[0], cut[1])


def enforce_on_night(lake: Lake, folder: NightArtifacts) -> None:
    """Hide from a lake what was sealed as a night was opened, also if it is open by now, and what was sealed since.

    Args:
        lake: of the home; what it hides is set.
        folder: the night.

    Raises:
        HoldoutError: a range that the night reads was sealed after it was opened.
    """
    facts = folder.facts
    sealed = sealed_now(read_holdouts(lake))
    for item in sealed:
        if item.overlaps(facts["since_ns"], facts["until_ns"]):
            raise HoldoutError(
                f"night {facts['night']} reads bars from {iso(facts['since_ns'])} to {iso(facts['until_ns'])}, and "
                f"{item.span} was sealed on {iso(item.ts_knowable_ns)}: no recipe reads a sealed holdout",
                hint="open a new night, which ends before it: tickwalk nightly",
            )
    lake.withhold(sorted({*withheld_from(folder), *((item.since_ns, item.until_ns) for item in sealed)}))


@contextmanager
def withholding(lake: Lake, ranges: Sequence[TimeRange]) -> Iterator[None]:
    """Hide the market data of ranges from every query of a lake within the block."""
    before = lake.withheld
    lake.withhold(ranges)
    try:
        yield
    finally:
        lake.withhold(before)


def _reaches_in(seal: HoldoutEvent, since_ns: int | None, until_ns: int | None) -> HoldoutError:
    given = " ".join(
        f"{name} {iso(at_ns)}"
        for name, at_ns in (("since", since_ns), ("until", until_ns))
        if at_ns is not None
    )
    return HoldoutError(
        f"{given or 'the first bar'} reaches into the sealed holdout {seal.span} ({seal.reason}): no recipe reads it",
        hint=f"use --until {iso(seal.since_ns)}, or --since {iso(seal.until_ns)}; opening it is recorded and cannot be "
        "undone: tickwalk holdout open --reason ...",
        since_ns=seal.since_ns,
        until_ns=seal.until_ns,
    )


def _nothing_left(seal: HoldoutEvent, width: str) -> HoldoutError:
    return HoldoutError(
        f"no {width} bar in the range lies outside of the sealed holdout {seal.span}: no recipe reads it",
        hint="record or import bars before it, begin after it with --since, or see: tickwalk holdout status",
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
