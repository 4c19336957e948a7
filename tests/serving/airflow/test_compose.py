"""docker-compose.yml against the launcher and the Compose schema."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from serving.airflow.services import COMMON_ENV, SERVICES
from tests.paths import ROOT
from tests.patience import HANG_S

COMPOSE = ROOT / "docker-compose.yml"
GPU = ROOT / "docker" / "gpu.yml"
SECRETS = sorted(set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text(encoding="utf-8"))))
BY_NAME = {service.name: service for service in SERVICES}


def program(name: str) -> str:
    """Return a program of this environment, or skip with its name."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with the extra dev")
    return found


def run_compose(
    *words: str, env_file: Path, files: tuple[Path, ...] = (COMPOSE,)
) -> subprocess.CompletedProcess[str]:
    chosen = [word for file in files for word in ("--file", str(file))]
    command = [program("docker-compose"), "--env-file", str(env_file), *chosen, "config", *words]
    # Nothing of this process's environment may fill in a variable that the .env lacks.
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, capture_output=True, text=True, env=clean, check=False, timeout=HANG_S)


def make_env(folder: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "docker" / "make-env.sh"
    return subprocess.run(["sh", str(script), str(folder)], capture_output=True, text=True, check=False)


def read_env(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose")
    assert make_env(folder).returncode == 0
    return folder / ".env"


@pytest.fixture(scope="module")
def services(env_file: Path) -> dict[str, Any]:
    """The services as Compose's own parser reads them."""
    parsed = run_compose("--format", "json", env_file=env_file)
    assert parsed.returncode == 0, parsed.stderr
    found: dict[str, Any] = json.loads(parsed.stdout)["services"]
    return found


@pytest.mark.parametrize("files", [(COMPOSE,), (COMPOSE, GPU)], ids=["alone", "with-gpu"])
def test_compose_itself_accepts_the_file(env_file: Path, files: tuple[Path, ...]) -> None:
    parsed = run_compose("--quiet", env_file=env_file, files=files)
    assert parsed.returncode == 0, parsed.stderr


def test_files_match_the_compose_schema() -> None:
    command = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE), str(GPU)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert checked.returncode == 0, checked.stdout


def test_five_secrets_are_required() -> None:
    assert len(SECRETS) == 5


@pytest.mark.parametrize("secret", SECRETS)
def test_missing_secret_is_refused_with_the_command_to_create_it(
    env_file: Path, tmp_path: Path, secret: str
) -> None:
    lines = env_file.read_text(encoding="utf-8").splitlines()
    incomplete = tmp_path / ".env"
    incomplete.write_text(
        "\n".join(line for line in lines if not line.startswith(f"{secret}=")), encoding="utf-8"
    )
    parsed = run_compose("--quiet", env_file=incomplete)
    assert parsed.returncode != 0
    assert f"required variable {secret} is missing" in parsed.stderr
    assert "docker/make-env.sh" in parsed.stderr


def test_every_command_is_one_that_make_up_starts(services: dict[str, Any]) -> None:
    commands = {name: tuple(service["command"]) for name, service in services.items() if name != "postgres"}
    assert commands == {service.name: service.command for service in SERVICES}


@pytest.mark.parametrize("name", [service.name for service in SERVICES if not service.is_optional])
def test_airflow_gets_the_same_environment_as_by_make_up(services: dict[str, Any], name: str) -> None:
    environment = services[name]["environment"]
    assert {key: environment.get(key) for key in COMMON_ENV} == COMMON_ENV


def test_the_users_project_is_mounted_where_the_tasks_look_for_it(
    services: dict[str, Any], env_file: Path, tmp_path: Path
) -> None:
    assert services["scheduler"]["environment"]["TICKWALK_PROJECT"] == "", "without PROJECT_DIR there is none"
    env = tmp_path / ".env"
    env.write_text(f"{env_file.read_text(encoding='utf-8')}PROJECT_DIR={tmp_path}\n", encoding="utf-8")
    parsed = run_compose("--format", "json", env_file=env)
    assert parsed.returncode == 0, parsed.stderr
    found = json.loads(parsed.stdout)["services"]
    for name in ("dag-processor", "scheduler"):
        inside = found[name]["environment"]["TICKWALK_PROJECT"]
        (mount,) = [item for item in found[name]["volumes"] if item["target"] == inside]
        assert (mount["type"], mount["source"], mount["read_only"]) == ("bind", str(tmp_path), True)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_services_wait_for_what_the_launcher_waits_for(services: dict[str, Any], name: str) -> None:
    waits = {other: how["condition"] for other, how in services[name].get("depends_on", {}).items()}
    for needed in BY_NAME[name].needs:
        once = BY_NAME[needed].once
        assert waits[needed] == ("service_completed_successfully" if once else "service_healthy")


def test_only_the_pages_are_published_and_only_on_loopback(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert list(ports) == ["api-server"]
    assert [port["host_ip"] for port in ports["api-server"]] == ["127.0.0.1"]


def test_our_services_share_one_image_without_root(services: dict[str, Any]) -> None:
    ours = [service for name, service in services.items() if name != "postgres"]
    assert {service["image"] for service in ours} == {"tickwalk:local"}
    assert all(service["cap_drop"] == ["ALL"] for service in ours)


def test_daemons_have_health_checks_and_time_to_stop(services: dict[str, Any]) -> None:
    staying = [service for name, service in services.items() if name != "migrations"]
    assert len(staying) == 6
    assert all(service["healthcheck"]["test"] and service["stop_grace_period"] for service in staying)


def test_written_env_is_private_complete_and_not_overwritten(tmp_path: Path) -> None:
    assert make_env(tmp_path).returncode == 0
    path = tmp_path / ".env"
    values = read_env(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(values) == SECRETS
    assert len(set(values.values())) == 5
    Fernet(values["AIRFLOW_FERNET_KEY"])  # raises where Airflow would refuse the key
    again = make_env(tmp_path)
    assert again.returncode == 1
    assert "already exists" in again.stderr
    assert read_env(path) == values


def test_example_names_every_variable(env_file: Path) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(\w+):", text))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^(?:# )?([A-Z_]+)=", example, flags=re.MULTILINE))


def test_dockerfile_is_clean_for_its_linter() -> None:
    checked = subprocess.run(
        [program("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_torch_comes_before_the_lock_which_does_not_name_it() -> None:
    steps = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 0 < steps.index("torch==") < steps.index("--require-hashes") < steps.index("--no-deps")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"^torch==", lock, flags=re.MULTILINE)
