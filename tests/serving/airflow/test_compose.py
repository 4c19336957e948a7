"""docker-compose.yml against the launcher and the Compose schema."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from serving.airflow.services import COMMON_ENV, SERVICES, edge_env, executors
from tests.paths import ROOT
from tests.patience import HANG_S

COMPOSE = ROOT / "docker-compose.yml"
TEXT = COMPOSE.read_text(encoding="utf-8")
PROFILES = ("gpu", "s3", "metrics")
BY_NAME = {service.name: service for service in SERVICES}
FOREIGN = {"postgres", "s3", "prometheus", "grafana"}
"""Services whose images are not ours."""
AWAIT_API = ("python", "-m", "serving.airflow.await_api")


def program(name: str) -> str:
    """Return a program of this environment, or skip with its name."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with the extra dev")
    return found


def run_compose(
    *words: str, env_file: Path, profiles: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    command = [program("docker-compose"), "--file", str(COMPOSE), "--env-file", str(env_file), *chosen]
    # Nothing of this process's environment may fill in a variable that the .env lacks.
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [*command, "config", *words], capture_output=True, text=True, env=clean, check=False, timeout=HANG_S
    )


def parse(env_file: Path, *profiles: str) -> dict[str, Any]:
    """Return the file as Compose's own parser reads it."""
    parsed = run_compose("--format", "json", env_file=env_file, profiles=profiles)
    assert parsed.returncode == 0, parsed.stderr
    found: dict[str, Any] = json.loads(parsed.stdout)
    return found


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
    """The services without any profile."""
    found: dict[str, Any] = parse(env_file)["services"]
    return found


