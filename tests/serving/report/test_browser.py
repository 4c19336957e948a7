"""The report in a real browser: no error, no request, no script, and within the width of a phone."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from features.monitoring.health import FeatureHealth
from serving.report import write_report
from serving.report.page import write_features
from serving.report.replay_page import render_replay
from storage.settings import Settings
from tests.patience import HANG_S
from tests.serving.report.replays import replay_report
from training.night.artifacts import NightArtifacts

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
)
# The browser's own requests (updates, accounts) have this for an initiator; a page's have an origin.
OWN = "not an origin"


@dataclass(frozen=True)
class Visit:
    """What came of opening a page: its tree, what the console said, and what the page asked the network for."""

    dom: str
    console: list[str]
    requests: list[str]

    @property
    def title(self) -> str:
        return self.dom.partition("<title>")[2].partition("</title>")[0]


def visit(page: Path, folder: Path, *, size: str = "1200,900") -> Visit:
    """Open a page from disk with a fresh profile."""
    assert CHROMIUM is not None
    log = folder / "net.json"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    done = subprocess.run(
        [*command, f"--window-size={size}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    starts = [event.get("params") or {} for event in json.loads(log.read_text())["events"]]
    return Visit(
        dom=done.stdout,
        console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
        requests=[
            held["url"]
            for held in starts
            if held.get("initiator", OWN) != OWN and "://" in held.get("url", "")
        ],
    )


@pytest.fixture(scope="module")
def page(judged: tuple[Settings, str]) -> Path:
    return Path(write_report(*judged))


def test_page_opens_without_error_or_request(page: Path, tmp_path: Path) -> None:
    found = visit(page, tmp_path)
    assert found.title.startswith("Refused: ")
    assert found.dom.count("<section") == 11
    assert found.console == []
    assert found.requests == []


def test_visit_detects_an_error_a_script_and_a_request(tmp_path: Path) -> None:
    planted = tmp_path / "planted.html"
    planted.write_text(
        "<title>before</title><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('planted'); document.title = 'run'</script>",
        encoding="utf-8",
    )
    found = visit(planted, tmp_path)
    assert found.title == "run"
    assert len(found.console) == 1
    assert found.requests == ["http://127.0.0.1:9/x.png"]


def test_policy_blocks_scripts_and_requests_in_the_page(page: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted.html"
    markup = "<script>document.title = 'run'</script><img src='http://127.0.0.1:9/x.png'><h1>"
    planted.write_text(page.read_text(encoding="utf-8").replace("<h1>", markup), encoding="utf-8")
    found = visit(planted, tmp_path)
    assert found.title.startswith("Refused: ")
    assert found.requests == []
    assert len(found.console) == 2


@pytest.fixture(scope="module")
def features_page(judged: tuple[Settings, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a block's features alone, as `tickwalk features health --page` writes it."""
    folder = NightArtifacts.find(*judged)
    health = FeatureHealth.from_dict(folder.read("health.json"))
    return write_features(tmp_path_factory.mktemp("pages") / "features.html", health)


def test_page_of_features_opens_without_error_or_request(features_page: Path, tmp_path: Path) -> None:
    found = visit(features_page, tmp_path)
    assert found.title == "Features of set candles"
    assert found.dom.count("<section") == 1
    assert found.console == []
    assert found.requests == []


@pytest.fixture(scope="module")
def replay_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a replay."""
    page = tmp_path_factory.mktemp("pages") / "replay.html"
    page.write_text(render_replay(replay_report()), encoding="utf-8")
    return page


def test_page_of_a_replay_opens_without_error_or_request(replay_page: Path, tmp_path: Path) -> None:
    found = visit(replay_page, tmp_path)
    assert found.title == "Replay candles-0123456789ab: +12.00% after costs"
    assert found.dom.count("<section") == 3
    assert found.console == []
    assert found.requests == []


WIDTHS: Final = (390, 1200)
MEASURE: Final = """
<title>0</title>
<script>
document.title = JSON.stringify(PAGES.map(page => WIDTHS.map(width => {
  const frame = document.createElement('iframe');
  frame.style = `width:${width}px;height:900px`;
  document.body.append(frame);
  frame.contentDocument.write(decodeURIComponent(page));
  frame.contentDocument.close();
  return frame.contentDocument.documentElement.scrollWidth;
})));
</script>
"""


def test_pages_fit_their_windows(page: Path, features_page: Path, replay_page: Path, tmp_path: Path) -> None:
    """A phone and a desktop; all in one start of the browser."""
    inner = []
    for shown in (page, features_page, replay_page):
        text = shown.read_text(encoding="utf-8")
        # Only without its policy can a script in the page measure it.
        start = text.index("<meta http-equiv")
        inner.append(quote(text[:start] + text[text.index(">", start) + 1 :]))
    outer = tmp_path / "outer.html"
    measure = MEASURE.replace("PAGES", json.dumps(inner)).replace("WIDTHS", json.dumps(WIDTHS))
    outer.write_text(f"<body>{measure}</body>", encoding="utf-8")
    found = json.loads(visit(outer, tmp_path).title)
    assert [len(widths) for widths in found] == [2] * 3
    for widths in found:
        assert all(300 < width <= most for width, most in zip(widths, WIDTHS, strict=True))
