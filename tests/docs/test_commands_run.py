"""Every command of the documentation runs, page by page, in a copy of the project, in the order it is shown."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.docs.pages import blocks, pages, serves

SECONDS = 420
START_SECONDS = 60
POLL_SECONDS = 0.2
SAYS = (b'"event": "ready"', b'"event": "listening"', b"Ctrl-C")
"""What a tier, a link, and the testbed say when they serve."""
FROM_MAKE = ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
"""What a make that runs these tests would hand to the make of a page: `make test ARGS=...` is not `make run`'s."""
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
    _environment(here / ".venv")
    if (sets := ROOT.parent / "shared" / "data").is_dir():
        (here / "data").symlink_to(sets, target_is_directory=True)
    Image.effect_noise((320, 240), 60).convert("RGB").save(here / "photo.jpg")
    (here / "out" / "run").mkdir(parents=True)
    Image.effect_noise((28, 28), 60).save(here / "out" / "run" / "sample.png")
    return here


def _environment(here: Path) -> None:
    """What the copy takes for its own: the commands of the environment that is there, and nothing to install."""
    here.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (here / name).symlink_to(ROOT / ".venv" / name)
    for name in (".installed-run", ".installed-dev"):
        (here / name).touch()


@dataclass(slots=True)
class Servers:
    """What stays in the foreground until Ctrl-C, in the order it was started."""

    here: Path
    given: dict[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: str) -> None:
        """Returns when it says that it serves."""
        log = self.here / f"serving-{len(self.running)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.here,
                env=self.given,
                start_new_session=True,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)
        deadline = time.monotonic() + START_SECONDS
        while not any(word in log.read_bytes() for word in SAYS):
            assert process.poll() is None, f"{command}: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{command}: {log.read_text()[-2000:]}"
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        while self.running:
            process = self.running.pop()
            if process.poll() is not None:
                continue
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


@pytest.fixture
def servers(copy: Path) -> Iterator[Servers]:
    given = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    for name in [name for name in given if name.startswith("OFFRAMP_") or name in FROM_MAKE]:
        del given[name]
    found = Servers(copy, given)
    yield found
    found.stop()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(page: Path, copy: Path, servers: Servers) -> None:
    for block in [block for block in blocks(page) if not block.how]:
        if any(serves(command) for command in block.commands):
            servers.stop()  # what earlier blocks left up makes room
        for command in block.commands:
            if serves(command):
                servers.start(command)
                continue
            done = subprocess.run(
                ["bash", "-e", "-c", command],
                cwd=copy,
                env=servers.given,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
