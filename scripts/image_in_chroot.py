"""The image and the services of docker-compose.yml without a container engine: a Debian root, chroot and namespaces.

For machines that have no Docker, to check that the steps of the Dockerfile work and that the services start as they do
in Compose: as an unprivileged user, on a read-only root, with the same command lines, environment, secrets and health
checks. It needs root, debootstrap, PostgreSQL and the development environment.

    python scripts/image_in_chroot.py build ROOT [--build-arg NAME=VALUE ...] [--copy PATH ...]
    python scripts/image_in_chroot.py run ROOT [--port 8080] [--seconds 180] [--worker]

`build` makes ROOT with Debian 12, whose Python stands in for the base image, and runs each step of the Dockerfile in
it. `run` starts Postgres and all services at once, as an engine does after a reboot, waits until every health check
passes, says what it saw, and stops them; with `--worker` also the worker of the profile gpu. Remove ROOT afterwards:
nothing stays mounted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

PROJECT: Final = Path(__file__).resolve().parents[1]
SERVICES: Final = ("api-server", "dag-processor", "triggerer", "scheduler")
WORKER: Final = "gpu-worker"
UID: Final = 1000
_BASE: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}
_PASSED_ON: Final = ("PIP_", "SSL_CERT", "REQUESTS_CA", "http_proxy", "https_proxy")


# The image.


def build(root: Path, arguments: Mapping[str, str], copies: Sequence[Path], mirror: str) -> None:
    """Make a Debian root, and run the steps of the Dockerfile in it."""
    if root.exists() and any(root.iterdir()):
        raise SystemExit(f"{root} is not empty")
    include = "python3,python3-venv,ca-certificates"
    _run(
        "debootstrap",
        "--variant=minbase",
        f"--include={include}",
        "bookworm",
        str(root),
        *([mirror] if mirror else []),
    )
    for path in (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt"), *copies):
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
    # The base image has Python and pip in /usr/local; Debian's own environment is managed by apt.
    _in_root(root, ["python3", "-m", "venv", "/usr/local"], env=_BASE)
    env, workdir = dict(_BASE), "/"
    env |= {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    for number, (word, rest) in enumerate(steps(PROJECT / "Dockerfile"), start=1):
        print(f"step {number}: {word} {rest}", flush=True)
        started_s = time.monotonic()
        if word == "ARG":
            name, _, default = rest.partition("=")
            env[name] = arguments.get(name, default)
        elif word == "ENV":
            env |= dict(item.split("=", 1) for item in shlex.split(rest))
        elif word == "WORKDIR":
            workdir = rest
            (root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, place = rest.split()
            copy_context(sources, (root / workdir.lstrip("/") / place).resolve())
        elif word == "RUN":
            command = re.sub(r"--mount=\S+\s*", "", rest)
            _in_root(root, ["sh", "-c", f"cd {workdir} && {command}"], env=env)
        print(f"        {time.monotonic() - started_s:.1f} s", flush=True)
    (root / "image-env.json").write_text(json.dumps(env), encoding="utf-8")


def steps(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile, with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def copy_context(sources: Sequence[str], target: Path) -> None:
    """Copy files of the build context, which .dockerignore lists, into a folder."""
    rules = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [rule[1:].rstrip("/") for rule in rules if rule.startswith("!")]
    target.mkdir(parents=True, exist_ok=True)
    for source in allowed if list(sources) == ["."] else sources:
        if source not in allowed:
            raise SystemExit(f".dockerignore leaves out {source}, which the Dockerfile copies")
        path = PROJECT / source
        if path.is_dir():
            shutil.copytree(
                path,
                target / source,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
                dirs_exist_ok=True,
            )
        else:
            place = target / (source if list(sources) == ["."] else path.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def _in_root(root: Path, command: Sequence[str], *, env: Mapping[str, str]) -> None:
    mounts = f"mount -t proc proc {root}/proc && mount --bind /dev {root}/dev"
    script = f"{mounts} && exec chroot {root} {shlex.join(command)}"
    _run("unshare", "--mount", "sh", "-c", script, env=env)


def _run(*command: str, env: Mapping[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=None if env is None else dict(env))


# The services.


def run(root: Path, port: int, seconds: float, *, with_worker: bool) -> int:
    """Start the services at once, wait for their health checks, and report; return the exit code."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="image-", dir="/tmp")))
        work.chmod(0o755)
        _run("sh", str(PROJECT / "docker" / "make-env.sh"), str(work))
        secrets = work / "secrets"
        password = (secrets / "postgres_password").read_text(encoding="utf-8")
        database_port = port + 1
        stack.enter_context(postgres(database_port, password))
        names = {"@postgres/": f"@127.0.0.1:{database_port}/", "api-server:8080": f"127.0.0.1:{port}"}
        for file in secrets.iterdir():
            file.write_text(_replace(file.read_text(encoding="utf-8"), names), encoding="utf-8")
        if with_worker:
            with (work / ".env").open("a", encoding="utf-8") as env:
                env.write("WORKER_QUEUES=gpu\n")
        found = compose(work / ".env")
        image_env = json.loads((root / "image-env.json").read_text(encoding="utf-8"))
        container = Container(root, work, image_env, names | {"127.0.0.1:8080": f"127.0.0.1:{port}"}, port)

        started_s = time.monotonic()
        migrations = container.start("migrations", found["migrations"])
        if migrations.wait() != 0:
            print(container.log("migrations"))
            return 1
        print(f"migrations ended after {time.monotonic() - started_s:.1f} s", flush=True)
        # All at once: depends_on is ignored after a reboot.
        names_started = (*SERVICES, WORKER) if with_worker else SERVICES
        processes = {name: container.start(name, found[name]) for name in names_started}
        try:
            return report(container, found, processes, started_s + seconds)
        finally:
            for name in reversed(names_started):
                processes[name].terminate()
            for process in processes.values():
                process.wait()
            container.end()


