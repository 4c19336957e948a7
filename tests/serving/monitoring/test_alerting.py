"""Alerts: first, repeated and resolved, retries, and secrecy of the webhook."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from ingest.recorder.heartbeat import write_heartbeat
from serving import cli
from serving.monitoring.alerting import Alert, AlertManager, check_once, send
from serving.monitoring.checks import HealthIssue
from storage.clock import NS
from storage.settings import Settings, load_settings
from storage.settings.services import AlertSettings
from tests.paths import ROOT
from tests.patience import HANG_S
from tests.plugins.property_tests import examples
from tests.serving.monitoring.recorder_statuses import NOW_NS, vitals


def with_alert(settings: Settings, **changes: Any) -> Settings:
    return dataclasses.replace(settings, alert=dataclasses.replace(settings.alert, **changes))


@contextmanager
def webhook(*, status: int = 200) -> Iterator[tuple[str, Queue[dict[str, Any]]]]:
    """Serve a real webhook, whose address holds a key, and keep what it is sent."""
    heard: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?key=s3cr3t", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# Telling.

SILENT = HealthIssue("silent", "", "nothing heard")


class Ears:
    """Hears alerts; deaf until `at_ns` where that is given."""

    def __init__(self, deaf_until_ns: int = 0) -> None:
        self.heard: list[tuple[str, int]] = []
        self._deaf_until_ns = deaf_until_ns

    def __call__(self, alert: Alert) -> bool:
        if alert.now_ns < self._deaf_until_ns:
            self.heard.append(("tried", alert.now_ns))
            return False
        self.heard.append((alert.event, alert.now_ns))
        return True


def play(deadman: AlertManager, ears: Ears, script: list[tuple[int, bool]]) -> None:
    for second, is_ill in script:
        deadman.update([SILENT] if is_ill else [], second * NS, ears)


def test_alert_is_sent_once_repeated_and_resolved() -> None:
    limits = AlertSettings(repeat_s=3600, settle_s=300)
    ears = Ears()
    play(AlertManager(limits), ears, [(second, 60 <= second < 8_000) for second in range(0, 12_000, 15)])
    told = [(event, at_ns // NS) for event, at_ns in ears.heard]
    assert told == [("alert", 60), ("repeat", 3_660), ("repeat", 7_260), ("over", 8_310)]


def test_flapping_issue_is_one_alert() -> None:
    ears = Ears()
    play(AlertManager(AlertSettings()), ears, [(second, second % 120 < 60) for second in range(0, 3_000, 15)])
    assert [event for event, _ in ears.heard] == ["alert"]


def test_failed_alert_is_retried_with_backoff() -> None:
    limits = AlertSettings(check_s=15, repeat_s=3600)
    ears = Ears(deaf_until_ns=1_000 * NS)
    play(AlertManager(limits), ears, [(second, True) for second in range(0, 3_000, 15)])
    tries = [at_ns // NS for event, at_ns in ears.heard if event == "tried"]
    assert tries == [0, 15, 45, 105, 225, 465, 945]
    assert [event for event, _ in ears.heard if event != "tried"] == ["alert"]


@hypothesis(deadline=None, max_examples=examples(100))
@given(st.lists(st.tuples(st.integers(1, 900), st.booleans()), max_size=120), st.booleans())
def test_alert_is_never_sent_more_often_than_allowed(steps: list[tuple[int, bool]], restarts: bool) -> None:
    """Whatever comes and goes, and whether or not the watcher is restarted between two looks."""
    limits = AlertSettings(repeat_s=1_800, settle_s=300)
    ears, deadman, second = Ears(), AlertManager(limits), 0
    for after_s, is_ill in steps:
        second += after_s
        deadman.update([SILENT] if is_ill else [], second * NS, ears)
        if restarts:
            deadman = AlertManager(limits, deadman.sent)
    since_over = [at_ns for event, at_ns in ears.heard if event == "alert"]
    repeats = [at_ns for event, at_ns in ears.heard if event in ("alert", "repeat")]
    for before, after in pairwise(repeats):
        assert after - before >= 1_800 * NS or after in since_over
    events = [event for event, _ in ears.heard]
    assert all(pair != ("alert", "alert") for pair in pairwise(events))


def test_a_clock_set_back_does_not_silence_alerts() -> None:
    ears, deadman = Ears(), AlertManager(AlertSettings())
    play(deadman, ears, [(100_000, True), (50, True), (65, True)])
    assert [event for event, _ in ears.heard] == ["alert", "repeat"]


def test_check_alerts_a_command_and_a_webhook(settings: Settings, tmp_path: Path) -> None:
    heard_by_command = tmp_path / "heard.json"
    command = f"{sys.executable} -c \"import sys; open('{heard_by_command}', 'w').write(sys.stdin.read())\""
    with webhook() as (url, heard):
        settings = with_alert(settings, command=command, webhook=url, settle_s=60.0)
        write_heartbeat(settings, vitals(unsent_batches=40), beat_ns=NOW_NS)
        assert [trouble.kind for trouble in check_once(settings, now_ns=NOW_NS)] == ["lake"]
        first = heard.get(timeout=HANG_S)
        assert json.loads(heard_by_command.read_text()) == first
        assert first["text"] == "tickwalk ALERT: lake: 40 batches are waiting for the lake"
        assert (first["event"], first["kind"], first["home"]) == ("alert", "lake", str(settings.home))
        check_once(settings, now_ns=NOW_NS + 20 * NS)
        write_heartbeat(settings, vitals(), beat_ns=NOW_NS + 30 * NS)
        check_once(settings, now_ns=NOW_NS + 30 * NS)
        assert check_once(settings, now_ns=NOW_NS + 90 * NS) == []
        assert heard.get(timeout=HANG_S)["event"] == "over"
        assert heard.empty(), "each look is a watcher of its own, and nothing is told twice"


def test_one_working_channel_is_enough(settings: Settings) -> None:
    with webhook() as (url, heard):
        settings = with_alert(settings, command="false", webhook=url)
        assert send(Alert("alert", "disk", "", "full", 0, 0), settings)
        assert heard.get(timeout=HANG_S)["kind"] == "disk"


@pytest.mark.parametrize("command", ["/no/such/program", "false", "sleep 60", "a 'b"])
def test_failing_command_logs_a_warning(
    settings: Settings, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = with_alert(settings, command=command, timeout_s=0.3)
    assert not send(Alert("alert", "disk", "", "full", 0, 0), settings)
    assert "alert not sent" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9/hook?key=s3cr3t", "http://s3cr3t.invalid:0/x"])
def test_webhook_address_is_never_shown(
    settings: Settings, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where it fails, nor in the settings' listing, nor to the command, nor in an error."""
    with webhook(status=500) as (failing, heard):
        settings = with_alert(settings, webhook=url or failing)
        assert not send(Alert("alert", "disk", "", "full", 0, 0), settings)
        assert url or heard.get(timeout=HANG_S)
    monkeypatch.setenv("TICKWALK_ALERT_WEBHOOK", url or failing)
    monkeypatch.setenv("TICKWALK_HOME", str(settings.home))
    cli.main(["settings"])
    send(Alert("alert", "disk", "", "full", 0, 0), with_alert(settings, command="env", webhook=""))
    out = capsys.readouterr()
    assert "alert not sent" in out.err
    assert "(set, not shown)" in out.out
    assert "s3cr3t" not in out.out + out.err + repr(settings)


