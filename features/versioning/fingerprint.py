"""Fingerprint of a feature set: a hash of its declarations and of all code that its functions reach."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import lru_cache

from features.feature import Feature, evaluate
from features.inputs import INPUTS, Input, leader_rows
from features.versioning.source_hash import reached_sources


@lru_cache
def fingerprint(features: tuple[Feature, ...]) -> str:
    """Return the version of these features, as a hash.

    It covers names, order, inputs, lookbacks and windows, the source text of every function that they reach, and the
    constants that those read: any changed line changes the version.
    """
    inputs = inputs_of(features)
    declared = [
        *((item.name, item.inputs, item.own_lookback_bars, item.params) for item in features),
        *((item.name, item.inputs, item.lookback_bars, item.params) for item in inputs.values()),
    ]
    functions: list[Callable[..., object]] = [evaluate, leader_rows]
    functions += [item.function for item in features]
    functions += [item.function for item in inputs.values()]
    payload = json.dumps({"declared": declared, "sources": reached_sources(functions)}, sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()


def inputs_of(features: Iterable[Feature]) -> dict[str, Input]:
    """Return every direct and indirect input of the features, by name."""
    found: dict[str, Input] = {}
    pending = [name for item in features for name in item.inputs]
    while pending:
        name = pending.pop()
        if name in INPUTS and name not in found:
            found[name] = INPUTS[name]
            pending += INPUTS[name].inputs
    return dict(sorted(found.items()))
