"""The testbed on one machine: three tiers and two links, each a process of its own.

client ─► device agent ─► link 20 Mbit/s, 10 ms ─► edge node ─► link 50 Mbit/s, 40 ms ─► cloud node
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.connection import Connection, Transport
from services.domain import Deadline, Tier
from services.errors import OfframpError, SettingsError
from testbed.pacer import LinkShape
from testbed.traces import ConstantRate, parse_duration, parse_rate

_START_SECONDS = 30.0
_STOP_SECONDS = 35.0
_POLL_SECONDS = 0.02
_HEALTH_SECONDS = 0.5
_WRONG_SETTINGS = 2  # the exit code of a tier
_COMPLAINTS = tuple(f"{tier.label}: " for tier in Tier)
_LOG_TAIL = 5


class TestbedError(OfframpError):
    """A part of the testbed that did not start, or went away."""

    __test__ = False  # not a test, whatever its name suggests to a collector


@dataclass(frozen=True, slots=True)
class LinkAsked:
    """An emulated link as asked for, in the spelling of the command line: '20mbit', '10ms' round trip."""

    rate: str
    rtt: str

    @classmethod
    def parse(cls, text: str) -> LinkAsked:
        """'20mbit,10ms' as a link. Raises SettingsError where it is not RATE,RTT."""
        rate, comma, rtt = text.partition(",")
        if not comma:
            raise SettingsError(f"{text!r} is not RATE,RTT: write both, like {_example(text)}")
        try:
            LinkShape(ConstantRate(parse_rate(rate)), parse_duration(rtt) / 2)
        except ValueError as error:
            raise SettingsError(f"{text!r} is not RATE,RTT such as 20mbit,10ms: {error}") from None
        return cls(rate, rtt)

    @property
    def arguments(self) -> list[str]:
        return ["--rate", self.rate, "--rtt", self.rtt]


def _example(rate: str) -> str:
    """RATE,RTT with this rate, if it is one."""
    try:
        parse_rate(rate)
    except ValueError:
        return "20mbit,10ms"
    return f"{rate},10ms"


@dataclass(frozen=True, slots=True)
class TestbedSettings:
    """What runs: the bundle, the two links, how much slower than this machine the lower tiers are, and the door.

    edges: how many edge nodes there are, each behind a link of its own, all asked by the device in turns.
    console: where the device's page is served, HOST:PORT; -: nowhere. then: what the link between device and edge
    becomes half way through a run; None: it stays as it is. transports: how requests travel from the device, and from
    the edge.
    """

    __test__ = False

    bundle: Path
    device_edge: LinkAsked = LinkAsked("20mbit", "10ms")
    edge_cloud: LinkAsked = LinkAsked("50mbit", "40ms")
    listen: str = "127.0.0.1:0"
    splits: str | None = None
    seed: int = 0
    logs: Path = Path("out/run/logs")
    device_slowdown: float = 1.0
    edge_slowdown: float = 1.0
    then: LinkAsked | None = None
    console: str = "-"
    edges: int = 1
    transports: tuple[Transport, Transport] = ("exchange", "exchange")


@dataclass(frozen=True, slots=True)
class Part:
    """One running process: its name, the addresses it announced, where it writes, and how it was started."""

    name: str
    process: asyncio.subprocess.Process
    announced: dict[str, str]
    log: Path
    arguments: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return self.announced["address"]


@dataclass(frozen=True, slots=True)
class Testbed:
    """The running parts. replicas: of further edge nodes, the link and the node in turns."""

    __test__ = False

    device: Part
    device_edge: Part
    edge: Part
    edge_cloud: Part
    cloud: Part
    replicas: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Nearest to the client first, then the replicas."""
        return (self.device, self.device_edge, self.edge, self.edge_cloud, self.cloud, *self.replicas)

    def kill(self) -> None:
        """Ends every part at once, without draining."""
        for each in self.parts:
            if each.process.returncode is None:
                each.process.kill()

    def gone(self) -> list[Part]:
        """The parts that went away."""
        return [each for each in self.parts if each.process.returncode is not None]

    def check(self) -> None:
        """Raises TestbedError naming a part that went away."""
        for each in self.gone():
            raise TestbedError(f"{each.name} ended with code {each.process.returncode}{_tail(each.log)}")


