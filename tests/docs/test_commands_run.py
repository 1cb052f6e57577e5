"""Every command of the documentation runs, page by page, in a copy of the project, in the order it is shown."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.docs.pages import blocks, pages, serves

SECONDS = 420
START_SECONDS = 60
DOOR = ("127.0.0.1", 8001)
RUNNABLE = [page for page in pages() if any(not block.how for block in blocks(page))]


def _asked_for() -> bool:
    return bool(os.environ.get("TEST_DOCS"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked and new files, the environment that runs these tests, the data sets where there are any, a photo."""
    if not _asked_for():
        pytest.skip("runs for minutes on fixed ports; set TEST_DOCS=1")
    here = tmp_path_factory.mktemp("docs") / "offramp"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, here / name)
    (here / ".venv").symlink_to(ROOT / ".venv", target_is_directory=True)
    if (sets := ROOT.parent / "shared" / "data").is_dir():
        (here / "data").symlink_to(sets, target_is_directory=True)
    Image.effect_noise((320, 240), 60).convert("RGB").save(here / "photo.jpg")
    Image.effect_noise((28, 28), 60).save(here / "digit.png")
    return here


@pytest.fixture
def serving() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What is started to stay; ended with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _free() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(DOOR) != 0


def _until_it_answers(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run([sys.executable, "-m", "testbed.cli", "health"], capture_output=True).returncode:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "it does not serve"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(page: Path, copy: Path, serving: list[subprocess.Popen[bytes]]) -> None:
    given = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    given.pop("OFFRAMP_PROFILE_CACHE", None)
    for command in [command for block in blocks(page) if not block.how for command in block.commands]:
        if serves(command):
            assert _free(), f"{command}: port {DOOR[1]} is taken"
            serving.append(
                subprocess.Popen(
                    ["bash", "-c", command], cwd=copy, env=given, start_new_session=True, stdout=subprocess.DEVNULL
                )
            )
            _until_it_answers(serving[-1])
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", command], cwd=copy, env=given, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
