"""SIGHUP at every time of a tier's life, and from a terminal that closes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.calls import until
from tests.networks import write_bundle
from tests.processes import wait_for_import


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundles" / "tiny" / "1")
    return tmp_path / "bundles"


def command(root: Path, module: str = "cloud_node") -> list[str]:
    quick = ("--drain-delay-seconds", "0", "--profile-seconds", "0", "--metrics-listen", "-")
    return [sys.executable, "-m", module, "--bundle", str(root), "--listen", "127.0.0.1:0", *quick]


async def test_signals_all_through_start_and_end_do_no_harm(root: Path) -> None:
    process = subprocess.Popen(command(root), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []

    def listen() -> None:
        assert process.stderr is not None
        said.extend(process.stderr)

    try:
        status = Path(f"/proc/{process.pid}/status")

        async def catches() -> bool:
            caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
            return bool(int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1)

        await until(catches)
        reading = asyncio.create_task(asyncio.to_thread(listen))

        async def hangs_up_until_it_says(event: str) -> None:
            async def heard() -> bool:
                process.send_signal(signal.SIGHUP)
                return any(f'"event": "{event}"' in line for line in said)

            await until(heard, 60)

        await hangs_up_until_it_says("ready")
        await hangs_up_until_it_says("reload")
        process.send_signal(signal.SIGTERM)

        async def ended() -> bool:
            process.send_signal(signal.SIGHUP)
            return process.poll() is not None

        await until(ended, 60)
        await reading
    finally:
        process.kill()
        process.wait(30)
        process.stderr.close()
    assert process.returncode == 0, "".join(said)
    assert {json.loads(line).get("outcome", "unchanged") for line in said} == {"unchanged"}


@pytest.mark.parametrize("module", ["device_agent", "edge_node", "cloud_node"])
def test_a_signal_while_a_node_is_imported_does_not_end_it(module: str, root: Path) -> None:
    python, *rest = command(root, module)
    with subprocess.Popen([python, "-X", "importtime", *rest], stderr=subprocess.PIPE, text=True) as process:
        wait_for_import(process, "asyncio")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        process.stderr.read()
        assert process.wait(30) == 130, "of these two, the one that ended it"


@dataclass(slots=True)
class Terminal:
    """A terminal, with a tier in it."""

    ours: int
    process: subprocess.Popen[bytes]
    said: bytes = b""

    async def says(self, event: str) -> None:
        async with asyncio.timeout(60):
            while f'"event": "{event}"'.encode() not in self.said:
                self.said += await asyncio.to_thread(os.read, self.ours, 65536)


@contextmanager
def terminal(root: Path, log: str = "/dev/tty") -> Iterator[Terminal]:
    ours, theirs = os.openpty()
    inside = (
        "import os, sys; os.login_tty(int(sys.argv[1]));"
        "os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 2); os.execv(sys.argv[3], sys.argv[3:])"
    )
    process = subprocess.Popen([sys.executable, "-c", inside, str(theirs), log, *command(root)], pass_fds=[theirs])
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait(30)


async def test_a_terminal_that_is_closed_still_ends_what_it_shows(root: Path) -> None:
    with terminal(root) as shown:
        await shown.says("ready")
        shown.process.send_signal(signal.SIGHUP)
        await shown.says("reload")
        os.close(shown.ours)
        assert await asyncio.to_thread(shown.process.wait, 30) == 0


async def test_a_tier_that_logs_elsewhere_outlives_its_terminal_and_reloads(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with terminal(root, str(log)) as shown:

        async def says(event: str, times: int = 1) -> bool:
            return log.exists() and log.read_text().count(f'"event": "{event}"') >= times

        await until(lambda: says("ready"), 60)
        os.close(shown.ours)
        await until(lambda: says("reload"))
        shown.process.send_signal(signal.SIGHUP)
        await until(lambda: says("reload", 2))
        shown.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(shown.process.wait, 30) == 0
