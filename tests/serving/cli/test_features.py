"""Commands `features list|show|diff|build|prove|health` and `explain --feature` on a lake."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from features.build import build_features
from features.feature import Feature, feature
from features.leakage.smallest_input import reproduce
from features.sets import FEATURE_SETS, get_set
from features.store.manifest import StoreKey
from features.store.serialization import read_block
from features.store.store import read
from features.versioning.fingerprint import fingerprint
from features.versioning.set_diff import read_edition
from serving import cli
from storage.clock import ManualTime, iso
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.leakage.test_point_in_time import LISTED_AT, NAMES, STEPS, drawn_rows, load
from tests.features.panels import MINUTE_NS, START_NS, bar_rows
from tests.features.test_sets import load_feature

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    with Lake.open(Settings(home=folder), clock=ManualTime(START_NS)) as lake:
        lake.commit({"bars": bar_rows(drawn_rows())}, batch_id="drawn")
    return folder


@pytest.fixture
def planted() -> Iterator[None]:
    """Whatever a test puts into a set is taken out again."""
    held = dict(FEATURE_SETS)
    yield
    FEATURE_SETS.clear()
    FEATURE_SETS.update(held)
    fingerprint.cache_clear()


def run(home: Path, *arguments: str) -> int:
    try:
        cli.main(["--home", str(home), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_list_names_every_feature_of_every_set(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home, "features", "list", "--format", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["set"], row["feature"]) for row in rows] == [
        (name, item.name) for name, held in FEATURE_SETS.items() for item in held
    ]
    assert all(row["unit"] and row["source"] and row["inputs"] for row in rows)
    assert run(home, "features", "list") == 0
    assert "live" in said(capsys)
    assert run(home, "features", "list", "candles") == 0
    assert "log_return_5" in said(capsys)


def test_show_prints_formula_inputs_code_and_fingerprint(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = next(item for item in get_set("live") if item.name == "log_return_5")
    assert run(home, "features", "show", item.name) == 0
    text = said(capsys)
    told = (
        item.formula,
        item.missing,
        item.unit,
        item.source,
        fingerprint((item,)),
        "features.ops.rolling.carry",
    )
    assert all(" ".join(part.split()) in text for part in told)
    assert "def carry" not in text
    assert run(home, "features", "show", item.name, "--code") == 0
    assert "def carry" in said(capsys)
    assert run(home, "features", "show", "log_retrn_5") == 2
    assert "no feature is called 'log_retrn_5'" in said(capsys)


def test_build_writes_the_block_that_the_library_builds(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "week.safetensors"
    assert run(home, "features", "build", "live", "--to", str(path)) == 0
    assert f"3 instruments x {STEPS} bars x {len(get_set('live'))} features" in said(capsys)
    block = read_block(path)
    with Lake.open(Settings(home=home), read_only=True) as lake:
        expected = build_features(load(lake), "live")
    assert torch.equal(block.values.view(torch.int32), expected.values.view(torch.int32))
    assert torch.equal(block.mask, expected.mask)
    assert block.mask.sum() > 10_000
    assert read_edition(tmp_path / "week.edition.json")["fingerprint"] == block.fingerprint


def test_build_without_a_file_stores_days_and_builds_only_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = drawn_rows()
    for number, part in enumerate(
        ([row for row in rows if row["step"] < 350], [row for row in rows if row["step"] >= 350])
    ):
        with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS + number)) as lake:
            lake.commit({"bars": bar_rows(part)}, batch_id=f"part-{number}")
        assert run(tmp_path, "features", "build", "candles") == 0
        assert "1 days built" in said(capsys)
    assert run(tmp_path, "features", "build", "candles") == 0
    assert "0 days built" in said(capsys)
    [folder] = (tmp_path / "features").iterdir()
    assert run(tmp_path, "features", "diff", str(folder)) == 0
    assert "with the same code" in said(capsys)
    question = StoreKey("candles", "1m", 2_000_000_000)
    with Lake.open(Settings(home=tmp_path), read_only=True) as lake:
        expected = build_features(load(lake), "candles")
    block = read(tmp_path / "features", question)
    # A store begins with its UTC day, so what looks back before the lake's first bar sees bars that nobody saw.
    steps = len(expected.ts_open_ns) - expected.lookback_bars
    assert torch.equal(block.mask[:, -steps:], expected.mask[:, -steps:])
    one, other = (held.values[:, -steps:].contiguous().view(torch.int32) for held in (block, expected))
    assert torch.equal(one, other)
    assert block.mask[:, -steps:].sum() > 10_000


def test_build_accepts_a_range(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    since, until = (iso(START_NS + step * MINUTE_NS) for step in (10, 300))
    options = (
        "--since",
        since,
        "--until",
        until,
        "--instrument",
        NAMES[0],
        "--to",
        str(tmp_path / "a.safetensors"),
    )
    assert run(home, "features", "build", "candles", *options) == 0
    block = read_block(tmp_path / "a.safetensors")
    assert block.instruments == NAMES[:1]
    assert (iso(int(block.ts_open_ns[0])), len(block.ts_open_ns)) == (since, 290)
    assert "1 instruments x 290 bars" in said(capsys)


def test_unhealthy_block_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = drawn_rows()
    for row in rows:
        if row["step"] >= 336:  # the newest fifth: the contexts have stopped
            row["funding_rate"] = None
    with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS)) as lake:
        lake.commit({"bars": bar_rows(rows)}, batch_id="drawn")
    path = tmp_path / "block.safetensors"
    assert run(tmp_path, "features", "build", "live", "--to", str(path)) == 2
    text = said(capsys)
    assert "not fit for training: funding_level of venue|perp|" in text
    assert "its source stopped" in text
    assert not path.exists()
    assert run(tmp_path, "features", "health", "live") == 1
    assert "refuse: funding_level" in said(capsys)
    assert run(tmp_path, "features", "build", "live", "--to", str(path), "--anyway") == 0
    assert path.exists()


def test_health_is_printed_and_drawn(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "health.html"
    assert run(home, "features", "health", "live", "--page", str(page), "--format", "json") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row["feature"] for row in rows] == [item.name for item in get_set("live")]
    # The third instrument is in the panel from the start and in the lake from step 300 on; 151 steps are lookback.
    spread = next(row for row in rows if row["feature"] == "relative_spread")
    assert spread["least_known"] == pytest.approx((STEPS - LISTED_AT) / (STEPS - 151), abs=1e-4)
    text = page.read_text(encoding="utf-8")
    assert text.count("known on") > len(get_set("live"))
    assert "fit for training" in text
    assert run(home, "features", "health", "live", "--newest", "1.5") == 2
    assert "--newest is 1.5; it must be between 0 and 1" in said(capsys)


# Proof.


@pytest.mark.parametrize("name", ["candles", "live", pytest.param("wide", marks=pytest.mark.drill)])
def test_prove_prints_what_was_compared(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(home, "features", "prove", name) == 0
    text = said(capsys)
    assert f"set {name}, {len(get_set(name))} features" in text
    counts = [int(found.replace(",", "")) for found in re.findall(r"([\d,]+) values, none changed", text)]
    assert len(counts) == 10
    assert min(counts) > 400
    assert re.search(r"planted leaks \d+ caught, all of them", text)


def centred_window(log_price: Tensor) -> Tensor:
    return pad(log_price, (2, 2), value=math.nan).unfold(1, 5, 1).nanmean(dim=2)


def full_sample_z_score(log_price: Tensor) -> Tensor:
    there = torch.nan_to_num(log_price)
    return (log_price - there.mean(dim=1, keepdim=True)) / there.std(dim=1, keepdim=True)


def label_among_features(log_price: Tensor) -> Tensor:
    return pad(log_price, (0, 15), value=math.nan)[:, 15:] - log_price


def leaky(function: object) -> Feature:
    function.__doc__ = "Planted.\n\nFormula: none\n\nMissing: never"
    declare = feature(lookback_bars=15, inputs=("log_price",), unit="1", source="a test")
    return declare(function)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [centred_window, full_sample_z_score, label_among_features])
def test_prove_exits_with_1_and_names_feature_instrument_and_bar(
    home: Path, capsys: pytest.CaptureFixture[str], planted: None, function: object
) -> None:
    leak = leaky(function)
    FEATURE_SETS["candles"] = (*FEATURE_SETS["candles"], leak)
    assert run(home, "features", "prove", "candles") == 1
    text = said(capsys)
    found = re.search(
        rf"leak: feature {leak.name} of (\S+) moved at bar (\S+) \(step \d+\) when everything", text
    )
    assert found is not None, text
    assert found[1] in NAMES
    assert iso(START_NS) <= found[2] < iso(START_NS + STEPS * MINUTE_NS)
    assert "fix the function or its declaration" in text
    path = home / "leaks" / f"leak-{leak.name}.parquet"
    assert f"bars that show it are in {path}" in text
    assert "when changed" in reproduce(path)


def test_prove_finds_a_label_in_the_lake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS)) as lake:
        lake.commit({"bars": bar_rows(drawn_rows(lie_bars=5))}, batch_id="drawn")
    assert run(tmp_path, "features", "prove", "live") == 1
    assert "leak: feature funding_level of venue|perp|" in (text := said(capsys))
    assert "is the return of the 5 bars after it" in text


def test_prove_of_too_few_bars_says_how_many_it_needs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home, "features", "prove", "candles", "--since", iso(START_NS + 400 * MINUTE_NS)) == 2
    assert "too small to prove features that reach 151 bars back" in said(capsys)


# Differences.


def test_diff_compares_a_block_with_the_current_code(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], planted: None
) -> None:
    path = tmp_path / "week.safetensors"
    FEATURE_SETS["candles"] = (*get_set("candles")[:-1], load_feature(tmp_path))
    assert run(home, "features", "build", "candles", "--to", str(path)) == 0
    assert run(home, "features", "diff", str(path)) == 0
    assert f"no difference: {len(get_set('candles'))} features with the same code" in said(capsys)
    FEATURE_SETS["candles"] = (
        *get_set("candles")[1:-1],
        load_feature(tmp_path, factor="9.0"),
        get_set("live")[-1],
    )
    fingerprint.cache_clear()
    assert run(home, "features", "diff", str(path), "--format", "json") == 0
    rows = {row["feature"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (rows["strange"]["change"], rows["strange"]["what"]) == ("changed code", "strange_room.helper")
    assert rows["log_return_1"]["change"] == "went"
    assert rows[get_set("live")[-1].name]["change"] == "came"
    assert run(home, "features", "diff", str(path), str(tmp_path / "week.edition.json")) == 0
    assert "with the same code" in said(capsys)


def test_diff_accepts_a_night_and_its_checkpoints(
    judged: tuple[Settings, str], capsys: pytest.CaptureFixture[str], planted: None
) -> None:
    settings, night = judged
    folder = settings.models_dir / "nights" / night
    place = len(get_set("candles")) - 1
    FEATURE_SETS["candles"] = get_set("candles")[:-1]
    for what in (night, str(folder), str(folder / "deploy"), str(folder / "fold-00" / "mlp")):
        assert run(settings.home, "features", "diff", what, "--format", "json") == 0
        [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert row == {"feature": "hour_cos", "change": "went", "what": f"place {place}"}
    assert run(settings.home, "features", "diff", "yesterday") == 2
    assert "no night is called 'yesterday'" in said(capsys)


# One cell.


def explained(
    home: Path, capsys: pytest.CaptureFixture[str], step: int, name: str, coin: str = "A"
) -> list[str]:
    at = iso(START_NS + step * MINUTE_NS + 7 * 10**9)
    assert run(home, "explain", coin, at, "--feature", name) == 0
    return capsys.readouterr().out.splitlines()


def test_a_cell_is_explained_with_value_mask_rows_and_knowable_time(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lake.open(Settings(home=home), read_only=True) as lake:
        panel = load(lake)
    block = build_features(panel, "candles")
    place = block.names.index("log_return_5")
    step = next(t for t in range(200, 300) if block.mask[0, t, place])
    lines = explained(home, capsys, step, "log_return_5")
    text = "\n".join(lines)
    value = float(re.search(r"value +(\S+) log; mask 1", text)[1])  # type: ignore[index]
    assert value == pytest.approx(float(block.values[0, step, place]), rel=1e-6)
    assert "knowable  2025" in text
    assert "(close +0.300 s)" in text
    moving = [line for line in lines if re.match(r" +\*2025", line)]
    assert 2 <= len(moving) <= 12
    assert iso(START_NS + step * MINUTE_NS) in moving[-1]
    # What stands in the row is what the panel holds.
    close = panel.column("close")[0, step]
    if math.isfinite(close):
        assert f"{float(close):.8g}" in moving[-1]
    assert len(lines) <= 30, "it must fit a screen"


def test_missing_cell_is_explained_with_policy_and_window(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(explained(home, capsys, 20, "log_return_5"))
    assert "mask 0 (missing)" in text
    assert "more would be before the lake's first bar, so the value is missing" in text
    assert "fewer than 80 % of the n bars observed" in text


def test_cross_sectional_cell_names_the_other_instruments(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(explained(home, capsys, STEPS - 1, "return_rank_5"))
    assert (
        "it also reads the 2 other instruments of the panel; without them the value would be missing" in text
    )


def test_unknown_cell_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = iso(START_NS)
    assert run(home, "explain", "A", at, "--feature", "nothing") == 2
    assert "no feature is called 'nothing'" in said(capsys)
    assert run(home, "explain", "C", at, "--feature", "hour_sin") == 2
    assert "has no 1m bar at" in said(capsys)