def test_invalid_webhook_is_refused_without_showing_it() -> None:
    with pytest.raises(Exception, match=r"alert\.webhook is no http address") as refused:
        load_settings(overrides={"alert.webhook": "ftp://s3cr3t"}, environ={})
    assert "s3cr3t" not in str(refused.value)


# Processes of their own.


def tickwalk(settings: Settings, *words: str, **variables: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TICKWALK_")}
    environ |= {"TICKWALK_HOME": str(settings.home)} | variables
    command = [sys.executable, "-m", "serving.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=pipe, stderr=pipe, text=True)


def test_check_exits_with_1_and_prints_the_reasons(settings: Settings) -> None:
    empty = tickwalk(settings, "alert", "check")
    assert "no recorder has run" in empty.communicate(timeout=HANG_S)[0]
    assert empty.returncode == 1
    write_heartbeat(settings, vitals())
    well = tickwalk(settings, "alert", "check")
    assert well.communicate(timeout=HANG_S)[0] == "all well\n"
    assert well.returncode == 0


def test_killed_recorder_and_its_restart_are_noticed_by_another_process(settings: Settings) -> None:
    """One real process beats and is killed; another real process notices, and tells a real webhook."""
    beats = (
        "import dataclasses, os, threading\n"
        "from ingest.recorder.heartbeat import write_heartbeat\nfrom storage.settings import load_settings\n"
        "from tests.serving.monitoring.recorder_statuses import vitals\n"
        "settings, rest = load_settings(), threading.Event()\n"
        "while not rest.wait(0.05):\n"
        "    write_heartbeat(settings, vitals(pid=os.getpid()))\n"
        "    print('beat', flush=True)\n"
    )
    environ = os.environ | {"TICKWALK_HOME": str(settings.home)}

    def recorder() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", beats], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "beat\n"
        return process

    limits = {"SILENT_S": "1.0", "CHECK_S": "0.1", "SETTLE_S": "0.2"}
    first = recorder()
    with webhook() as (url, heard):
        variables = {f"TICKWALK_ALERT_{name}": value for name, value in limits.items()}
        watcher = tickwalk(settings, "alert", "watch", TICKWALK_ALERT_WEBHOOK=url, **variables)
        first.kill()
        first.communicate()
        assert (heard.get(timeout=HANG_S)["kind"]) == "silent"
        second = recorder()
        assert heard.get(timeout=HANG_S)["event"] == "over"
        watcher.send_signal(signal.SIGTERM)
        _, said = watcher.communicate(timeout=HANG_S)
        second.kill()
        second.communicate()
    assert watcher.returncode == 0, said
    assert "s3cr3t" not in said


def test_watching_without_a_channel_is_refused(settings: Settings) -> None:
    watcher = tickwalk(settings, "alert", "watch")
    _, said = watcher.communicate(timeout=HANG_S)
    assert watcher.returncode == 2
    assert "nobody would be alerted" in said
