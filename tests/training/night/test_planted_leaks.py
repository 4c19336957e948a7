"""Leaks planted in whole nights: each is refused, by the check that is made for it, in words that name it.

A planted leak is the mistake of a later change: a component of the night is replaced by one that knows the future.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from features.feature import FeatureBlock
from features.leakage.smallest_input import reproduce
from features.panel import panel as panels
from features.panel.panel import Panel
from storage.contracts.tables import BARS
from storage.errors import LeakError
from storage.lake.lake import Lake
from storage.project import PROJECT
from storage.settings import Settings
from tests.storage.rows import bar
from tests.training.builders import MINUTE_NS, SMALL_RECIPE, START_NS, fill_lake, settings_in, walk
from training.data.folds import Fold, SplitRows, TimeSpan, split_rows
from training.data.labels import LabelRule, Labels, make_labels
from training.data.panel import Normaliser
from training.night import backtests, fold_training, input_audit, preparation, steps
from training.night.artifacts import NightArtifacts, NightData
from training.night.fold_training import FoldRows, fold_rows
from training.night.lineage_path import LineagePath, stitch_path
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

STEPS = 640
DELISTED, REVISED = 250, 200
RECIPE = SMALL_RECIPE.format(name="small", rows="served").replace("n_folds = 1", "n_folds = 2")
FORESIGHT = '''
import math

from torch import Tensor
from torch.nn.functional import pad

from features.feature import feature
from features.sets import FEATURE_SETS as BUILT_IN


@feature(lookback_bars=0, inputs=("log_price",), unit="log", source="a test")
def foresight(log_price: Tensor) -> Tensor:
    """Return of the next three bars.

    Formula: ln p[t+3] - ln p[t]

    Missing: no price.
    """
    return pad(log_price, (0, 3), value=math.nan)[:, 3:] - log_price


FEATURE_SETS = {"foreseen": (*BUILT_IN["candles"], foresight)}
'''


@dataclass(frozen=True)
class Bench:
    """A home with a lake and an opened night; later steps may be reached by copies of it."""

    settings: Settings
    recipe: str
    night: str

    @property
    def folder(self) -> NightArtifacts:
        return NightArtifacts.find(self.settings, self.night)

    def copy(self, home: Path) -> Bench:
        shutil.copytree(self.settings.home, home, dirs_exist_ok=True)
        return replace(self, settings=settings_in(home))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Three instruments, of which one is delisted; one bar was revised an hour later."""
    settings = settings_in(Path(tmp_path_factory.mktemp("planted")))
    fill_lake(
        settings,
        walk(instruments=3, steps=STEPS, seed=5, signal=0.5, volatility=2e-3),
        but={2: range(DELISTED, STEPS)},
    )
    close_ns = START_NS + (REVISED + 1) * MINUTE_NS
    later = bar(
        1,
        instrument="hyperliquid|perp|C0",
        ts_open=(close_ns - MINUTE_NS) // 1000,
        ts_close=close_ns // 1000,
        ts_knowable_ns=close_ns + 60 * MINUTE_NS,
        ts_available_ns=close_ns + 60 * MINUTE_NS,
        close=123.0,
        high=123.0,
    )
    with Lake.open(settings) as lake:
        lake.commit({"bars": BARS.rows([later])}, batch_id="later", inputs={})
    recipe = settings.home / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return Bench(settings, str(recipe), open_night(settings, recipe=str(recipe)))


