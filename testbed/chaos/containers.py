"""The testbed as containers, under a project name and on ports of its own, from an image built of this directory."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from services.domain import Deadline
from services.errors import SettingsError
from testbed import reshape
from testbed.chaos import census
from testbed.chaos.engine import COMPOSE_FILE, Project, docker
from testbed.chaos.history import Counters, Usage
from testbed.chaos.schedule import Target
from testbed.local import TestbedError, TestbedSettings

DEVICE = "device-agent"
SERVICES = {
    Target.DEVICE_EDGE: "link-device-edge",
    Target.EDGE: "edge-node",
    Target.EDGE_CLOUD: "link-edge-cloud",
    Target.CLOUD: "cloud-node",
}
PARTS = (DEVICE, *SERVICES.values())
_PORTS = ("PUBLIC_PORT", "CONSOLE_PORT", "DEVICE_EDGE_CONTROL_PORT", "EDGE_CLOUD_CONTROL_PORT", "PROMETHEUS_PORT")
_DOOR, _CONTROL = "8001", "8474"
_BUILD_SECONDS, _UP_SECONDS, _STOP_SECONDS, _START_SECONDS = 900.0, 180.0, 60.0, 60.0
_GRACE_SECONDS = 45
_POLL_SECONDS = 0.2
_LOOK = """
import json, os, urllib.request
def status(process):
    try:
        return dict(line.split(":", 1) for line in open(f"/proc/{process}/status"))
    except OSError:
        return {"PPid": "-1"}
tier = min((int(p) for p in os.listdir("/proc") if p.isdigit() and int(status(p)["PPid"]) == 1), default=1)
try:
    page = urllib.request.urlopen("http://127.0.0.1:8002/metrics", timeout=5).read().decode()
except OSError:
    page = ""