def report(
    container: Container, found: Mapping[str, Any], processes: Mapping[str, Any], until_s: float
) -> int:
    """Wait until the health checks pass, and print what was seen."""
    healthy: dict[str, float] = {}
    started_s = time.monotonic()
    while len(healthy) < len(processes) and time.monotonic() < until_s:
        for name in processes:
            if processes[name].poll() is not None:
                print(f"{name} ended with {processes[name].returncode}:\n{container.log(name)}")
                return 1
            # The worker has no health check of its own: its log says when the API has accepted it.
            is_healthy = (
                "Starting worker" in container.log(name)
                if name == WORKER
                else container.check(found[name], found[name]["healthcheck"]["test"][1:]) == 0
            )
            if name not in healthy and is_healthy:
                healthy[name] = time.monotonic() - started_s
                print(f"{name} is healthy after {healthy[name]:.1f} s", flush=True)
        time.sleep(1.0)
    # Others may run an Airflow on this machine; ours are those whose root is the image.
    mine = [path for path in Path("/proc").glob("[0-9]*") if _root_of(path) == str(container.root)]
    print("uids of the services:", sorted({path.stat().st_uid for path in mine}), f"({len(mine)} processes)")
    print("root is writable:", container.check(found["scheduler"], ["touch", "/opt/probe"]) == 0)
    print("as:", container.output(found["scheduler"], ["id", "-u"]))
    print("scheduler's log begins:", *container.log("scheduler").splitlines()[:3], sep="\n    ")
    if WORKER in processes:
        print("the worker's log ends:", container.log(WORKER)[-600:])
        names = {name for name in container.env(found[WORKER]) if "DATABASE" in name or "FERNET" in name}
        print("the worker knows of Airflow's database:", sorted(names))
    return 0 if len(healthy) == len(processes) else 1


def _root_of(process: Path) -> str:
    try:
        return str((process / "root").readlink())
    except OSError:  # it has ended
        return ""


