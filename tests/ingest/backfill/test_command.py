"""The command `tickwalk backfill`: output, results and error messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.simulator.wire.encoder import SimulatedFunding
from serving import cli
from tests.ingest.backfill.histories import NOW_NS, candles, served_aside

HOUR_MS = 3_600_000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without settings of the user who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TICKWALK_")]:
        monkeypatch.delenv(name)
    return tmp_path


def run(url: str, *arguments: str) -> int:
    values = (f"record.info_url={url}", "record.coins=BTC,ETH", "record.rest_timeout_s=0.5")
    try:
        cli.main([*(part for value in values for part in ("--set", value)), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def past() -> RecordedHistory:
    held = {(coin, "1h"): candles(60, width="1h") for coin in ("BTC", "ETH")}
    hour_ms = NOW_NS // 1_000_000 // HOUR_MS * HOUR_MS
    paid = [
        SimulatedFunding(coin, hour_ms - n * HOUR_MS + 3, 1e-5, 0.0)
        for n in range(48, -1, -1)
        for coin in ("BTC", "ETH")
    ]
    return RecordedHistory(NOW_NS, held, paid)


def test_a_plan_a_run_a_second_run_and_a_replay(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("backfill", "candles", "--width", "1h", "--from", "2025-05-18")
    with served_aside(past()) as url:
        assert run(url, *asked, "--dry-run") == 0
        said = capsys.readouterr()
        assert "3 steps, 0 more are in the lake already" in said.out
        assert "first     1h candles of BTC, 2025-05-18T00:00:00.000Z to 2025-05-20T00:00:00.000Z" in said.out
        assert "42 of the venue's rate-limit weight, less than a minute" in said.out
        assert "USD" not in said.out, "only an archive's reader pays"
        assert not list((here / "var/journal").glob("backfill*"))
        assert run(url, *asked) == 0
        assert capsys.readouterr().out.splitlines() == [
            "steps     3 done, 0 were in the lake",
            "new rows  bars 96, candles 96",
        ]
        assert run(url, *asked) == 0
        assert "nothing to do: all 3 steps" in capsys.readouterr().err
        assert run(url, "backfill", "funding", "--from", "2025-05-19") == 0
        assert "new rows  funding 50" in capsys.readouterr().out
    folders = sorted(str(path) for path in (here / "var/journal").glob("backfill-*"))
    assert len(folders) == 2, "a run that took nothing leaves no recording"
    assert run("", "--home", "other", "replay", *folders) == 0
    assert "new rows  candles 96, bars 96" in (out := capsys.readouterr().out)
    assert "candleSnapshot 2" in out
    assert "new rows  funding 50" in out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--from", "soon"], "'soon' is not a date or time", "write 2026-01-31"),
        (["--from", "2999-01-01"], "lies in the future", "times are UTC"),
        (["--from", "2025-05-20", "--to", "2025-05-19"], "is not before --to", "a day goes from"),
        (["--coin", "btc"], "'btc' is not listed", "did you mean BTC?"),
        (["--absent", "maybe"], "--absent is 'maybe'", "unknown, or quiet"),
        (["--width", "7m"], "no candles of '7m'", "--width is one of 1m"),
    ],
)
def test_a_mistake_ends_with_its_message_and_the_next_step(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    with served_aside(past()) as url:
        assert run(url, "backfill", "candles", *arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert hint in said
    assert "Traceback" not in said


def test_an_unreachable_venue_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("http://127.0.0.1:9/info", "backfill", "funding") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the venue did not answer exchangeStatus within 0.5 s" in said
    assert "check the network and record.info_url" in said