found, descriptors = status(tier), len(os.listdir(f"/proc/{tier}/fd"))
print(json.dumps([int(found["VmRSS"].split()[0]) << 10, descriptors, int(found["Threads"]), page]))
"""
"""Run in a container: what its process holds, which is the child of the init process or that itself, and its metrics.
No part need listen for anybody beside its own networks for that."""


@dataclass(slots=True)
class Containers:
    """A running testbed. A tier that was made to end is not missed; one that goes by itself is, and stays away."""

    ids: dict[str, str]
    door: str
    controls: dict[Target, str]
    _ended: set[str] = field(default_factory=set)

    async def usage(self) -> dict[str, Usage]:
        running = await self._running()
        found = await asyncio.gather(*(self._held(name) for name in PARTS if name in running))
        return dict(zip((name for name in PARTS if name in running), found, strict=True))

    async def counters(self) -> Counters:
        *_, page = await self._look(DEVICE)
        return census.counted(census.parsed(str(page)))

    async def gone(self) -> tuple[str, ...]:
        running = await self._running()
        return tuple(name for name in PARTS if name not in running and name not in self._ended)

    async def kill(self, target: Target) -> None:
        self._ended.add(SERVICES[target])
        await docker("kill", self._id(target))

    async def drain(self, target: Target) -> None:
        self._ended.add(SERVICES[target])
        await docker("stop", "--time", str(_GRACE_SECONDS), self._id(target))

    async def start(self, target: Target) -> None:
        await docker("start", self._id(target))
        await self._ready(SERVICES[target])
        self._ended.discard(SERVICES[target])

    async def pause(self, target: Target) -> None:
        await docker("pause", self._id(target))

    async def resume(self, target: Target) -> None:
        await docker("unpause", self._id(target))

    async def carry(self, target: Target, carrying: bool) -> None:
        await reshape.change(self.controls[target], {"carrying": carrying})

    async def shape(self, target: Target, rate: str, rtt: str) -> None:
        await reshape.change(self.controls[target], {"rate": rate, "rtt": rtt})

    async def save(self, logs: Path) -> None:
        """Writes what all parts logged, each into a file of its own."""
        for name, container in self.ids.items():
            (logs / f"{name}.jsonl").write_text(await docker("logs", container))

    async def _running(self) -> set[str]:
        states = await docker("inspect", "--format", "{{.State.Running}}", *(self.ids[name] for name in PARTS))
        return {name for name, state in zip(PARTS, states.split(), strict=True) if state == "true"}

    async def _held(self, name: str) -> Usage:
        process, (rss, descriptors, threads, page) = await self._state(name, "Pid"), await self._look(name)
        return census.held(Usage(int(process), int(rss), int(descriptors), int(threads)), census.parsed(str(page)))

    async def _look(self, name: str) -> list[int | str]:
        found: list[int | str] = json.loads(await docker("exec", self.ids[name], "python", "-c", _LOOK))
        return found

    async def _ready(self, name: str) -> None:
        """Waits until a part says so, which its health check would tell seconds later."""
        since, deadline = await self._state(name, "StartedAt"), Deadline.after(_START_SECONDS)
        while '"event": "ready"' not in await docker("logs", "--since", since, self.ids[name]):
            if deadline.remaining() <= 0 or await self._state(name, "Running") != "true":
                raise TestbedError(f"{name} did not start again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _state(self, name: str, what: str) -> str:
        return (await docker("inspect", "--format", f"{{{{.State.{what}}}}}", self.ids[name])).strip()

    def _id(self, target: Target) -> str:
        return self.ids[SERVICES[target]]


@asynccontextmanager
async def running(settings: TestbedSettings) -> AsyncIterator[Containers]:
    """Builds the image, brings the project up, and removes it in the end, wherever faults have left it."""
    project = Project(f"offramp-chaos-{secrets.token_hex(4)}", _values(settings))
    settings.logs.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        await project.compose("build", seconds=_BUILD_SECONDS)
        await stack.enter_async_context(project.removed())
        await project.compose("up", "--detach", "--wait", *PARTS, seconds=_UP_SECONDS)
        world = Containers(
            await project.containers(), await _published(project, DEVICE, _DOOR), await _controls(project)
        )
        await docker("update", "--restart", "no", *world.ids.values())  # or who dies by itself would be back unseen
        yield world
        with suppress(TestbedError):  # one that will not end in time is made to
            await project.compose("stop", "--timeout", str(_GRACE_SECONDS), seconds=_STOP_SECONDS)
        await world.save(settings.logs)


async def _controls(project: Project) -> dict[Target, str]:
    links = (Target.DEVICE_EDGE, Target.EDGE_CLOUD)
    return {link: await _published(project, SERVICES[link], _CONTROL) for link in links}


async def _published(project: Project, service: str, port: str) -> str:
    """Where `port` of `service` can be reached from here, HOST:PORT: the engine chose the port, free as it was."""
    return (await project.compose("port", service, port)).strip()


def _values(settings: TestbedSettings) -> dict[str, str]:
    """What the compose file is told. Raises SettingsError where it cannot be told what `settings` say."""
    if not Path(COMPOSE_FILE).is_file():
        raise SettingsError(f"--containers needs {COMPOSE_FILE}; run it in the directory of the project")
    if settings.edges > 1:
        raise SettingsError("--containers has one edge node; leave --edges out")
    if settings.bundle.is_absolute():
        raise SettingsError(f"--bundle {settings.bundle}: the image holds what is under models/; give one of those")
    links = (("DEVICE_EDGE", settings.device_edge), ("EDGE_CLOUD", settings.edge_cloud))
    shapes = {f"{name}_{what}": getattr(link, what.lower()) for name, link in links for what in ("RATE", "RTT")}
    return {
        **dict.fromkeys(_PORTS, "0"),
        **shapes,
        "BUNDLE": settings.bundle.as_posix(),
        "DEVICE_SLOWDOWN": f"{settings.device_slowdown:g}",
        "EDGE_SLOWDOWN": f"{settings.edge_slowdown:g}",
        "DEVICE_TRANSPORT": settings.transports[0],
        "EDGE_TRANSPORT": settings.transports[1],
        "SPLITS": settings.splits or "",
    }
