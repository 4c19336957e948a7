"""The systemd units of Airflow: systemd reads them, and the command that they start exists."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.airflow.guard import REFUSED
from tests.paths import ROOT
from tests.patience import HANG_S
from tests.test_docs import misuse

UNITS = {
    "system": ROOT / "docker" / "systemd" / "tickwalk-airflow.service",
    "user": ROOT / "docker" / "systemd-user" / "tickwalk-airflow.service",
}


def read(path: Path) -> dict[str, str]:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text(encoding="utf-8"))
    return dict(unit["Service"])


@pytest.mark.parametrize("scope", list(UNITS))
def test_the_unit_runs_the_supervisor_in_the_foreground(scope: str) -> None:
    service = read(UNITS[scope])
    program, _, words = service["ExecStart"].partition(" ")
    assert program.endswith("/.venv/bin/tickwalk")
    assert words.split()[-2:] == ["airflow", "supervise"]
    assert misuse(words.split()) == ""
    assert service["Type"] == "simple"


@pytest.mark.parametrize("scope", list(UNITS))
def test_a_killed_supervisor_is_replaced_and_its_daemons_stay(scope: str) -> None:
    service = read(UNITS[scope])
    assert service["KillMode"] == "process", (
        "or systemd would kill the daemons that the next supervisor adopts"
    )
    assert service["Restart"] == "on-failure", "or `down` would not last"
    assert service["RestartPreventExitStatus"] == str(REFUSED)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("scope", list(UNITS))
def test_systemd_finds_nothing_wrong(scope: str, tmp_path: Path) -> None:
    text = UNITS[scope].read_text(encoding="utf-8")
    program = read(UNITS[scope])["ExecStart"].split()[0]
    unit = tmp_path / "tickwalk-airflow.service"
    unit.write_text(text.replace(program, "/bin/true"), encoding="utf-8")  # the program must exist here
    done = subprocess.run(
        ["systemd-analyze", f"--{scope}", "verify", str(unit)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