@asynccontextmanager
async def running(settings: TestbedSettings) -> AsyncIterator[Testbed]:
    """Starts the parts from the cloud down, and drains them from the device up."""
    _check_free(settings.listen, "--port")
    if settings.console != "-":
        _check_free(settings.console, "--console-port", ", 0 for none")
    settings.logs.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:

        async def start(name: str, *arguments: str) -> Part:
            return await stack.enter_async_context(part(name, arguments, settings.logs / f"{name}.jsonl"))

        async def link(name: str, asked: LinkAsked, target: str) -> Part:
            control = ("--control", "127.0.0.1:0", "--seed", str(settings.seed))
            listen = ("--listen", "127.0.0.1:0", "--target", target)
            return await start(name, "testbed.links", *listen, *control, *asked.arguments)

        served = ("--bundle", str(settings.bundle))
        anywhere = ("--metrics-listen", "127.0.0.1:0")
        free = ("--listen", "127.0.0.1:0", *anywhere)
        cloud = await start("cloud-node", "cloud_node", *served, *free)
        far = await link("link-edge-cloud", settings.edge_cloud, cloud.address)
        slower = ("--compute-slowdown", str(settings.edge_slowdown), "--transport", settings.transports[1])

        async def behind_link(mark: str) -> tuple[Part, Part]:
            edge = await start(f"edge-node{mark}", "edge_node", *served, *free, "--next", far.address, *slower)
            return await link(f"link-device-edge{mark}", settings.device_edge, edge.address), edge

        near, edge = await behind_link("")
        replicas = [part for n in range(2, settings.edges + 1) for part in await behind_link(f"-{n}")]
        next_tier = ",".join((near.address, *(each.address for each in replicas[::2])))
        plan = ("--splits", settings.splits) if settings.splits else ()
        slowest = ("--compute-slowdown", str(settings.device_slowdown), "--transport", settings.transports[0])
        controls = ",".join((near.announced["control"], far.announced["control"]))
        watched = ("--console-listen", settings.console, "--link-control", controls)
        door = ("--listen", settings.listen, *anywhere, *watched, "--next", next_tier, *slowest, *plan)
        device = await start("device-agent", "device_agent", *served, *door)
        yield Testbed(device, near, edge, far, cloud, tuple(replicas))


def _check_free(address: str, option: str, further: str = "") -> None:
    """Raises SettingsError where a port is taken, before anything of a running testbed is touched."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise SettingsError(
                f"port {port} cannot be used ({error.strerror}); choose one with {option}{further} "
                f'(of make, in ARGS="… {option} {int(port) + 10}")'
            ) from None


@asynccontextmanager
async def part(name: str, arguments: Sequence[str], log: Path, address: str = "") -> AsyncIterator[Part]:
    """Runs `python -m *arguments` until the body ends, from when it announced itself.

    address: of a tier that is told to write so little that it announces nothing, where it will listen: there, its
    health is asked for instead. It writes straight to `log`: were its lines piped through this process, they would
    slow what this one measures.
    """
    process = await _launched(arguments, log)
    try:
        found = await (_serving(name, process, log, address) if address else _announced(name, process, log))
        yield Part(name, process, found, log, tuple(arguments))
    finally:
        await stop(process)


async def again(ended: Part, log: Path) -> Part:
    """Starts a tier that ended once more, at the addresses it had; its caller stops it.

    Raises TestbedError where it does not come up.
    """
    address, metrics = ended.announced["address"], ended.announced["metrics"]
    doors = ("--listen", address, "--metrics-listen", urlsplit(metrics).netloc)
    arguments = (*without(ended.arguments, ("--listen", "--metrics-listen")), *doors)
    process = await _launched(arguments, log)
    try:
        return Part(ended.name, process, await _announced(ended.name, process, log), log, arguments)
    except BaseException:
        with suppress(ProcessLookupError):  # it may have ended by itself
            process.kill()
        raise


def without(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """`arguments` less these options, each with its value."""
    dropped = {at + step for at, each in enumerate(arguments) if each in options for step in (0, 1)}
    return [each for at, each in enumerate(arguments) if at not in dropped]


async def _launched(arguments: Sequence[str], log: Path) -> asyncio.subprocess.Process:
    with log.open("wb") as file:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "testbed.child",
            str(os.getpid()),
            *arguments,
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches only us, so that the parts drain in order
        )


async def _announced(name: str, process: asyncio.subprocess.Process, log: Path) -> dict[str, str]:
    """What the process said when it was ready. Raises TestbedError where it ends or takes too long."""
    deadline = Deadline.after(_START_SECONDS)
    while deadline.remaining() > 0 and process.returncode is None:
        for line in log.read_bytes().splitlines():
            if said := _announcement(line):
                return said
        await asyncio.sleep(_POLL_SECONDS)
    raise _not_started(name, process, log)


async def _serving(name: str, process: asyncio.subprocess.Process, log: Path, address: str) -> dict[str, str]:
    """The address, once the tier there says that it serves. Raises as `_announced`."""
    deadline, connection = Deadline.after(_START_SECONDS), Connection(Tier.DEVICE, address)
    try:
        while deadline.remaining() > 0 and process.returncode is None:
            if await connection.serves(_HEALTH_SECONDS):
                return {"address": address}
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await connection.close()
    raise _not_started(name, process, log)


def _not_started(name: str, process: asyncio.subprocess.Process, log: Path) -> OfframpError:
    if (lines := _lines(log)) and lines[-1].startswith(_COMPLAINTS):  # it says itself what is wrong with it
        return (SettingsError if process.returncode == _WRONG_SETTINGS else TestbedError)(lines[-1])
    return TestbedError(f"{name} did not start{_tail(log)}")


def _announcement(line: bytes) -> dict[str, str] | None:
    """The addresses in a whole line that announces them."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.get("event") in ("ready", "listening") else None


async def stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, then time to drain; SIGKILL only for one that does not."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if log.exists() else []


def _tail(log: Path) -> str:
    lines = _lines(log)
    return f"; the end of {log}:\n" + "\n".join(lines) if lines else f"; see {log}"