class Container:
    """Starts programs in the root, as Compose would start them in containers."""

    def __init__(
        self, root: Path, work: Path, image_env: Mapping[str, str], names: Mapping[str, str], port: int
    ) -> None:
        self.root, self._work, self._image_env, self._names, self._port = root, work, image_env, names, port
        for name in ("var/lib/tickwalk", "var/lib/airflow", "var/cache/tickwalk"):
            volume = work / "volumes" / Path(name).name / Path(name).parent.name
            volume.mkdir(parents=True)
            os.chown(volume, UID, UID)
        (root / "run" / "secrets").mkdir(parents=True, exist_ok=True)

    def argv(self, command: Sequence[str]) -> list[str]:
        """Return the command line that sees a read-only root, volumes, secrets and a /tmp of its own."""
        root, volumes = self.root, self._work / "volumes"
        mounts = [
            f"mount --bind {root} {root} && mount -o remount,bind,ro {root}",
            f"mount -t proc proc {root}/proc && mount --bind /dev {root}/dev",
            f"mount -t tmpfs tmpfs {root}/dev/shm && mount -t tmpfs tmpfs {root}/tmp",  # noqa: S108
            f"mount --bind {volumes}/tickwalk/lib {root}/var/lib/tickwalk",
            f"mount --bind {volumes}/airflow/lib {root}/var/lib/airflow",
            f"mount --bind {volumes}/tickwalk/cache {root}/var/cache/tickwalk",
            f"mount --bind {self._work}/secrets {root}/run/secrets",
        ]
        words = [_replace(word, self._names) for word in command]
        user = f"chroot --userspec={UID}:{UID} {root} sh -c 'cd /var/lib/tickwalk && exec \"$@\"' sh"
        return ["unshare", "--mount", "sh", "-c", f"{' && '.join(mounts)} && exec {user} {shlex.join(words)}"]

    def env(self, service: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment of a container."""
        given = {name: value or "" for name, value in (service.get("environment") or {}).items()}
        env = {name: _replace(value, self._names) for name, value in given.items()}
        own = {"AIRFLOW__API__HOST": "127.0.0.1", "AIRFLOW__API__PORT": str(self._port)}
        image = {name: value for name, value in self._image_env.items() if not name.startswith(_PASSED_ON)}
        return {**image, "HOME": "/home/tickwalk", **env, **own}

    def start(self, name: str, service: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Start a service with its output in a file."""
        with (self._work / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                self.argv(service["command"]),
                env=self.env(service),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def check(self, service: Mapping[str, Any], command: Sequence[str]) -> int:
        """Run a command where a service runs, and return its exit code."""
        argv = self.argv(command)
        return subprocess.run(argv, env=self.env(service), capture_output=True, check=False).returncode

    def output(self, service: Mapping[str, Any], command: Sequence[str]) -> str:
        """Run a command where a service runs, and return what it prints."""
        argv = self.argv(command)
        return subprocess.run(
            argv, env=self.env(service), capture_output=True, text=True, check=False
        ).stdout.strip()

    def log(self, name: str) -> str:
        """Return the end of a service's output."""
        return (self._work / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def end(self) -> None:
        """Say how the services ended."""
        left = [path for path in Path("/proc").glob("[0-9]*") if _root_of(path) == str(self.root)]
        print("processes left:", len(left))


def compose(env_file: Path) -> dict[str, Any]:
    """Return the services as Compose's own parser reads them."""
    program = Path(sys.executable).with_name("docker-compose")
    command = [str(program), "--file", str(PROJECT / "docker-compose.yml"), "--env-file", str(env_file)]
    done = subprocess.run(
        [*command, "--profile", "gpu", "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


@contextmanager
def postgres(port: int, password: str) -> Iterator[None]:
    """Run Debian's Postgres with the user and the database of Compose."""
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    shutil.chown(folder, "postgres", "postgres")
    given = folder / "password"
    given.write_text(password, encoding="utf-8")
    shutil.chown(given, "postgres", "postgres")
    user = ["runuser", "-u", "postgres", "--"]
    data = str(folder / "data")
    _run(
        *user,
        str(tools / "initdb"),
        "-D",
        data,
        "-A",
        "scram-sha-256",
        "-U",
        "airflow",
        f"--pwfile={given}",
        "-E",
        "UTF8",
    )
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder}"
    _run(*user, str(tools / "pg_ctl"), "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        env = {**os.environ, "PGPASSWORD": password}
        _run(str(tools / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "airflow", env=env)
        yield
    finally:
        _run(*user, str(tools / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _replace(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def main() -> int:
    """Read the command line, and build or run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build")
    building.add_argument("root", type=Path)
    building.add_argument(
        "--build-arg", action="append", default=[], help="NAME=VALUE of an ARG of the Dockerfile"
    )
    building.add_argument(
        "--copy", action="append", default=[], type=Path, help="file or folder of this machine"
    )
    building.add_argument("--mirror", default="", help="of Debian; default: that of debootstrap")
    running = commands.add_parser("run")
    running.add_argument("root", type=Path)
    running.add_argument("--port", type=int, default=8080)
    running.add_argument("--seconds", type=float, default=180.0)
    running.add_argument("--worker", action="store_true", help="start the worker of the profile gpu too")
    given = parser.parse_args()
    if given.command == "build":
        arguments = dict(item.split("=", 1) for item in given.build_arg)
        build(given.root.absolute(), arguments, given.copy, given.mirror)
        return 0
    return run(given.root.absolute(), given.port, given.seconds, with_worker=given.worker)


if __name__ == "__main__":
    sys.exit(main())
