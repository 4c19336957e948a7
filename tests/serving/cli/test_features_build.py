"""Command `features build`: health checks, Ctrl-C, and features of wider bars."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from features.build import build_features
from features.feature import FeatureBlock
from features.multi_width import join_wider
from features.panel.panel import load_panel
from features.sets import get_set
from features.store.day_files import DayFiles, PanelDay
from features.store.serialization import read_block
from serving import cli
from storage.clock import DAY_NS, NS, ManualTime, iso
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import START_NS, random_panel, stored_rows
from tests.features.store.test_store import MIDNIGHT_NS, STEPS, quarters

pytestmark = pytest.mark.usefixtures("here")

DAYS = 5
WHOLE = quarters(DAYS * STEPS)
QUARTERS = ("--width", "15m")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS)) as lake:
        lake.commit({"bars": stored_rows(WHOLE)}, batch_id="quarters")
    return tmp_path


def run(home: Path, *arguments: str) -> int:
    try:
        cli.main(["--home", str(home), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_health_is_checked_after_every_build(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for built in (DAYS, 0):
        assert run(home, "features", "build", "candles", *QUARTERS) == 0
        text = said(capsys)
        assert f"{built} days built ({built * STEPS * 4:,} bars)" in text
        assert f"health of the newest {DAYS} days: fit for training, 0 refusals" in text


def test_health_check_covers_no_more_days_than_one_build_step(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.store.day_files.STRETCH_CELLS", 2 * 4 * STEPS)
    assert run(home, "features", "build", "candles", *QUARTERS) == 0
    assert "health of the newest 2 days" in said(capsys)
    [folder] = (home / "features").iterdir()
    assert not [path for path in folder.iterdir() if path.is_dir() or path.suffix == ".part"], (
        "what was gathered to judge is gone"
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--newest", "3"), ("--newest is 3", "between 0 and 1", "use 0.2")),
        (("--newest", "0"), ("--newest is 0", "between 0 and 1", "use 0.2")),
        (
            ("--since", "2025-09-06", "--until", "2025-09-05"),
            ("--until 2025-09-05 is not after --since 2025-09-06", "swap them"),
        ),
        (("--instrument", "hyperliquid|perp|NONE"), ("hyperliquid|perp|NONE has no bar", "SELECT DISTINCT")),
    ],
)
@pytest.mark.parametrize("command", ["build", "health"])
def test_invalid_options_are_refused_before_anything_is_built(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    wrong: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    assert run(home, "features", command, "candles", *QUARTERS, *wrong) == 2
    text = said(capsys)
    assert all(word in text for word in words), text
    assert not list((home / "features").rglob("*.safetensors"))


def test_full_disk_is_reported_with_the_next_step(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("features.store.atomic_files.FileWriter.put", full)
    assert run(home, "features", "build", "candles", *QUARTERS) == 2
    text = said(capsys)
    assert "No space left on device" in text
    assert "free space or fix the permissions" in text


def test_unhealthy_days_exit_with_1_and_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = WHOLE.column("volume").clone()
    silent[:, -STEPS:] = torch.nan  # the newest fifth
    panel = replace(WHOLE, values=WHOLE.values | {"volume": silent})
    with Lake.open(Settings(home=tmp_path), clock=ManualTime(START_NS)) as lake:
        lake.commit({"bars": stored_rows(panel)}, batch_id="quarters")
    assert run(tmp_path, "features", "build", "candles", *QUARTERS) == 1
    text = said(capsys)
    assert "refuse: " in text
    assert "its source stopped: a model would be trained on data that it will not get any more" in text
    assert f"health of the newest {DAYS} days: refused" in text
    assert run(tmp_path, "features", "build", "candles", *QUARTERS) == 1
    assert "0 days built" in said(capsys)
    assert run(tmp_path, "features", "build", "candles", *QUARTERS, "--anyway") == 0


def test_ctrl_c_keeps_finished_days_and_prints_how_to_continue(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.store.day_files.STRETCH_CELLS", 1)
    write, written = DayFiles.write, []

    def interrupted(self: DayFiles, day: PanelDay, part: FeatureBlock) -> None:
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        write(self, day, part)
        written.append(day)

    with monkeypatch.context() as patched:
        patched.setattr(DayFiles, "write", interrupted)
        assert run(home, "features", "build", "candles", *QUARTERS) == 130
    assert "stopped: 3 days built and saved; the same command continues there" in said(capsys)
    assert run(home, "features", "build", "candles", *QUARTERS) == 0
    text = said(capsys)
    built, compared, kept = (
        int(text.split(word)[0].split()[-1])
        for word in (" days built", " checked and unchanged", " not touched")
    )
    assert (built + compared + kept, built <= 2, kept >= 1) == (DAYS, True, True)


def test_features_of_wider_bars_are_joined_into_the_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    since_ns = MIDNIGHT_NS + 3 * DAY_NS
    with Lake.open(Settings(home=home), clock=ManualTime(START_NS + 3600 * NS)) as lake:
        lake.commit(
            {"bars": stored_rows(random_panel(3, 900, seed=4, start_ns=since_ns))}, batch_id="minutes"
        )
        narrow = load_panel(lake, width="1m", grace_ns=2 * NS)
        wide = load_panel(lake, width="15m", grace_ns=2 * NS)
    path = tmp_path / "both.safetensors"
    asked = ("--since", iso(since_ns), "--wider", "15m", "--to", str(path), "--anyway")
    assert run(home, "features", "build", "candles", *asked) == 0
    count = len(get_set("candles"))
    assert f"3 instruments x 900 bars x {2 * count + 1} features" in said(capsys)
    block = read_block(path)
    expected = join_wider(build_features(narrow, "candles"), build_features(wide, "candles"))
    assert block.names == expected.names
    assert block.names[-1] == "age@15m"
    assert torch.equal(block.mask, expected.mask)
    assert torch.equal(block.values.view(torch.int32), expected.values.view(torch.int32))
    assert block.mask[:, 0, count:].any(), "the first minute knows the quarters before it"


def test_wider_bars_are_joined_into_a_file_only_and_must_be_wider(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(home, "features", "build", "candles", *QUARTERS, "--wider", "1h") == 2
    assert "--wider joins features into one file, but no file is named" in said(capsys)
    to = ("--to", str(tmp_path / "a.safetensors"))
    assert run(home, "features", "build", "candles", *QUARTERS, "--wider", "1h", *to) == 2
    assert "no 1h bar opens" in said(capsys)
    assert run(home, "features", "build", "candles", *QUARTERS, "--wider", "15m", *to) == 2
    assert "cannot be joined" in said(capsys)
    assert not Path(to[1]).exists()
