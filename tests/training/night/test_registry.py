"""The registry of versions: the champion, rollback, and idempotent batches."""

from __future__ import annotations

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
    with pytest.raises(GateError, match="no version is called 'x'"):
        promote_version(lake, "x", reason="", now_ns=60)