@pytest.fixture(scope="module")
def planned(opened: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A sound night up to its plan of folds."""
    bench = opened.copy(Path(tmp_path_factory.mktemp("planned")))
    build_panel(bench.settings, bench.night)
    plan_folds(bench.settings, bench.night)
    return bench


@pytest.fixture(scope="module")
def trained(planned: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A sound night with its folds trained."""
    bench = planned.copy(Path(tmp_path_factory.mktemp("trained")))
    for fold in (0, 1):
        train_fold(bench.settings, bench.night, fold)
    return bench


def refused(check: str, *words: str, of: Callable[[], object]) -> LeakError:
    """Require that a call is refused by a check in these words."""
    with pytest.raises(LeakError) as caught:
        of()
    error = caught.value
    assert error.facts.get("check") == check, error
    for word in words:
        assert word in error.message, error
    assert error.hint
    return error


def test_a_sound_night_passes_every_check(trained: Bench, tmp_path: Path) -> None:
    bench = trained.copy(tmp_path)
    verdict = judge_night(bench.settings, bench.night)
    assert [rule["name"] for rule in verdict["rules"] if rule["passed"]][:3] == [
        "leaks",
        "feature proof",
        "leak suite",
    ]
    inputs, fits = (bench.folder.read(name) for name in ("input_audit.json", "fit_audit.json"))
    assert inputs == {"instruments": 3, "late_bars": 1, "labels": bench.folder.read("panel.json")["rows"]}
    assert fits == {"normalisers": 4, "predictions": 8, "losses": 2, "ridges": 2, "choices": 2}
    assert inputs["labels"] > 800


# Feature and label.


@pytest.fixture
def foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe of a project whose feature looks ahead."""
    source = tmp_path / "desk" / PROJECT / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text(FORESIGHT, encoding="utf-8")
    recipe = tmp_path / "desk" / "foreseen.toml"
    recipe.write_text(
        RECIPE.replace('"candles"', '"foreseen"').replace('"small"', '"foreseen"'), encoding="utf-8"
    )
    monkeypatch.chdir(source.parent.parent)
    yield recipe
    for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
        del sys.modules[name]


def test_leaky_feature(opened: Bench, foreseen: Path, tmp_path: Path) -> None:
    """A function that looks ahead is named with a bar, and with the smallest input that shows it."""
    bench = opened.copy(tmp_path / "home")
    night = open_night(bench.settings, recipe=str(foreseen))
    error = refused("future", "feature foresight of ", of=lambda: build_panel(bench.settings, night))
    assert error.facts["feature"] == "foresight"
    folder = NightArtifacts.find(bench.settings, night)
    assert not folder.has("panel.json")
    assert error.facts["input"] == str(folder.path / "leak-foresight.parquet")
    assert "(without later bars)" in reproduce(str(error.facts["input"]))
    assert pq.read_table(error.facts["input"]).num_rows <= 40
    assert str(bench.settings.home) not in folder.read("proof.json")["reason"]


def test_leaky_input_of_a_feature(
    opened: Bench, trained: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code looks back, and its values know the next bars: as of a column with a clock that is fast."""
    bench = opened.copy(tmp_path / "built")
    built = preparation.built_block

    def fast(folder: Path, panel: Panel, feature_set: str) -> FeatureBlock:
        block = built(folder, panel, feature_set)
        place = block.names.index("hour_sin")
        log = torch.log(panel.column("close"))
        ahead = torch.zeros_like(log)
        ahead[:, :-5] = log[:, 5:] - log[:, :-5]
        values = block.values.clone()
        values[..., place] = torch.nan_to_num(ahead).to(torch.float32)
        return replace(block, values=values)

    monkeypatch.setattr(preparation, "built_block", fast)
    monkeypatch.setattr(preparation, "prove_features", lambda *_, **__: None)
    build_panel(bench.settings, bench.night)
    plan_folds(bench.settings, bench.night)
    reason = bench.folder.read("leak_suite.json")["reason"]
    assert reason.startswith("shifted labels: features explain ")
    assert "most of all hour_sin, correlated +" in reason
    judged = trained.copy(tmp_path / "judged")
    shutil.copy(bench.folder.path / "leak_suite.json", judged.folder.path / "leak_suite.json")
    verdict = judge_night(judged.settings, judged.night)
    assert (verdict["state"], verdict["reason"]) == ("rejected", "failed: leak suite")
    assert {"name": "leak suite", "reason": reason}.items() <= verdict["rules"][2].items()


def _reaching_back(panel: Panel, rule: LabelRule, *, grace_ns: int) -> Labels:
    """Labels that start three bars before the decision."""
    sound = make_labels(panel, rule, grace_ns=grace_ns)
    log = torch.log(panel.column("close"))
    past = torch.zeros_like(log)
    past[:, 3:] = log[:, 3:] - log[:, :-3]
    known = sound.mask & torch.isfinite(past)
    label = torch.where(known, sound.label + past / sound.scale, sound.label.to(torch.float64))
    return replace(sound, label=label.to(torch.float32))


def _scaled_by_all(panel: Panel, rule: LabelRule, *, grace_ns: int) -> Labels:
    """Labels over the volatility of the whole range."""
    sound = make_labels(panel, rule, grace_ns=grace_ns)
    scale = torch.nanmean(sound.scale, dim=1, keepdim=True).expand(sound.scale.shape).contiguous()
    label = torch.where(sound.mask, sound.label * sound.scale / scale, 0.0).to(torch.float32)
    return replace(sound, label=label, scale=torch.where(torch.isfinite(sound.scale), scale, torch.nan))


def _ending_early(panel: Panel, rule: LabelRule, *, grace_ns: int) -> Labels:
    """Labels whose clock ends before their span, so that too little is purged."""
    sound = make_labels(panel, rule, grace_ns=grace_ns)
    return replace(sound, ts_span_end_ns=sound.ts_span_end_ns - 3 * panel.width_ns)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (_reaching_back, "has the label "),
        (_scaled_by_all, "is scaled by "),
        (_ending_early, "the exit of the bar at "),
    ],
)
def test_leaky_label(
    opened: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Any, words: str
) -> None:
    bench = opened.copy(tmp_path)
    monkeypatch.setattr(
        preparation, "prove_features", lambda *_, **__: None
    )  # features are sound, and proven above
    monkeypatch.setattr(preparation, "make_labels", plant)
    refused("labels", "the labels leak: ", words, of=lambda: build_panel(bench.settings, bench.night))


