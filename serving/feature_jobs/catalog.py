"""Listings of feature sets, and the description of one feature."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import pyarrow as pa

from features.feature import Feature, deepest_lookback
from features.inputs import CLOCK, LEAVES, STATUS
from features.sets import feature_sets, get_set
from features.versioning.fingerprint import fingerprint
from features.versioning.set_diff import ordered_inputs_of, reached_of
from storage.errors import SettingsError


def list_sets() -> pa.Table:
    """Return one row per set."""
    rows = [
        {
            "set": name,
            "features": len(features),
            "lookback_bars": deepest_lookback(features),
            "fingerprint": fingerprint(features)[:12],
        }
        for name, features in feature_sets().items()
    ]
    return pa.Table.from_pylist(rows)


def list_rows(feature_set: str | None, *, is_short: bool) -> pa.Table:
    """Return one row per feature of a set, or of all sets; `is_short` drops columns to fit a terminal."""
    rows = [
        {
            "set": name,
            "feature": item.name,
            "unit": item.unit,
            "back" if is_short else "lookback_bars": item.lookback_bars,
            "inputs": ", ".join(item.inputs),
            "source": item.source.partition(")")[0] + ")" if is_short and ")" in item.source else item.source,
        }
        for name in ([feature_set] if feature_set else feature_sets())
        for item in get_set(name)
    ]
    table = pa.Table.from_pylist(rows)
    return table.drop_columns(["set", "inputs"]) if is_short else table


def describe(name: str, *, with_code: bool) -> Iterator[str]:
    """Yield lines that describe a feature.

    Raises:
        SettingsError: there is no such feature.
    """
    item = find_feature(name)
    yield f"{item.name}: {item.summary}"
    facts = {
        "formula": item.formula,
        "unit": item.unit,
        "missing": item.missing,
        "lookback": f"{item.lookback_bars} bars, {item.own_lookback_bars} of them read by the feature itself",
        "source": item.source,
        "sets": ", ".join(key for key, features in feature_sets().items() if item in features),
        "fingerprint": fingerprint((item,)),
    }
    for key, value in facts.items():
        yield f"  {key:12} {value}"
    yield "inputs:"
    for found in ordered_inputs_of(item):
        limits = ", ".join(f"{key} {value:g}" for key, value in found.params)
        yield f"  {found.name:12} from {', '.join(found.inputs)}" + (f" ({limits})" if limits else "")
    yield "code:"
    for key, text in sorted(reached_of(item).items()):
        yield f"  {key}" + (f" = {text}" if "\n" not in text and len(text) < 60 else "")
        if with_code and "\n" in text:
            yield from (f"    {line}" for line in text.rstrip().splitlines())


def find_feature(name: str) -> Feature:
    """Return a feature of any set by its name.

    Raises:
        SettingsError: there is no such feature; the hint names the closest one.
    """
    by_name = {item.name: item for features in feature_sets().values() for item in features}
    if name not in by_name:
        nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"no feature is called {name!r}", hint=f"use {nearest}, or see: tickwalk features list"
        )
    return by_name[name]


def columns_read(item: Feature) -> list[str]:
    """Return the columns of the panel that a feature reads."""
    named = {part for found in ordered_inputs_of(item) for part in found.inputs}
    return [leaf.removeprefix("panel.") for leaf in LEAVES if leaf in named and leaf not in (CLOCK, STATUS)]
