"""The registry of versions: the champion, rollback, and idempotent batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import GateError
from storage.lake.lake import Lake
from tests.training.builders import settings_in
from training.night.registry import (
    VersionEvent,
    append_events,
    current_champion,
    events_before,
    promote_version,
    read_versions,
    retire_version,
    rollback_recipe,
    states_of,
)

FIRST = VersionEvent(
    version="mlp-demo-1",
    event="registered",
    recipe="demo",
    model="mlp",
    night="demo-1",
    reason="best by validation",
    metrics={"net": 0.1},
    inputs={"cutoff_ns": 5},
    artefact="nights/demo-1/deploy",
    ts_knowable_ns=10,
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake.open(settings_in(Path(tmp_path_factory.mktemp("home")))) as opened:
        yield opened


def test_life_cycle_of_a_version(lake: Lake) -> None:
    """One sequence of events, since the registry is append-only."""
    assert current_champion(lake, "demo") is None
    append_events(lake, [FIRST, replace(FIRST, event="champion", reason="all rules hold")], batch_id="v1")
    append_events(lake, [FIRST, replace(FIRST, event="champion", reason="all rules hold")], batch_id="v1")
    assert [event.event for event in read_versions(lake)] == ["registered", "champion"]
    serving = current_champion(lake, "demo")
    assert serving is not None
    assert (serving.version, serving.inputs, serving.metrics) == (
        "mlp-demo-1",
        {"cutoff_ns": 5},
        {"net": 0.1},
    )
    assert events_before(read_versions(lake), "demo-1") == []
    assert len(events_before(read_versions(lake), "demo-2")) == 2
    assert current_champion(lake, "candles") is None

    # A refused night changes nothing; a promoted one takes over.
    second = replace(FIRST, version="lstm-demo-2", night="demo-2", ts_knowable_ns=20)
    append_events(lake, [second, replace(second, event="rejected", reason="failed: ic")], batch_id="v2")
    assert current_champion(lake, "demo") == serving
    promoted = promote_version(lake, "lstm-demo-2", reason="by hand", now_ns=30)
    assert current_champion(lake, "demo") == promoted
    with pytest.raises(GateError, match="lstm-demo-2 serves demo already"):
        promote_version(lake, "lstm-demo-2", reason="again", now_ns=31)

    # Rollback and retirement are one more row each.
    promote_version(lake, "mlp-demo-1", reason="rollback", now_ns=40)
    with pytest.raises(
        GateError, match=r"lstm-demo-2 does not serve demo \(the version that serves is mlp-demo-1\)"
    ):
        retire_version(lake, "lstm-demo-2", reason="old", now_ns=45)
    retire_version(lake, "mlp-demo-1", reason="venue changed", now_ns=50)
    assert current_champion(lake, "demo") is None
    assert len(read_versions(lake, recipe="demo")) == 7
    with pytest.raises(GateError, match=r"no version is called 'x' \(the nearest is"):
        promote_version(lake, "x", reason="", now_ns=60)


def add(lake: Lake, recipe: str, *names: str, at_ns: int = 100) -> None:
    """Register versions of a recipe, the gate having refused them."""
    for name in names:
        event = replace(FIRST, version=name, recipe=recipe, night=name, ts_knowable_ns=at_ns)
        append_events(lake, [event, replace(event, event="rejected")], batch_id=name)


def test_rollback_returns_to_the_previous_champion_and_no_further(lake: Lake) -> None:
    add(lake, "r", "r1", "r2", "r3", "r4")
    with pytest.raises(GateError, match="no version serves r, and no earlier champion"):
        rollback_recipe(lake, "r", reason="x", now_ns=200)
    for name in ("r1", "r2", "r3", "r4"):
        promote_version(lake, name, reason="by hand", now_ns=200)
    assert rollback_recipe(lake, "r", reason="wrong", now_ns=201, who="a@b").version == "r3"
    serving = current_champion(lake, "r")
    assert serving is not None
    assert (serving.version, serving.reason, serving.who) == ("r3", "wrong", "a@b")
    retire_version(lake, "r3", reason="old", now_ns=202)
    assert rollback_recipe(lake, "r", reason="again", now_ns=203).version == "r2"
    assert rollback_recipe(lake, "r", reason="again", now_ns=204).version == "r1"
    with pytest.raises(GateError, match="r1 serves r, and no earlier champion that could serve again"):
        rollback_recipe(lake, "r", reason="again", now_ns=205)
    promote_version(lake, "r3", reason="after all", now_ns=206)
    states = {name: event.event for name, event in states_of(read_versions(lake, recipe="r")).items()}
    assert states == {"r1": "retired", "r2": "retired", "r3": "champion", "r4": "retired"}


def test_of_two_promotions_at_once_one_wins(tmp_path: Path) -> None:
    """Both authors saw no champion; the second to commit is refused in its transaction."""
    settings = settings_in(tmp_path)
    with Lake.open(settings) as lake:
        add(lake, "r", "r1", "r2")
    start, outcomes = threading.Barrier(2), {}

    def promote(name: str) -> None:
        with Lake.open(settings) as mine:
            start.wait(timeout=60)
            try:
                promote_version(mine, name, reason="x", now_ns=200, who=f"{name}@desk", expected=None)
                outcomes[name] = ""
            except GateError as error:
                outcomes[name] = str(error)

    threads = [threading.Thread(target=promote, args=(name,)) for name in ("r1", "r2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [name for name, text in outcomes.items() if not text]
    [refused] = [text for text in outcomes.values() if text]
    assert refused.startswith(
        f"{winner} serves r, promoted by {winner}@desk, and the change was made for no champion"
    )
    with Lake.open(settings, read_only=True) as lake:
        events = read_versions(lake, recipe="r")
        assert [event.version for event in events if event.event == "champion"] == [winner]


def test_a_change_that_met_another_champion_writes_nothing(lake: Lake) -> None:
    add(lake, "s", "s1", "s2", "s3")
    promote_version(lake, "s1", reason="x", now_ns=200)
    before = read_versions(lake)
    for change, name in ((promote_version, "s3"), (retire_version, "s1"), (rollback_recipe, "s")):
        if change is rollback_recipe:
            promote_version(lake, "s2", reason="x", now_ns=201)
            before = read_versions(lake)
        with pytest.raises(GateError, match=r"s[12] serves s, and the change was made for s9") as raised:
            change(lake, name, reason="x", now_ns=300, expected="s9")
        assert raised.value.facts["champion"] in ("s1", "s2")
    with pytest.raises(GateError, match="needs a reason"):
        promote_version(lake, "s3", reason=" ", now_ns=300)
    assert read_versions(lake) == before


def test_a_slow_clock_does_not_order_a_promotion_before_the_champion(lake: Lake) -> None:
    add(lake, "t", "t1", "t2", at_ns=10_000)
    promote_version(lake, "t1", reason="x", now_ns=20_000)
    promote_version(lake, "t2", reason="x", now_ns=5)
    serving = current_champion(lake, "t")
    assert serving is not None
    assert serving.version == "t2"
