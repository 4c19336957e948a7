"""The user's project folder: the code of docs/project.md, identities, errors, and restoration from a checkpoint."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from features.build import build_features
from features.sets import feature_sets, get_set
from features.versioning.fingerprint import fingerprint
from storage.code_version import ROOT
from storage.errors import CheckpointError, ProjectError, SettingsError
from storage.project import PROJECT, current_project, find_project, place_in_project
from tests.training.builders import fill_lake, panel_of, settings_in, stamp_of, walk
from training.data.panel import Normaliser, PanelWindows
from training.models.checkpoint import CheckpointStamp, load_checkpoint, stored_project
from training.models.device import prepare_device
from training.models.estimators import FoldContext, fit_model, load_model
from training.models.fit_rule import FitRule
from training.models.networks import make_network, network_code, networks
from training.night.artifacts import NightArtifacts, used_project
from training.night.project_restore import restore_project
from training.night.steps import open_night
from training.recipe import get_recipe, recipe_names

PAGE = ROOT / "docs" / "project.md"
HOURLY = """
base = "{base}"
name = "{base}-hourly"
[folds]
n_folds = 1
unit = "hour"
embargo_bars = 6
"""
"""A recipe for some hours of bars."""
FILES = dict(
    re.findall(
        r"^```\w+ title=\"(.*?)\"\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
)
Edit = Callable[[str, str], None]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the project of the page."""
    for name, text in FILES.items():
        path = tmp_path / "desk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "desk" / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    yield tmp_path / "desk"
    for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
        del sys.modules[name]


@pytest.fixture
def edit(desk: Path) -> Edit:
    def write(name: str, text: str) -> None:
        path = desk / PROJECT / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write


def text_of(name: str) -> str:
    return FILES[f"{PROJECT}/{name}"]


