"""Audit of a feature set by forecastguard, an outside tool that knows nothing of tickwalk.

forecastguard (PyPI, Apache-2.0) needs Python 3.12, so it runs in an environment of its own below the home, and a small
bridge process (forecastguard_process.py) passes it features that this interpreter computes. It changes the bars after
some cutoffs in three ways, and reports every feature whose values before the cutoff change.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.panel.panel import Panel
from features.sets import columns_of, get_set
from serving.feature_jobs.forecastguard_process import read_frame, write_frame
from storage.clock import NS, iso
from storage.contracts.tables import SESSIONS, STATUSES
from storage.errors import LeakError, SettingsError, TickwalkError
from storage.logs import get_logger

logger = get_logger(__name__)

RELEASE: Final = "forecastguard==0.2.0"
LEAST_PYTHON: Final = (3, 12)
_NAMES: Final = ("python3.13", "python3.12", "python3.14", "python3", "python")
_INSTRUMENTS: Final = 6
_NEWEST_STEPS: Final = 240
_CUTOFFS: Final = 3
_HORIZON: Final = 5
_MODES: Final = ("nullify", "noise", "sign_flip")
_SCRIPT: Final = Path(__file__).with_name("forecastguard_process.py")

FeaturesOf = Callable[[Any], Any]
"""Maps a pandas frame of bars to a frame of features, as `tickwalk.features(SET)` does."""


@dataclass(frozen=True, slots=True)
class OutsideReport:
    """What forecastguard found.

    Args:
        checks: (name, status, remark) of each check.
        calls: number of times that the features were computed.
        cutoffs: opens of the bars after which data was changed, ISO 8601.
        rows, features: size of the frames.
    """

    checks: tuple[tuple[str, str, str], ...]
    calls: int
    cutoffs: tuple[str, ...]
    rows: int
    features: int

    def lines(self) -> list[str]:
        """Return the report for people."""
        head = (
            f"{RELEASE}: no look-ahead in {self.features} features of {self.rows:,} bars, {self.calls} runs, bars "
            f"changed after {', '.join(self.cutoffs)}"
        )
        return [head, *(f"  {name:40} {status:>8}  {remark}" for name, status, remark in self.checks)]


def find_python(python: Path | None = None) -> Path:
    """Return an interpreter of Python 3.12 or newer.

    Args:
        python: the interpreter to use (default: the first on PATH or below `~/.pyenv/versions` that is new enough).

    Raises:
        SettingsError: there is none, or the given one is older.
    """
    for path in [python] if python is not None else _candidates():
        if (version := _version(path)) is not None and version >= LEAST_PYTHON:
            return path
    wanted = ".".join(map(str, LEAST_PYTHON))
    if python is not None:
        raise SettingsError(
            f"{python} is no interpreter of Python {wanted} or newer, which {RELEASE} needs",
            hint="pass another one with --python",
        )
    raise SettingsError(
        f"{RELEASE} needs Python {wanted} or newer, and none was found on PATH or below ~/.pyenv/versions",
        hint=f"install one, such as by pyenv install {wanted}, or name it with --python",
    )


def _candidates() -> Iterator[Path]:
    if sys.version_info[:2] >= LEAST_PYTHON:
        yield Path(sys.executable)
    for name in _NAMES:
        if found := shutil.which(name):
            yield Path(found)
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob("versions/*/bin/python3"))


def _version(python: Path) -> tuple[int, ...] | None:
    """Return the version of an interpreter; `None` if it does not start, like the shim of an unset pyenv version."""
    script = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(int(part) for part in done.stdout.split())


def prepare_environment(folder: Path, python: Path) -> Path:
    """Return the interpreter of an environment that has forecastguard, made with `python` where it is not there yet.

    Raises:
        SettingsError: it cannot be made or installed, as without a network.
    """
    version = ".".join(map(str, _version(python) or LEAST_PYTHON))
    target = folder / f"{RELEASE.replace('==', '-')}-python-{version}"
    inside = target / "bin" / "python"
    if (target / "installed").exists():
        return inside
    shutil.rmtree(target, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("environment of the auditor is made", path=str(target), python=str(python))
    pip = (
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
        RELEASE,
    )
    commands: list[list[str]] = [[str(python), "-m", "venv", str(target)], [str(inside), *pip]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SettingsError(
                f"the environment for {RELEASE} cannot be made in {target}: {last}",
                hint="it needs the package index once; run the command again with a network",
            )
    (target / "installed").touch()
    return inside


def audit(
    features_of: FeaturesOf, panel: Panel, feature_set: str, *, python: Path, folder: Path
) -> OutsideReport:
    """Let forecastguard audit a function from bars to features.

    Args:
        features_of: the function.
        panel: real bars; the newest steps of its first instruments are used.
        feature_set: whose lookback and columns are used.
        python: interpreter with forecastguard.
        folder: where frames are exchanged, emptied at the end.

    Raises:
        LeakError: forecastguard found that a feature reads across a cutoff, or could not finish a check.
        TickwalkError: the bridge process failed, or the function raised.
    """
    items = get_set(feature_set)
    deepest = max(item.lookback_bars for item in items)
    panel = panel.steps(-(deepest + _NEWEST_STEPS), None).select(
        range(min(panel.n_instruments, _INSTRUMENTS))
    )
    frame = _frame_of(panel, sorted(columns_of(items)))
    features = features_of(frame)  # an error of the function itself comes first, and not as a failed check
    cutoffs = _cutoffs(panel, deepest)
    spec = {
        "id_col": "instrument",
        "time_col": "ts_open",
        "target_col": "close" if "close" in frame else "bid",
        "cutoffs": cutoffs,
        "horizon": _HORIZON,
        "freq": f"{panel.width_ns // NS}s",
        "perturbations": list(_MODES),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as exchange:
        path = Path(exchange) / "frame.npz"
        write_frame(path, frame)
        report = _converse(python, {"frame": str(path), "spec": spec}, features_of)
    _refuse(report)
    checks = tuple((item["name"], item["status"], item["summary"]) for item in report["results"])
    return OutsideReport(checks, report["runtime_calls"], tuple(cutoffs), len(frame), features.shape[1] - 2)


def _frame_of(panel: Panel, columns: Sequence[str]) -> Any:
    """Return the bars as a pandas frame, one row for each instrument and step."""
    import pandas

    n_steps = panel.n_steps
    rows: dict[str, Any] = {
        "instrument": np.repeat(panel.instruments, n_steps),
        "ts_open": np.tile(
            panel.ts_open_ns.astype("datetime64[ns]").astype("datetime64[us]"), panel.n_instruments
        ),
        "status": np.array(STATUSES)[panel.status.flatten().numpy()],
    }
    for name in columns:
        values = panel.column(name).flatten().numpy()
        if name == "session":
            known = np.isfinite(values)
            rows[name] = np.where(known, np.array(SESSIONS)[np.where(known, values, 0).astype(int)], None)
        else:
            rows[name] = values
    return pandas.DataFrame(rows)


def _cutoffs(panel: Panel, deepest: int) -> list[str]:
    first, last = min(deepest, panel.n_steps // 2), panel.n_steps - 2 * _HORIZON
    if last - first < _CUTOFFS:
        raise SettingsError(
            f"{panel.n_steps} steps are too few to audit features that reach {deepest} bars back",
            hint="use a longer range",
        )
    steps = np.linspace(first, last, _CUTOFFS).astype(int)
    return [iso(int(panel.ts_open_ns[step])).removesuffix("Z") for step in steps]


def _converse(python: Path, request: dict[str, Any], features_of: FeaturesOf) -> dict[str, Any]:
    """Run the bridge process, answer its calls, and return its report."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [python, "-I", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _say(process.stdin, json.dumps(request))
            for line in process.stdout:
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "report":
                    report: dict[str, Any] = json.loads(rest)
                    return report
                if word == "call":
                    path = Path(rest)
                    answer = path.with_name(f"of-{path.name}")
                    write_frame(answer, features_of(read_frame(path)))
                    _say(process.stdin, str(answer))
        finally:
            process.stdin.close()
            process.kill()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no message"])[-1]
    raise TickwalkError(
        f"the bridge to {RELEASE} ended without a report: {last}",
        hint=f"delete {python.parent.parent} and run the command again",
    )


def _say(stream: Any, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


def _refuse(report: dict[str, Any]) -> None:
    """Raise for a report that is not a pass of every check."""
    if not report["exit_code"]:
        return
    for item in report["results"]:
        for violation in item["violations"]:
            raise LeakError(
                f"{RELEASE} found: {violation['message']} ({violation['code']}, at {violation['location']})",
                hint="fix the function, or its inputs; tickwalk features prove names the bar and the instrument",
                check=violation["code"],
                feature=str(violation["location"]).partition("@")[0],
            )
    unfinished = [item for item in report["results"] if item["status"] != "pass"]
    remarks = "; ".join(f"{item['name']}: {item['detail'] or item['status']}" for item in unfinished)
    raise LeakError(
        f"{RELEASE} could not finish, so nothing is proven by it: {remarks}",
        hint="use a longer range, or other instruments",
        check="unfinished",
    )
