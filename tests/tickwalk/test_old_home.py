"""A home made by release 0.1.0 before its packages were split: it opens, reads and replays as it did then.

Counts are those that `tests/fixtures/README.md` gives of the day on which it was made.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import pytest

import tickwalk
from features.store.serialization import read_block, read_panel
from ingest.replay.replay import replay
from serving import cli
from serving.report import write_report
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.settings import load_settings
from tests.tickwalk.conftest import unpack_home
from training.models.checkpoint import load_checkpoint

ROWS: Final = {
    "bars": 642,
    "batches": 8,
    "books": 42,
    "candles": 640,
    "clocks": 1,
    "contexts": 22,
    "coverage": 9,
    "instruments": 7,
    "lags": 7,
    "migrations": 2,
    "pins": 2,
    "quarantine": 1,
    "quotes": 136,
    "trades": 192,
    "versions": 3,
}
NIGHT: Final = "tiny-3cae08d6426f"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture home, for tests that may write to it."""
    return unpack_home(tmp_path_factory.mktemp("old"))


def answer(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> list[dict[str, Any]]:
    """Return the rows that a command prints as JSON."""
    cli.main(["--home", str(home), *words, "--format", "json"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_table_has_its_rows(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = answer(capsys, old, "lake", "status")
    assert {row["table"]: row["rows"] for row in status if row["rows"]} == ROWS


def test_its_files_batches_and_pins_are_sound(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--home", str(old), "lake", "verify"])
    assert "0 findings" in capsys.readouterr().err  # and a finding ends with an exit code


def test_its_past_states_can_be_read(old: Path) -> None:
    with tickwalk.open(old) as home:
        assert home.sql("SELECT count(*) AS n FROM versions", at=NIGHT).pl().item() == 0
        assert home.sql("SELECT count(*) AS n FROM versions", at="fixture").pl().item() == 2
        assert len(home.bars("BTC", "5m", at=NIGHT)) == 320


def test_its_quarantine_is_listed(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = answer(capsys, old, "quarantine", "list")
    assert (row["table"], row["rows"]) == ("trades", 1)
    assert row["reason"] == "price -1.0 is not between 0 and 1e+12"


def test_replaying_its_journal_adds_what_it_listed_and_the_print_that_was_refused(old: Path) -> None:
    settings = load_settings(overrides={"home": old}, environ={})
    capture, recording = sorted(path for path in settings.journal_dir.iterdir() if path.is_dir())
    with Lake.open(settings) as lake:
        for folder, added in ((capture, {"recordings", "coverage"}), (recording, {"recordings"})):
            done = replay(folder, settings, lake)
            assert done.counts.frames > 0
            assert {table for table, rows in done.written.items() if rows} == added
        gaps = lake.query("SELECT instrument FROM coverage WHERE cause = 'prints refused'").to_pylist()
    assert gaps == [{"instrument": "hyperliquid|perp|SOL"}]  # its print is in quarantine


def test_it_is_sound_after_its_migration(old: Path) -> None:
    with Lake.open(load_settings(overrides={"home": old}, environ={})) as lake:
        assert lake.query("SELECT count(*) AS n FROM recordings WHERE batch = 'migration'")[
            "n"
        ].to_pylist() == [2]
        assert verify(lake, now_ns=time.time_ns()).findings == ()


def test_its_night_and_champion_are_read(old: Path) -> None:
    settings = load_settings(overrides={"home": old}, environ={})
    with tickwalk.open(old) as home:
        assert home.nights().arrow()["night"].to_pylist() == [NIGHT]
        details = home.night(NIGHT)
        champion = home.champion()
    assert details.outcome == "refused"
    assert [rule["name"] for rule in details.rules if not rule["passed"]] == [
        "ic",
        "fills",
        "deflated sharpe",
    ]
    assert champion is not None
    assert (champion.version, champion.reason) == (f"mlp-{NIGHT}", "the fixture's champion")
    assert load_checkpoint(settings.models_dir / champion.artefact, expect={}).stamp["model"] == "mlp"
    assert read_panel(details.folder / "panel.safetensors").n_steps == 320
    assert read_block(details.folder / "features.safetensors").values.shape[:2] == (2, 320)
    page = Path(write_report(settings, NIGHT)).read_text(encoding="utf-8")
    assert NIGHT in page