def test_the_project_of_the_page_is_found_from_below_and_used(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = list(sys.path)
    monkeypatch.chdir(desk / "notebooks")
    assert find_project() == desk / PROJECT
    assert [item.name for item in get_set("reversal")][-1] == "mean_distance"
    assert recipe_names()["reversal"] == str(desk / PROJECT / "recipes" / "reversal.toml")
    recipe = get_recipe("reversal")
    assert (recipe.name, recipe.challengers, recipe.width) == ("reversal", ("lightgbm", "linear"), "5m")
    assert (
        make_network("linear", window_bars=3, n_features=2, seed=1)(
            torch.ones(4, 3, 2), torch.ones(4, 3, 2)
        ).tolist()
        == [0.0] * 4
    )
    assert sys.path == path
    monkeypatch.chdir(desk.parent)
    assert "reversal" not in feature_sets()
    monkeypatch.setenv("TICKWALK_PROJECT", str(desk))
    assert "reversal" in feature_sets()
    monkeypatch.setenv("TICKWALK_PROJECT", str(desk.parent))
    with pytest.raises(ProjectError, match=r"has no __init__.py \(name the directory that holds"):
        find_project()


def identities() -> dict[str, str]:
    return {
        "features": fingerprint(get_set("reversal")),
        "candles": fingerprint(get_set("candles")),
        "linear": network_code("linear"),
        "mlp": network_code("mlp"),
    }


@pytest.mark.parametrize(
    ("name", "change", "changed"),
    [
        ("models.py", lambda text: f"{text}\n# a remark\n", {"linear"}),
        ("signals.py", lambda text: text.replace("20)", "19)"), {"features"}),
        ("__init__.py", lambda text: f"{text}\nNETWORKS['twin'] = LinearWindow\n", set()),
        ("unused.py", lambda _: "x = 1\n", set()),
        ("weights.csv", lambda _: "1,2\n", {"features", "linear"}),
        ("recipes/other.toml", lambda _: 'base = "candles"\n', set()),
    ],
)
def test_user_code_changes_the_identities_that_it_can_affect(
    desk: Path, edit: Edit, name: str, change: Callable[[str], str], changed: set[str]
) -> None:
    before = identities()
    assert before["mlp"] == ""
    path = desk / PROJECT / name
    edit(name, change(path.read_text(encoding="utf-8") if path.exists() else ""))
    after = identities()
    assert {key for key in before if before[key] != after[key]} == changed


@pytest.mark.parametrize(
    "how",
    [
        "from tickwalk_project.tools.scale import SCALE",
        "from tickwalk_project.tools import scale",
        "import tickwalk_project.tools.scale",
        "from .tools.scale import SCALE",
        "from .tools import *",
    ],
)
def test_an_imported_file_counts_however_it_is_imported(edit: Edit, how: str) -> None:
    edit("tools/__init__.py", "from tickwalk_project.tools import scale\n")
    edit("tools/scale.py", "import torch\nSCALE = torch.tensor([1.0])\n")
    edit("models.py", f"{how}\n{text_of('models.py')}")
    before = identities()
    edit("tools/scale.py", "import torch\nSCALE = torch.tensor([2.0])\n")
    after = identities()
    assert after["linear"] != before["linear"]
    assert after["features"] == before["features"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "signals.py",
            "import torch\nx = 1 / 0\n",
            r"ZeroDivisionError.*signals\.py, line 2.*correct .*signals\.py",
        ),
        ("signals.py", "def f(:\n", r"SyntaxError.*signals\.py, line 1"),
        ("signals.py", "import no_such_package\n", r"No module named 'no_such_package'.*signals\.py, line 1"),
        ("__init__.py", "FEATURE_SETS = [1]\n", r"FEATURE_SETS in .*__init__\.py is \[1\]"),
        (
            "__init__.py",
            "FEATURE_SETS = {'x': (1,)}\n",
            r"feature set 'x' of the project holds 1, which is no feature",
        ),
        ("__init__.py", "FEATURE_SETS = {'x': ()}\n", "feature set 'x' of the project is empty"),
        (
            "__init__.py",
            "from features.sets import get_set\nFEATURE_SETS = {'live': get_set('candles')}\n",
            r"feature set 'live' is defined twice: by FEATURE_SETS in tickwalk_project/__init__.py, and by features/s",
        ),
        (
            "__init__.py",
            (
                "from dataclasses import replace\nfrom features.sets import get_set\n"
                "FEATURE_SETS = {'x': (replace(get_set('live')[0], unit='bp'),)}\n"
            ),
            r"feature 'log_return_1' is defined twice: in the set 'x' of the project, and in 'candles'",
        ),
    ],
)
def test_an_error_in_the_project_says_where_and_what_to_do(
    edit: Edit, name: str, text: str, message: str
) -> None:
    edit(name, text)
    with pytest.raises(ProjectError, match=message):
        get_set("candles")
    edit(name, text_of(name))
    assert "reversal" in feature_sets()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "__init__.py",
            "NETWORKS = {'mlp': len}\n",
            r"model 'mlp' is defined twice: .* and by training/models/networks",
        ),
        (
            "__init__.py",
            "NETWORKS = {'ridge': len}\n",
            r"model 'ridge' is defined twice: .* by training/models/controls",
        ),
        ("__init__.py", "NETWORKS = {'a/b': len}\n", "model 'a/b' .* cannot be part of a file name"),
        ("__init__.py", "NETWORKS = {'x': 1}\n", "network 'x' of the project is 1"),
        (
            "recipes/demo.toml",
            'base = "candles"\n',
            r"recipe 'demo' is defined twice: by .*demo\.toml, and by training",
        ),
        (
            "recipes/x.toml",
            'base = "candles"\nname = "y"\n',
            r"x\.toml has the name 'y' .*called like its file",
        ),
        ("recipes/x.toml", 'base = "x"\n', "recipes are based on each other: x, x"),
        ("recipes/x.toml", 'base = "candles"\nchallengers = ["gru"]\n', "no model is called 'gru'"),
    ],
)
def test_a_wrong_registration_is_refused(edit: Edit, name: str, text: str, message: str) -> None:
    edit(name, text)
    with pytest.raises((ProjectError, SettingsError), match=message):
        networks() if name == "__init__.py" else get_recipe("x")


