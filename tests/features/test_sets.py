"""Feature sets: fingerprints, declarations and the generated page."""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from features.docs import describe_sets
from features.feature import Feature, feature
from features.inputs import INPUTS, leader_rows
from features.panel.panel import AMOUNTS, PRICES
from features.sets import FEATURE_SETS, columns_of, get_set
from features.versioning.fingerprint import fingerprint
from features.versioning.source_hash import reached_sources
from storage.code_version import ROOT

FEATURE_FILE = '''
"""A room of one's own."""
from features.feature import feature
from features.ops import rolling

HALF = 0.5
TABLE = {{"weight": 2.0}}

def helper(x):
    return x * HALF * {factor} + TABLE["weight"]  # {comment}

@feature(lookback_bars={lookback}, inputs=("log_price",), unit="log", source="a test")
def strange(log_price):
    """An odd feature.

    Formula: {formula}

    Missing: never.
    """
    return helper(rolling.shift(log_price, 3))
'''


def load_feature(folder: Path, **changed: object) -> Feature:
    """Write and import the file above with these changes, as a fresh process would."""
    path = folder / "strange_room.py"
    params = {"factor": "3.0", "lookback": 3, "comment": "as it was", "formula": "x"} | changed
    path.write_text(FEATURE_FILE.format(**params))
    linecache.checkcache()
    # A version of equal size, written in the same second, would be taken from the bytecode of the one before.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    spec = importlib.util.spec_from_file_location("strange_room", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.strange
    assert isinstance(found, Feature)
    return found


def test_sets_hold_each_name_once_and_share_one_definition() -> None:
    for name, features in FEATURE_SETS.items():
        names = [item.name for item in features]
        assert len(set(names)) == len(names), name
    assert set(get_set("candles")) < set(get_set("live")) < set(get_set("recorded")) < set(get_set("wide"))
    assert len(get_set("candles")) == 29
    assert len(get_set("live")) == 48
    assert len(get_set("recorded")) == 52
    assert len(get_set("wide")) == 79
    assert len(get_set("mids")) == 19


def test_the_candle_set_reads_nothing_that_candles_lack() -> None:
    lacking = {"trades", "buy_volume", "notional", "vwap", "bid", "ask", "bid_size", "ask_size"}
    lacking |= {"funding_rate", "open_interest", "oracle", "mark"}
    for item in get_set("candles"):
        assert not lacking & set(item.inputs), item.name


def test_the_mid_set_reads_quotes_and_no_prints() -> None:
    """GaiaEx has no trade feed: a feature of prints, or of an amount, would be missing on all of its bars."""
    columns = columns_of(get_set("mids"))
    assert columns >= {"bid", "ask", "bid_size", "ask_size", "quote_age_ms"}
    assert not columns & {*PRICES, *AMOUNTS, "funding_rate", "oracle", "mark", "open_interest"}
    prints = {"log_price", "price_age", "step_return", "printed", "silent", "taped"}
    assert not any(prints & set(item.inputs) for item in get_set("mids"))


def test_order_and_members_are_part_of_the_version() -> None:
    features = get_set("candles")
    versions = {fingerprint(features), fingerprint(features[::-1]), fingerprint(features[:-1])}
    assert len(versions) == 3


@pytest.mark.parametrize(
    "changed", [{"factor": "3.1"}, {"lookback": 4}, {"formula": "y"}, {"comment": "a changed line"}]
)
def test_a_changed_line_is_a_changed_version(changed: dict[str, object], tmp_path: Path) -> None:
    before = fingerprint((load_feature(tmp_path),))
    assert fingerprint((load_feature(tmp_path),)) == before
    assert fingerprint((load_feature(tmp_path, **changed),)) != before


def test_a_window_and_a_limit_of_an_input_are_part_of_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    [first, *rest] = get_set("live")
    before = fingerprint((first, *rest))
    assert fingerprint((replace(first, params=(("bars", 2),)), *rest)) != before
    fingerprint.cache_clear()
    monkeypatch.setitem(INPUTS, "bid", replace(INPUTS["bid"], params=(("limit_ms", 1.0),)))
    assert fingerprint((first, *rest)) != before
    fingerprint.cache_clear()


def test_every_function_that_is_reached_is_in_the_version(tmp_path: Path) -> None:
    item = load_feature(tmp_path)
    sources = reached_sources([item.function])
    assert set(sources) == {
        "strange_room.strange",
        "strange_room.helper",
        "strange_room.HALF",
        "strange_room.TABLE['weight']",
        "features.ops.rolling.shift",
    }
    assert "log_return" not in "".join(sources)
    across = reached_sources(
        [next(item for item in get_set("live") if item.name == "return_rank_5").function]
    )
    assert {
        "features.library.cross_section.return_rank",
        "features.library.returns.log_change",
        "features.ops.rolling.sum_over",
    } <= set(across)
    assert across["features.ops.rolling.MIN_SHARE"] == "0.8"
    assert across["features.ops.cross_section.MIN_INSTRUMENTS"] == "3"


def test_a_cached_function_is_in_the_version() -> None:
    sources = reached_sources([leader_rows])
    assert "relayed" in sources["features.inputs.leader_rows"]
    assert sources["features.inputs._RELAYED['gaiaex']"] == "'hyperliquid'"


def test_a_version_is_the_same_in_another_process() -> None:
    program = (
        "from features.sets import get_set; from features.versioning.fingerprint import fingerprint; "
        "print(fingerprint(get_set('live')), end='')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == fingerprint(get_set("live"))


def test_every_feature_states_what_it_is() -> None:
    for item in get_set("live"):
        assert item.summary.endswith("."), item.name
        assert all((item.formula, item.missing, item.unit, item.source)), item.name
        arguments = list(inspect.signature(item.function).parameters)
        assert len(arguments) == len(item.inputs) + len(item.params), item.name


@pytest.mark.parametrize(
    ("inputs", "lookback", "doc", "message"),
    [
        (("tomorrow",), 0, "X.\n\nFormula: x\n\nMissing: y", "reads 'tomorrow', which is none of"),
        (("close",), -1, "X.\n\nFormula: x\n\nMissing: y", "a lookback of -1 bars"),
        (("close",), 0, "X.\n\nMissing: y", "no paragraph 'Formula: ...'"),
        (("close",), 0, "X.\n\nFormula: y", "no paragraph 'Missing: ...'"),
    ],
)
def test_an_incomplete_declaration_is_refused(
    inputs: tuple[str, ...], lookback: int, doc: str, message: str
) -> None:
    def odd(x: object) -> object:
        return x

    odd.__doc__ = doc
    with pytest.raises(ValueError, match=message):
        feature(lookback_bars=lookback, inputs=inputs, unit="1", source="a test")(odd)  # type: ignore[arg-type]


def test_the_page_is_current() -> None:
    page = ROOT / "docs" / "features.md"
    assert page.read_text(encoding="utf-8") == describe_sets(), (
        "run: python -m features.docs > docs/features.md"
    )
