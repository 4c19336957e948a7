"""Commands `models ...` and `nights ...`: the same words for people and programs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving import cli
from storage.lake.lake import Lake
from storage.settings import Settings
from training.night.night_list import drawdown_of
from training.night.registry import append_events, read_versions


@pytest.fixture
def run(settings: Settings, here: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str, home: Path = settings.home) -> tuple[int, str]:
        try:
            cli.main(["--home", str(home), *words])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out if code == 0 else " ".join(err.split())

    return call


def test_versions_and_nights_are_listed_and_shown(run: Any, judged: tuple[Settings, str]) -> None:
    home, night = judged[0].home, judged[1]
    code, text = run("models", "list", "--format", "json", home=home)
    row = json.loads(text)
    assert (code, row["recipe"], row["state"], row["who"]) == (0, "small", "rejected", "gate")
    assert set(row) >= {"ic", "net", "sharpe", "drawdown", "reason", "since"}
    assert run("models", "--format", "json", home=home) == (code, text)

    shown = json.loads(run("models", "show", row["version"], "--format", "json", home=home)[1])
    assert [event["event"] for event in shown["events"]] == ["registered", "rejected"]
    assert shown["night"] == night
    assert {name: shown[name] for name in row} == row
    assert "content_hash" in run("models", "show", row["version"], home=home)[1]

    # Another file's tests may have opened further nights of this home.
    nights = map(json.loads, run("nights", "list", "--format", "json", home=home)[1].splitlines())
    listed = next(item for item in nights if item["night"] == night)
    assert {name: listed[name] for name in ("ic", "net", "sharpe", "drawdown", "reason")} == {
        name: row[name] for name in ("ic", "net", "sharpe", "drawdown", "reason")
    }
    details = json.loads(run("nights", "show", night, "--format", "json", home=home)[1])
    assert {item["model"] for item in details["models"]} == {"zero", "momentum", "ridge", "lightgbm", "mlp"}
    said = run("nights", "show", night, home=home)[1]
    assert row["reason"].split(",")[0] in said
    # Opened by its steps alone, without a limit.
    assert "; not estimated" in said
    assert details["estimate"] == {}
    assert details["seconds"] > 0
    # Zero, momentum and ridge once, and two seeds of both challengers.
    assert details["trials"] == {"night": 7}
    assert "This home has evaluated 7 members on these test days: 7 in nights." in said
    tried = [json.loads(line) for line in run("trials", "--format", "json", home=home)[1].splitlines()]
    assert sorted((item["model"], item["seed"]) for item in tried) == [
        ("lightgbm", 0), ("lightgbm", 1), ("mlp", 0), ("mlp", 1), ("momentum", 0), ("ridge", 0), ("zero", 0),
    ]  # fmt: skip
    assert {item["run"] for item in tried} == {night}
    assert run("trials", "--source", "judge", "--format", "csv", home=home)[1].count("\n") == 1
    assert "7 rows" in run("trials", "--recipe", "small", home=home)[1]


def test_the_champion_is_changed_with_a_reason_and_an_author(
    run: Any, judged: tuple[Settings, str], tmp_path: Path
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(judged[0].home, home)
    settings = replace(judged[0], home=home)
    with Lake.open(settings) as lake:
        [first, *_] = read_versions(lake)
        twin = replace(first, version="twin")
        append_events(lake, [twin], batch_id="twin")
    change = ("--reason", "agreed", "--who", "ann@desk")

    assert run("models", "promote", first.version, home=home)[0] == 2
    assert "needs a reason" in run("models", "promote", first.version, "--reason", "", home=home)[1]
    assert (
        f"the champion is {first.version}" in run("models", "promote", first.version, *change, home=home)[1]
    )
    assert "no earlier champion" in run("models", "rollback", "small", *change, home=home)[1]
    said = run("models", "promote", "twin", *change, "--expect", "other", home=home)[1]
    assert f"{first.version} serves small, promoted by ann@desk, and the change was made for other" in said
    assert run("models", "promote", "twin", *change, home=home)[0] == 0
    assert f"the champion is {first.version}" in run("models", "rollback", "small", *change, home=home)[1]
    assert "no version serves" in run("models", "retire", first.version, *change, home=home)[1]

    rows = [json.loads(line) for line in run("models", "list", "--format", "json", home=home)[1].splitlines()]
    assert {row["version"]: row["state"] for row in rows} == {first.version: "retired", "twin": "retired"}
    assert {row["who"] for row in rows} == {"ann@desk"}
    compared = run("models", "compare", first.version, "twin", "--format", "json", home=home)[1].splitlines()
    table = {row.pop("property"): row for row in map(json.loads, compared)}
    assert table["state"] == {first.version: "retired", "twin": "retired"}
    assert table["net"][first.version] == table["net"]["twin"]

    # Without its weights a version cannot become champion.
    shutil.rmtree(settings.models_dir / first.artefact)
    assert "there is no checkpoint" in run("models", "promote", "twin", *change, home=home)[1]
    assert "the nearest is twin" in run("models", "promote", "twn", *change, home=home)[1]


def test_drawdown_is_the_largest_fall_from_a_peak() -> None:
    def of(*net: float) -> float | None:
        return drawdown_of({"equity": {"net": {"m": list(net)}}}, "m")

    assert of(1.0, 2.0, 3.0) == 0.0
    assert of(-1.0, -3.0, 2.0) == 3.0, "the first peak is the capital itself"
    assert of(1.0, 5.0, 3.0, 4.0, 2.0, 9.0, 7.0) == 3.0
    assert of() is None