def test_failing_user_code_names_file_and_line(edit: Edit) -> None:
    edit(
        "models.py", text_of("models.py").replace("nn.init.zeros_(self.head.bias)", "raise KeyError('bias')")
    )
    with pytest.raises(ProjectError, match=r"network 'linear' cannot be made: KeyError.*models\.py, line 12"):
        make_network("linear", window_bars=2, n_features=2, seed=1)
    edit("models.py", text_of("models.py").replace("dim=-1", "dim=9"))
    with pytest.raises(IndexError) as raised:
        make_network("linear", window_bars=1, n_features=1, seed=1)(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    assert re.search(r"models\.py, line 15$", place_in_project(raised.value) or "")


def fit(folder: Path, stamp: CheckpointStamp) -> tuple[FoldContext, torch.Tensor]:
    """Fit the network of the page to its features, and return its predictions."""
    panel = panel_of(torch.exp(torch.tensor(walk(instruments=3, steps=120, seed=1))).tolist())
    block = build_features(panel, "reversal")
    rows = torch.ones(block.mask.shape[:2], dtype=torch.bool)
    normaliser = Normaliser.fit(block.values, block.mask, rows)
    windows = PanelWindows(block, normaliser, window_bars=4, device=prepare_device("cpu", threads=1))
    label = torch.randn(360, generator=torch.Generator().manual_seed(1))
    context = FoldContext(
        windows,
        normaliser,
        torch.zeros(360, dtype=torch.float64),
        label,
        label.isfinite(),
        instruments=panel.instruments,
        ts_open_ns=panel.ts_open_ns,
        phase=torch.zeros(120, dtype=torch.int64),
        stride=1,
    )
    index = torch.arange(40, 120)
    if not (folder / "manifest.json").exists():
        fit_model(context, index, None, stamp, FitRule(epochs=2, batch=16), folder=folder, budget=2)
    return context, load_model(context, load_checkpoint(folder, expect={})).predict(index)


def test_a_version_with_user_code_is_rebuilt_from_its_checkpoint(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = get_recipe("reversal")
    stamp = CheckpointStamp(
        **{name: getattr(stamp_of(), name) for name in stamp_of().__dataclass_fields__}
        | {
            "model": "linear",
            "recipe": recipe.to_plain(),
            "project_code": network_code("linear"),
            "project": used_project(recipe),
        }
    )
    folder = tmp_path / "checkpoint"
    _, expected = fit(folder, stamp)
    assert expected.unique().numel() > 10
    version = fingerprint(get_set("reversal"))
    code = network_code("linear")

    shutil.rmtree(desk / PROJECT)
    with pytest.raises(SettingsError, match="feature set 'reversal' does not exist"):
        get_set("reversal")
    empty = tmp_path / "empty"
    restore_project(folder, empty)
    assert not (desk / PROJECT).exists()
    monkeypatch.chdir(empty)
    assert fingerprint(get_set("reversal")) == version
    assert network_code("linear") == code
    assert get_recipe("reversal") == recipe
    project = current_project()
    assert project is not None
    assert project.code == stamp.project
    assert torch.equal(fit(folder, stamp)[1], expected)

    # Again is harmless; over other sources it is refused, and so is a damaged archive.
    restore_project(folder, empty)
    (empty / PROJECT / "models.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ProjectError, match="exists, with other sources"):
        restore_project(folder, empty)
    [archive] = folder.glob("project-*.json")
    archive.write_bytes(archive.read_bytes().replace(b"models.py", b"../../x.py"))
    with pytest.raises(CheckpointError, match="has hash"):
        stored_project(folder)


def test_a_night_with_user_code_has_it_in_its_identity(desk: Path, edit: Edit, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "home")
    fill_lake(settings, walk(instruments=2, steps=600, seed=1), width="5m")
    recipes = [tmp_path / f"{name}.toml" for name in ("candles", "reversal")]
    for path in recipes:
        path.write_text(HOURLY.format(base=path.stem), encoding="utf-8")
    plain, night = (open_night(settings, recipe=str(path)) for path in recipes)
    folder = NightArtifacts.find(settings, night)
    assert folder.facts["project_code"] == {"linear": network_code("linear")}
    folder.refuse_other_code()
    edit("models.py", text_of("models.py") + "\n# a remark\n")
    with pytest.raises(CheckpointError, match="was opened with project_code"):
        folder.refuse_other_code()
    assert open_night(settings, recipe=str(recipes[0])) == plain
    assert open_night(settings, recipe=str(recipes[1])) != night
    stamp = NightArtifacts.find(settings, plain).stamp(
        model="mlp", fold=0, seed=1, feature_names=(), device="cpu"
    )
    assert (stamp.project_code, stamp.project) == ("", "")