@pytest.fixture(scope="module")
def everything(env_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The whole file with all profiles, and training on a worker."""
    env = tmp_path_factory.mktemp("everything") / ".env"
    env.write_text(f"{env_file.read_text(encoding='utf-8')}WORKER_QUEUES=gpu\n", encoding="utf-8")
    return parse(env, *PROFILES)


def test_file_matches_the_compose_schema() -> None:
    command = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert checked.returncode == 0, checked.stdout


def test_profiles_add_their_services(services: dict[str, Any], everything: dict[str, Any]) -> None:
    assert set(services) == {service.name for service in SERVICES} | {"postgres"}
    more = {
        name: service["profiles"] for name, service in everything["services"].items() if name not in services
    }
    assert more == {
        "gpu-worker": ["gpu"],
        "s3": ["s3"],
        "prometheus": ["metrics"],
        "grafana": ["metrics"],
    }


@pytest.mark.parametrize("variable", ["TICKWALK_UID", "TICKWALK_GID"])
def test_missing_env_is_refused_with_the_command_to_create_it(
    env_file: Path, tmp_path: Path, variable: str
) -> None:
    lines = env_file.read_text(encoding="utf-8").splitlines()
    incomplete = tmp_path / ".env"
    incomplete.write_text(
        "\n".join(line for line in lines if not line.startswith(f"{variable}=")), encoding="utf-8"
    )
    parsed = run_compose("--quiet", env_file=incomplete)
    assert parsed.returncode != 0
    assert f"required variable {variable} is missing" in parsed.stderr
    assert "docker/make-env.sh" in parsed.stderr


def test_every_command_is_one_that_make_up_starts(services: dict[str, Any]) -> None:
    commands = {name: tuple(service["command"]) for name, service in services.items() if name not in FOREIGN}
    # The launcher waits for the API itself; containers do, because a reboot starts them all at once.
    assert commands == {
        service.name: (*AWAIT_API, *service.command) if "api-server" in service.needs else service.command
        for service in SERVICES
    }


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
    found = parse(env)["services"]
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


def test_only_pages_are_published_and_only_on_loopback(everything: dict[str, Any]) -> None:
    ports = {
        name: service["ports"] for name, service in everything["services"].items() if service.get("ports")
    }
    assert sorted(ports) == ["api-server", "grafana", "prometheus"]
    assert {port["host_ip"] for published in ports.values() for port in published} == {"127.0.0.1"}


def test_our_services_share_one_image_and_run_as_the_owner_of_the_secrets(everything: dict[str, Any]) -> None:
    ours = {name: service for name, service in everything["services"].items() if name not in FOREIGN}
    assert len(ours) == len(SERVICES) + 1
    assert {service["image"] for service in ours.values()} == {"tickwalk:local"}
    uid, gid = (1000, 1000) if os.getuid() == 0 else (os.getuid(), os.getgid())
    assert {service["user"] for service in ours.values()} == {f"{uid}:{gid}"}
    arguments = next(iter(ours.values()))["build"]["args"]
    assert (arguments["UID"], arguments["GID"]) == (str(uid), str(gid))


def test_foreign_images_are_pinned_by_version_and_digest(everything: dict[str, Any]) -> None:
    images = {everything["services"][name]["image"] for name in FOREIGN}
    (base,) = re.findall(
        r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert len(images | {base}) == 5
    for image in images | {base}:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", image), image


def test_every_service_is_limited_and_cannot_write_its_root(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        assert service["read_only"], name
        assert any(mount.startswith("/tmp") for mount in service["tmpfs"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) >= 512 << 20, name
        assert service["pids_limit"] >= 256, name
        # Docker refuses more CPUs than the machine has, so the two that train have a limit only by .env.
        assert name in ("scheduler", "gpu-worker") or service["cpus"] > 0, name
        assert service["logging"]["driver"] == "local", name
    added = {name for name, service in everything["services"].items() if service.get("cap_add")}
    assert added == {"postgres"}, "its entry point begins as root"


def test_secrets_are_files_and_in_no_environment(everything: dict[str, Any], env_file: Path) -> None:
    written = {
        path.name: path.read_text(encoding="utf-8") for path in (env_file.parent / "secrets").iterdir()
    }
    assert set(everything["secrets"]) == set(written), "make-env.sh writes what Compose mounts, and no more"
    for name, service in everything["services"].items():
        mounted = {f"/run/secrets/{secret['source']}" for secret in service.get("secrets", ())}
        environment = service.get("environment") or {}
        used = {
            path for value in environment.values() for path in re.findall(r"/run/secrets/\w+", value or "")
        }
        if name != "migrations":  # which runs once, and needs neither tokens nor S3
            assert used <= mounted, f"{name} lacks {used - mounted}"
    everywhere = json.dumps(everything["services"])
    assert not [name for name, text in written.items() if text in everywhere]


def test_worker_has_no_database_of_airflow_and_trains_where_the_gpu_is(everything: dict[str, Any]) -> None:
    worker, scheduler = (everything["services"][name] for name in ("gpu-worker", "scheduler"))
    assert "airflow_database" not in {secret["source"] for secret in worker["secrets"]}
    assert not [name for name in worker["environment"] if "SQL_ALCHEMY" in name]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in scheduler
    assert scheduler["environment"]["AIRFLOW__CORE__EXECUTOR"] == executors(("gpu",))
    assert scheduler["environment"]["TICKWALK_AIRFLOW_WORKER_QUEUES"] == "gpu"
    edge = edge_env("http://api-server:8080")
    assert {name: scheduler["environment"][name] for name in edge} == edge


def test_daemons_have_health_checks_and_time_to_stop(everything: dict[str, Any]) -> None:
    staying = {name: service for name, service in everything["services"].items() if name != "migrations"}
    assert len(staying) == 10
    for name, service in staying.items():
        assert service["stop_grace_period"], name
        # The worker's health is on Airflow's page; its container has nothing to ask.
        assert name == "gpu-worker" or service["healthcheck"]["test"], name


def test_written_secrets_are_private_complete_and_not_overwritten(tmp_path: Path) -> None:
    assert make_env(tmp_path).returncode == 0
    folder = tmp_path / "secrets"
    first = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert len(first) == 10
    assert len(set(first.values())) == 10
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(read_env(tmp_path / ".env")) == ["TICKWALK_GID", "TICKWALK_UID"]
    Fernet(first["airflow_fernet_key"])  # raises where Airflow would refuse the key
    assert first["postgres_password"] in first["airflow_database"]
    assert first["pgpass"].endswith(f":airflow:{first['postgres_password']}")
    key, secret = first["s3_auth_key"].split(",")
    credentials = ConfigParser()
    credentials.read_string(first["aws_credentials"])
    assert dict(credentials["default"]) == {"aws_access_key_id": key, "aws_secret_access_key": secret}

    (folder / "grafana_password").unlink()
    with (tmp_path / ".env").open("a", encoding="utf-8") as file:
        file.write("AIRFLOW_PORT=8081\n")
    again = make_env(tmp_path)
    assert again.returncode == 0
    assert "secrets: grafana_password\n" in again.stdout, "a newer release may need another one"
    second = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"grafana_password"}
    assert read_env(tmp_path / ".env")["AIRFLOW_PORT"] == "8081"


def test_secrets_of_an_older_release_are_taken_over_from_env(tmp_path: Path) -> None:
    old = {"POSTGRES_PASSWORD": "pw=1", "AIRFLOW_FERNET_KEY": "abc=", "AIRFLOW_JWT_SECRET": "j"}
    (tmp_path / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in old.items()), encoding="utf-8"
    )
    assert make_env(tmp_path).returncode == 0
    found = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()}
    names = ("postgres_password", "airflow_fernet_key", "airflow_jwt_secret")
    assert [found[name] for name in names] == list(old.values())
    assert found["pgpass"].endswith(":pw=1")
    assert len(found["airflow_api_secret_key"]) == 64, "what .env lacks is made"


DOCKER = """#!/bin/sh
for word; do case $word in *:*.*) echo "$DIGEST" ;; esac; done
"""


def pin(folder: Path, digest: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pin-images.sh on a copy of the Dockerfile, with a registry that answers this digest for every image."""
    docker = folder / "docker"
    docker.write_text(DOCKER, encoding="utf-8")
    docker.chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "DIGEST": digest}
    command = ["sh", str(ROOT / "docker" / "pin-images.sh"), *words, str(folder / "Dockerfile")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=HANG_S)


