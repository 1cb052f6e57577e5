"""The whole project as containers: up once for all tests here, under a name and on ports of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest

from services import bundle
from tests.conftest import ROOT

REQUIRE = "TEST_REQUIRE_CONTAINERS"
DIGITS = {"BUNDLE": "models/digits", "SPLITS": "8,14", "DEVICE_SLOWDOWN": "1", "EDGE_SLOWDOWN": "1"}
"""A fixed plan, so that every tier answers some."""
BUILD_SECONDS = 900
PUBLISHED = {
    "PUBLIC_PORT": ("device-agent", 8001),
    "CONSOLE_PORT": ("device-agent", 8000),
    "DEVICE_EDGE_CONTROL_PORT": ("link-device-edge", 8474),
    "EDGE_CLOUD_CONTROL_PORT": ("link-edge-cloud", 8474),
    "PROMETHEUS_PORT": ("prometheus", 9090),
}
"""What the compose file calls a port on the host, with whose it is, and which one it is there."""


@dataclass(slots=True)
class Stack:
    """A compose project. Commands that fail or hang raise AssertionError with what they printed."""

    project: str
    image: str
    healthy_after_seconds: float = field(default=float("inf"))
    files: tuple[str, ...] = ("docker-compose.yml",)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The public door, as the host sees it."""
        return f"127.0.0.1:{self.port('PUBLIC_PORT')}"

    def port(self, name: str) -> int:
        """The engine chose it, free as it was just then, and chooses another for a container made anew."""
        service, port = PUBLISHED[name]
        return int(self.compose("port", service, str(port)).rpartition(":")[2])

    def compose(self, *arguments: str, seconds: float = 120, **more: str) -> str:
        ports = dict.fromkeys(PUBLISHED, "0")
        given = DIGITS | {"IMAGE": self.image} | ports | self.values | more
        project = ("--project-name", self.project, *(f"--file={ROOT / name}" for name in self.files))
        # What the file itself says is tested, not what somebody's .env makes of it.
        options = ("--ansi", "never", "--env-file", os.devnull, *project)
        return run("docker", "compose", *options, *arguments, seconds=seconds, more=given)

    def up(self) -> None:
        """Starts what is not running and waits until everything is healthy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", "60")

    def docker(self, *arguments: str, seconds: float = 60) -> str:
        return run("docker", *arguments, seconds=seconds)

    def container(self, service: str) -> str:
        """The id of the container of `service`, running or not."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", self.container(service)))
        return found[0]

    def inside(self, service: str, *command: str) -> str:
        """What `command` prints in the container of `service`."""
        return self.docker("exec", self.container(service), *command)

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--timestamps", "--tail", "15")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """All services, healthy."""
    with started() as running:
        yield running


@contextmanager
def started(files: tuple[str, ...] = ("docker-compose.yml",), values: dict[str, str] | None = None) -> Iterator[Stack]:
    """All services, healthy, from an image built of this working tree; removed with the image at the end."""
    need_engine()
    name = f"offramp-test-{uuid.uuid4().hex[:8]}"
    running = Stack(name, f"{name}:latest", files=files, values=values or {})
    try:
        running.compose("build", seconds=BUILD_SECONDS)
        began = time.monotonic()
        _up_or_logs(running)
        running.healthy_after_seconds = time.monotonic() - began
        yield running
    finally:
        running.compose("down", "--volumes", "--remove-orphans")
        running.docker("image", "rm", "--force", running.image)  # `--rmi all` would take Prometheus's with it


@pytest.fixture(scope="session")
def digits() -> bundle.Bundle:
    return bundle.load(ROOT / "models" / "digits")


@pytest.fixture(scope="session")
def images(digits: bundle.Bundle) -> npt.NDArray[np.uint8]:
    """Held-out images, uint8 [N, 28, 28, 1]."""
    return bundle.load_samples(digits)[0][..., None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Any:
    """A failed test shows what the containers logged."""
    report = yield
    running = item.funcargs.get("stack")
    if report.failed and isinstance(running, Stack):
        report.sections.append(("container logs", running.logs()))
    return report


def _up_or_logs(running: Stack) -> None:
    try:
        running.up()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{running.logs()}") from None


def need_engine() -> None:
    for command in (("docker", "info"), ("docker", "compose", "version")):
        try:
            run(*command, seconds=30)
        except (AssertionError, OSError) as error:
            cannot(f"no container engine: {' '.join(str(error).split())[-300:]}")


def cannot(reason: str) -> NoReturn:
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, but {reason}")
    pytest.skip(reason)


def run(*command: str, seconds: float, more: dict[str, str] | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    try:
        done = subprocess.run(
            command, env=environment | (more or {}), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise AssertionError(f"`{' '.join(command)}` took more than {seconds} s") from None
    if done.returncode != 0:
        raise AssertionError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr[-6000:].strip()}")
    return done.stdout
