"""Editions of a feature set, and the differences between two of them.

An edition describes the code of a set at one moment: each feature's declaration, and the functions, classes and
constants that it reaches, each with a hash of its source. It is stored next to what was built with it, so that a
fingerprint mismatch can be explained by the names of what changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from features.feature import Feature, evaluate
from features.inputs import INPUTS, Input
from features.versioning.fingerprint import fingerprint
from features.versioning.source_hash import reached_sources
from storage.errors import ContractError

EDITION: Final = "edition.json"
"""Name of the file in a night's folder."""
SUFFIX: Final = ".edition.json"
"""Suffix of a block's edition: that of `x.safetensors` is `x.edition.json`."""

Change = Literal["came", "went", "moved", "declared otherwise", "changed code"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One feature that differs between two editions.

    Args:
        feature: its name.
        change: the first that applies of came, went, declared otherwise, changed code, moved.
        what: the parts of the declaration, or the functions and constants, that differ; or the places in the set.
    """

    feature: str
    change: Change
    what: str


def edition_of(features: Sequence[Feature], *, feature_set: str = "") -> dict[str, Any]:
    """Return the current edition of these features, for JSON."""
    sources: dict[str, str] = {}
    described = []
    for item in features:
        reached = reached_of(item)
        sources |= {name: _hash(text) for name, text in reached.items()}
        described.append(
            {
                "name": item.name,
                "inputs": list(item.inputs),
                "lookback_bars": item.lookback_bars,
                "params": dict(item.params),
                "reaches": sorted(reached),
            }
        )
    return {
        "feature_set": feature_set,
        "fingerprint": fingerprint(tuple(features)),
        "features": described,
        "sources": dict(sorted(sources.items())),
    }


def reached_of(item: Feature) -> dict[str, str]:
    """Return the source of every function, class and constant that a feature and its inputs reach."""
    functions: list[Callable[..., object]] = [item.function, evaluate]
    functions += [found.function for found in ordered_inputs_of(item)]
    return reached_sources(functions)


def ordered_inputs_of(item: Feature) -> list[Input]:
    """Return every direct and indirect input of a feature, direct ones first."""
    found, pending = [], list(item.inputs)
    while pending:
        name = pending.pop(0)
        if name in INPUTS and INPUTS[name] not in found:
            found.append(INPUTS[name])
            pending += INPUTS[name].inputs
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between two editions in the order of the new one, removed features last."""
    found = []
    before = {item["name"]: item for item in old["features"]}
    places = {name: place for place, name in enumerate(before)}
    for place, now in enumerate(new["features"]):
        name = now["name"]
        then = before.pop(name, None)
        if then is None:
            found.append(Difference(name, "came", f"place {place}"))
        elif declared := [key for key in ("inputs", "lookback_bars", "params") if then[key] != now[key]]:
            what = ", ".join(f"{key} {_format(then[key])} to {_format(now[key])}" for key in declared)
            found.append(Difference(name, "declared otherwise", what))
        elif changed := _changed(old["sources"], new["sources"], {*then["reaches"], *now["reaches"]}):
            found.append(Difference(name, "changed code", ", ".join(changed)))
        elif places[name] != place:
            found.append(Difference(name, "moved", f"place {places[name]} to {place}"))
    return found + [Difference(name, "went", f"place {places[name]}") for name in before]


def edition_path(block: Path) -> Path:
    """Return the path of a block's edition, in the same folder."""
    return block.with_name(block.name.removesuffix(".safetensors") + SUFFIX)


def read_edition(path: Path) -> dict[str, Any]:
    """Read an edition.

    Raises:
        ContractError: the file is missing or is not an edition.
    """
    try:
        edition: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ContractError(
            f"{path} cannot be read as an edition of features: {error}",
            hint="it is written next to a block by: tickwalk features build",
        ) from error
    if not {"feature_set", "features", "sources", "fingerprint"} <= edition.keys():
        raise ContractError(f"{path} holds no edition of features")
    return edition


def _changed(old: Mapping[str, str], new: Mapping[str, str], names: set[str]) -> list[str]:
    return sorted(name for name in names if old.get(name) != new.get(name))


def _format(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