def test_moved_digest_is_reported_and_renewed_and_nonsense_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "Dockerfile"
    shutil.copy(ROOT / "Dockerfile", copy)
    before = copy.read_text(encoding="utf-8")
    new = f"sha256:{'0' * 64}"
    assert pin(tmp_path, "no such image").returncode == 1
    reported = pin(tmp_path, new)
    assert (reported.returncode, copy.read_text(encoding="utf-8")) == (1, before)
    assert f"is now {new}" in reported.stdout
    assert pin(tmp_path, new, "--write").returncode == 0
    assert copy.read_text(encoding="utf-8") == re.sub(r"sha256:[0-9a-f]{64}", new, before)
    assert "is as pinned" in pin(tmp_path, new).stdout


def test_example_names_every_variable(env_file: Path) -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+):", TEXT)) | {"COMPOSE_PROFILES"}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", example, flags=re.MULTILINE))


def test_dockerfile_is_clean_for_its_linter() -> None:
    checked = subprocess.run(
        [program("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_torch_comes_before_the_lock_which_does_not_name_it() -> None:
    steps = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 0 < steps.index("torch==") < steps.index("--require-hashes") < steps.index("--no-deps")
    assert "--no-build-isolation" in steps, "an isolated build would fetch an unpinned backend"
    backend = (ROOT / "docker" / "build-backend.lock").read_text(encoding="utf-8")
    assert re.search(r"^setuptools==[\d.]+ \\\n    --hash=sha256:", backend, flags=re.MULTILINE)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"^torch==", lock, flags=re.MULTILINE)


def test_s3_server_gets_its_key_as_one_quoted_value(
    everything: dict[str, Any], env_file: Path, tmp_path: Path
) -> None:
    """rclone splits the variable at commas, and would refuse a key that is not quoted."""
    (command,) = everything["services"]["s3"]["command"]
    rclone = tmp_path / "rclone"
    rclone.write_text('#!/bin/sh\nprintf %s "$RCLONE_AUTH_KEY"\n', encoding="utf-8")
    rclone.chmod(0o755)
    secrets = env_file.parent / "secrets"
    here = command.replace("$$", "$").replace("/run/secrets", str(secrets)).replace("/data", str(tmp_path))
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", here], env=env, capture_output=True, text=True, check=True, timeout=HANG_S
    )
    assert done.stdout == f'"{(secrets / "s3_auth_key").read_text(encoding="utf-8")}"'