# Split, normaliser and validation.


def test_unpurged_split(planned: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = planned.copy(tmp_path)
    for name in ("folds.json", "leak_suite.json"):
        (bench.folder.path / name).unlink()

    def unpurged(fold: Fold, decided_ns: Any, _: Any) -> SplitRows:
        return split_rows(fold, decided_ns, decided_ns)

    for module in (preparation, fold_training):
        monkeypatch.setattr(module, "split_rows", unpurged)
    refused(
        "folds",
        " leaked rows in the folds of night ",
        "the split is not purged",
        of=lambda: plan_folds(bench.settings, bench.night),
    )


@pytest.mark.drill
def test_split_that_is_unpurged_in_training_alone(
    planned: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = planned.copy(tmp_path)

    def unpurged(fold: Fold, decided_ns: Any, _: Any) -> SplitRows:
        return split_rows(fold, decided_ns, decided_ns)

    monkeypatch.setattr(fold_training, "split_rows", unpurged)
    train(bench)
    refused(
        "normaliser",
        "was not fitted to its train rows alone",
        of=lambda: judge_night(bench.settings, bench.night),
    )


def train(bench: Bench) -> None:
    for fold in (0, 1):
        train_fold(bench.settings, bench.night, fold)


def test_normaliser_fitted_on_all_data(
    planned: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = planned.copy(tmp_path)

    def of_all(data: NightData, _: torch.Tensor) -> Normaliser:
        block = data.block
        return Normaliser.fit(block.values, block.mask, torch.ones_like(data.labels.mask))

    monkeypatch.setattr(fold_training, "fit_normaliser", of_all)
    train(bench)
    error = refused(
        "normaliser",
        "the normaliser of ridge on fold 0 was not fitted to its train rows alone: its mean of ",
        of=lambda: judge_night(bench.settings, bench.night),
    )
    assert error.facts["feature"] in bench.folder.facts["feature_names"]


def test_validation_that_is_a_test(planned: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs and shrinkage are chosen on test rows."""
    bench = planned.copy(tmp_path)

    def on_test(data: NightData, parts: SplitRows, recipe: Any) -> FoldRows:
        rows = fold_rows(data, parts, recipe)
        return replace(rows, valid=rows.test[data.labels.mask.flatten()[rows.test]])

    monkeypatch.setattr(fold_training, "fold_rows", on_test)
    train(bench)
    with pytest.raises(LeakError) as caught:
        judge_night(bench.settings, bench.night)
    assert caught.value.facts["check"] in ("ridge", "validation")
    # Where another shrinkage was best on the test, ridge is the first to differ; the network always does.
    for ridge in bench.folder.path.glob("fold-*/ridge"):
        shutil.rmtree(ridge) if not ridge.is_symlink() else ridge.unlink()
    monkeypatch.setattr(fold_training, "fold_rows", fold_rows)
    train(bench)
    refused(
        "validation",
        "validation is a test: the validation loss of mlp on fold 0 is ",
        "that of its test rows the same",
        of=lambda: judge_night(bench.settings, bench.night),
    )


def test_choice_that_knows_its_test(trained: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = trained.copy(tmp_path)

    def foreknowing(*args: Any, **more: Any) -> LineagePath:
        sound = stitch_path(*args, **more)
        late = [replace(fold, test=TimeSpan(fold.test.stop_ns, 2**62)) for fold in args[4]]
        return replace(sound, by_fold=stitch_path(*args[:4], late, *args[5:], **more).by_fold)

    monkeypatch.setattr(backtests, "stitch_path", foreknowing)
    refused(
        "choices",
        "validation is a test: ridge was chosen for the test of fold ",
        of=lambda: judge_night(bench.settings, bench.night),
    )


# Universe and revisions.


def test_universe_from_the_future(opened: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that survive to the end are chosen."""
    bench = opened.copy(tmp_path)
    survivors = ["hyperliquid|perp|C0", "hyperliquid|perp|C1"]

    def of_survivors(*args: Any, **more: Any) -> Any:
        return cached_panel(*args, **more | {"instruments": survivors})

    cached_panel = steps.cached_panel
    monkeypatch.setattr(steps, "cached_panel", of_survivors)
    night = open_night(bench.settings, recipe=bench.recipe)
    assert night != bench.night
    error = refused(
        "universe",
        "the universe is from the future: hyperliquid|perp|C2 had bars from ",
        "is left out",
        of=lambda: build_panel(bench.settings, night),
    )
    assert error.facts["instrument"] == "hyperliquid|perp|C2"


def test_revision_from_the_future(opened: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest row of each bar counts, whenever it became known."""
    bench = opened.copy(tmp_path)
    shutil.rmtree(bench.settings.features_dir, ignore_errors=True)
    select = panels._select("served")
    condition = panels.is_known("served")
    assert condition in select
    monkeypatch.setattr(panels, "_select", lambda _: select.replace(condition, "(? >= 0)"))
    night = open_night(bench.settings, recipe=bench.recipe)
    error = refused(
        "revisions",
        "a revision is from the future: ",
        " of hyperliquid|perp|C0 at ",
        of=lambda: build_panel(bench.settings, night),
    )
    assert error.facts["ts_open_ns"] == START_NS + REVISED * MINUTE_NS


def test_bars_that_were_imported_later_were_not_in_the_universe(opened: Bench) -> None:
    with Lake.open(opened.settings, read_only=True) as lake:
        recipe = opened.folder.recipe
        panel = panels.load_panel(lake, width="1m", grace_ns=2 * 10**9)
        check = partial(
            input_audit.check_universe, lake=lake, recipe=recipe, at=lake.snapshot(), grace_ns=2 * 10**9
        )
        assert check(panel) == 3
        renamed = replace(panel, instruments=("hyperliquid|perp|C0", "hyperliquid|perp|C1", "x|perp|NEW"))
        refused("universe", "hyperliquid|perp|C2 had bars", of=lambda: check(renamed))
        narrowed = replace(recipe, instruments=("hyperliquid|perp|C0", "hyperliquid|perp|C1", "x|perp|NEW"))
        refused(
            "universe",
            "x|perp|NEW is in it, and no bar of it was known",
            of=lambda: input_audit.check_universe(
                renamed, lake, narrowed, at=lake.snapshot(), grace_ns=2 * 10**9
            ),
        )
