"""Fingerprint of a feature set: its declarations and all code that its functions reach."""

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

    It covers names, order, inputs, lookbacks and windows, and the source text of every function that they
    reach, with the constants those read: a changed line is a changed version.
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
    """Return every input that the features are made from, down to the leaves, by name."""
    found: dict[str, Input] = {}
    waiting = [name for item in features for name in item.inputs]
    while waiting:
        name = waiting.pop()
        if name in INPUTS and name not in found:
            found[name] = INPUTS[name]
            waiting += INPUTS[name].inputs
    return dict(sorted(found.items()))
