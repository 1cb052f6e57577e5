"""What a chaos run notices of the processes that it ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.chaos.processes import Processes
from testbed.chaos.schedule import Target

UNTIL_SIGTERM = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); print('up', flush=True);"
    "signal.pause()"
)


@pytest.mark.parametrize(("code", "noticed"), [(0, ()), (3, ("edge-node, which was drained, ended with 3",))])
async def test_a_tier_that_ends_badly_when_drained_is_noticed(
    code: int, noticed: tuple[str, ...], tmp_path: Path
) -> None:
    command = (sys.executable, "-c", UNTIL_SIGTERM.format(code=code))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    alive: Any = SimpleNamespace(name="alive", process=SimpleNamespace(returncode=None))
    edge: Any = SimpleNamespace(name="edge-node", process=process)
    parts: Any = SimpleNamespace(device=alive, replicas=(), edge=edge, cloud=alive, device_edge=alive, edge_cloud=alive)
    world = Processes(parts, tmp_path)
    await world.drain(Target.EDGE)
    assert await world.gone() == noticed
