"""What a chaos run over containers asks of the engine, whose command line is a stand-in here, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import select
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.errors import SettingsError
from testbed.chaos import containers
from testbed.chaos.engine import Project, _called, docker
from testbed.local import TestbedError, TestbedSettings

SETTINGS = TestbedSettings(Path("models/digits"), device_slowdown=80.0)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each call of a `docker` that does nothing else."""
    file, command = tmp_path / "calls", tmp_path / "bin" / "docker"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$BUNDLE $*" >> {file}\n[ "$1" != fail ] || {{ echo no such thing; exit 3; }}\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    return file


async def test_a_project_is_removed_when_its_run_ends_however_that_is(calls: Path) -> None:
    project = Project("some-project", {"BUNDLE": "models/tiny"})

    async def interrupted() -> None:
        async with project.removed():
            await project.compose("up")
            assert len(calls.read_text().splitlines()) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await interrupted()
    up, *downs = calls.read_text().splitlines()
    assert up.endswith("--project-name some-project up")
    assert len(downs) == 2
    assert all("--project-name some-project down --volumes" in down for down in downs)
    assert {line.split()[0] for line in (up, *downs)} == {"models/tiny"}


async def test_what_the_engine_refuses_is_said_in_its_words(calls: Path) -> None:
    with pytest.raises(TestbedError, match=r"`docker fail now` ended with code 3: no such thing"):
        await docker("fail", "now")


async def test_without_an_engine_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TestbedError, match="install Docker, or run without --containers"):
        await docker("ps")


@pytest.mark.parametrize(("seconds", "error"), [(0.5, TestbedError), (60.0, TimeoutError)])
async def test_what_a_call_left_behind_ends_with_it(
    seconds: float, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it took too long, and where its caller did not wait: the command line's own end is no sign of the rest."""
    ours, theirs = os.pipe()
    made: list[asyncio.subprocess.Process] = []

    async def launched(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        made.append(await started(*command, **options))
        return made[-1]

    started = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", launched)
    try:
        with pytest.raises(error):
            async with asyncio.timeout(min(seconds + 0.5, 1)):
                await _called(("sh", "-c", "sleep 30 & exit 0"), seconds, held=(theirs,))
    finally:
        os.close(theirs)
    assert [process.stdout.at_eof() for process in made if process.stdout] == [True]
    with os.fdopen(ours, "rb") as end:
        assert select.select([end], [], [], 5)[0], "somebody still holds the other end"


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        (replace(SETTINGS, edges=2), "leave --edges out"),
        (replace(SETTINGS, bundle=Path("/somewhere/digits")), "give one of those"),
    ],
)
def test_what_containers_cannot_do_is_refused(settings: TestbedSettings, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        containers._values(settings)


def test_elsewhere_than_in_the_project_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="in the directory of the project"):
        containers._values(SETTINGS)


def test_links_tiers_and_ports_are_told_to_the_compose_file() -> None:
    told = containers._values(SETTINGS)
    assert told["DEVICE_EDGE_RATE"] == "20mbit"
    assert told["EDGE_CLOUD_RTT"] == "40ms"
    assert told["DEVICE_SLOWDOWN"] == "80"
    text = Path(containers.COMPOSE_FILE).read_text()
    assert not [name for name in told if f"${{{name}:-" not in text], "the compose file knows no such variable"
