"""Differences between editions of a feature set, by feature and function."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from features.inputs import INPUTS
from features.sets import get_set
from features.versioning.fingerprint import fingerprint
from features.versioning.set_diff import (
    differences,
    edition_of,
    edition_path,
    ordered_inputs_of,
    read_edition,
)
from storage.errors import ContractError
from tests.features.test_sets import load_feature


def changes(old: object, new: object) -> list[tuple[str, str, str]]:
    return [(item.feature, item.change, item.what) for item in differences(old, new)]  # type: ignore[arg-type]


def test_the_same_code_differs_nowhere() -> None:
    edition = edition_of(get_set("live"))
    assert differences(edition, json.loads(json.dumps(edition_of(get_set("live"))))) == []
    assert edition["fingerprint"] == fingerprint(get_set("live"))
    assert [item["name"] for item in edition["features"]] == [item.name for item in get_set("live")]


def test_added_removed_and_moved_features_are_named() -> None:
    features = get_set("candles")
    old = edition_of(features)
    assert changes(old, edition_of(features[1:])) == [
        *((item.name, "moved", f"place {n + 1} to {n}") for n, item in enumerate(features[1:])),
        (features[0].name, "went", "place 0"),
    ]
    assert changes(edition_of(features[:-1]), old) == [
        (features[-1].name, "came", f"place {len(features) - 1}")
    ]


def test_a_changed_line_names_its_function(tmp_path: Path) -> None:
    old = edition_of([load_feature(tmp_path)])
    assert changes(old, edition_of([load_feature(tmp_path)])) == []
    assert changes(old, edition_of([load_feature(tmp_path, factor="3.1")])) == [
        ("strange", "changed code", "strange_room.helper")
    ]
    assert changes(old, edition_of([load_feature(tmp_path, lookback=4)])) == [
        ("strange", "declared otherwise", "lookback_bars 34 to 35")
    ]


def test_a_changed_input_limit_names_the_features_that_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    old = edition_of(get_set("live"))
    monkeypatch.setattr("features.ops.rolling.MIN_SHARE", 0.7)
    changed = {item.feature for item in differences(old, edition_of(get_set("live")))}
    assert "realised_volatility_30" in changed
    assert "hour_sin" not in changed


def test_inputs_are_followed_to_the_leaves() -> None:
    item = next(item for item in get_set("live") if item.name == "log_return_1")
    names = [found.name for found in ordered_inputs_of(item)]
    assert names[:2] == ["log_price", "observed"]
    assert set(names) == {"log_price", "observed", "close", "quiet", "printed"}
    assert all(name in INPUTS for name in names)


def test_another_window_is_another_declaration() -> None:
    [first, *rest] = get_set("candles")
    old = edition_of((first, *rest))
    assert changes(old, edition_of((replace(first, params=(("bars", 2),)), *rest))) == [
        (first.name, "declared otherwise", "params bars=1 to bars=2")
    ]


def test_an_edition_is_stored_next_to_its_block(tmp_path: Path) -> None:
    path = edition_path(tmp_path / "week.safetensors")
    assert path.name == "week.edition.json"
    with pytest.raises(ContractError, match=r"week.edition.json cannot be read as an edition"):
        read_edition(path)
    path.write_text("{}")
    with pytest.raises(ContractError, match="holds no edition"):
        read_edition(path)
