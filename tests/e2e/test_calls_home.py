"""Nobody is called but who the settings name: every socket of running tiers, all the time they run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from device_agent.client import AsyncClient
from services import bundle
from tests.conftest import ROOT

PATIENCE = 60.0
LOOK_SECONDS = 0.005
LISTENING = "0A"
KINDS = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6")
pytestmark = pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets can only be listed on Linux")


@dataclass(frozen=True, slots=True)
class Socket:
    """One that a process holds, or held when it was looked at: ports are those of this machine."""

    kind: str
    port: int
    peer_port: int
    peer_is_local: bool
    listening: bool


def sockets(process: int) -> set[Socket]:
    """The internet sockets that `process` holds now."""
    inodes = set()
    for entry in os.scandir(f"/proc/{process}/fd"):
        with suppress(OSError):  # closed meanwhile
            name = os.readlink(entry.path)
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    found = set()
    for kind in KINDS:
        table = Path(f"/proc/{process}/net/{kind}")
        for row in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, remote, state, *_, inode = row.split()[:10]
            if inode in inodes:
                host, _, port = remote.partition(":")
                loopback = host == "0100007F" or host.endswith(("0000000001000000", "FFFF00000100007F"))
                found.add(Socket(kind, _number(local), int(port, 16), loopback, state == LISTENING))
    return found


def _number(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


@dataclass(slots=True)
class Watched:
    """A tier, and every socket it was seen with since its first instruction."""

    process: asyncio.subprocess.Process
    seen: set[Socket]
    address: str = ""
    metrics: str = ""

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@asynccontextmanager
async def watched(module: str, path: Path, home: Path, *arguments: str) -> AsyncIterator[Watched]:
    """A tier as a process with all there is to find out at start, told nothing about telemetry."""
    told = ("OFFRAMP_", "ORT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    command = [sys.executable, "-m", module, "--bundle", str(path), "--listen", "127.0.0.1:0", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment | {"HOME": str(home)}, stderr=asyncio.subprocess.PIPE
    )
    tier = Watched(process, set())
    watching = asyncio.create_task(_watch(tier))
    try:
        await asyncio.wait_for(_ready(tier), PATIENCE)
        yield tier
    finally:
        watching.cancel()
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(tier: Watched) -> None:
    while True:
        with suppress(OSError):
            tier.seen |= sockets(tier.process.pid)
        await asyncio.sleep(LOOK_SECONDS)


async def _ready(tier: Watched) -> None:
    assert tier.process.stderr is not None
    while line := await tier.process.stderr.readline():
        with suppress(ValueError):
            event = json.loads(line)
            if event["event"] == "ready":
                tier.address, tier.metrics = event["address"], event["metrics"]
                return
    raise AssertionError("the process ended before it was ready")


async def test_running_tiers_open_no_socket_that_is_not_configured(tiny: Path, tmp_path: Path) -> None:
    images = bundle.load_samples(bundle.load(tiny))[0][..., None]
    free = ("--metrics-listen", "127.0.0.1:0", "--profile-seconds", "0.5")
    async with AsyncExitStack() as stack:

        async def start(module: str, *arguments: str) -> Watched:
            return await stack.enter_async_context(watched(module, tiny, tmp_path, *free, *arguments))

        cloud = await start("cloud_node")
        edge = await start("edge_node", "--next", cloud.address)
        device = await start("device_agent", "--next", edge.address, "--console-listen", "-")
        async with AsyncClient(device.address, PATIENCE) as client:
            for image in images:
                await client.infer("tiny", image[None])
        above = {id(device): edge.port, id(edge): cloud.port, id(cloud): 0}
        for tier in (device, edge, cloud):
            assert any(one.listening for one in tier.seen), "nothing was seen"
            assert [one for one in tier.seen if not _configured(one, tier, above[id(tier)])] == []
    assert (above[id(device)], True) in {(one.peer_port, one.peer_is_local) for one in device.seen}


def _configured(one: Socket, tier: Watched, above: int) -> bool:
    """Serves where the settings say, or talks to the tier above, and to nobody that is not of this machine."""
    own = {tier.port, urlsplit(tier.metrics).port}
    if one.kind not in ("tcp", "tcp6"):
        return False
    if one.listening:
        return one.port in own
    return one.port in own or (one.peer_is_local and one.peer_port == above)


def test_a_socket_that_is_not_configured_would_be_seen() -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(("192.0.2.1", 9))
        port = stranger.getsockname()[1]
        assert Socket("udp", port, 9, False, False) in sockets(os.getpid())


def offline(*command: str) -> dict[str, Any]:
    """How a command ended without any network but loopback, and what it looked for beyond that."""
    apart = ("unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "tests.e2e.offline")
    ended = subprocess.run([*apart, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode and not os.environ.get("TEST_REQUIRE_CONTAINERS"):
        pytest.skip(f"no network namespaces here: {ended.stderr[-200:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(
    "call",
    [
        "socket.socket().connect_ex(('192.0.2.1', 80))",
        "socket.socket(socket.AF_INET6).connect_ex(('2001:db8::1', 80))",
        "socket.socket(type=socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 53))",
    ],
)
def test_whoever_looks_for_a_way_out_is_seen_however_short_it_takes(call: str) -> None:
    found = offline(sys.executable, "-c", f"import socket; {call}")
    assert (found["code"], found["sought"]["without a way"]) == (0, 1)


def test_a_whole_testbed_at_work_looks_for_no_way_out(tiny: Path, tmp_path: Path) -> None:
    links = ("--device-edge", "100mbit,2ms", "--edge-cloud", "100mbit,4ms")
    run = ("run", "--bundle", str(tiny), "--out", str(tmp_path), *links)
    found = offline(sys.executable, "-m", "testbed.cli", *run)
    assert (found["code"], found["said"]) == (0, "")
    assert found["sought"] == {"without a way": 0, "datagrams": 0}
    assert json.loads((tmp_path / "summary.json").read_text())["failed"] == 0
