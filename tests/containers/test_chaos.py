"""A short chaos run over containers, as a user starts it; and one that is killed, which leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.chaos.schedule import Action, schedule
from tests.conftest import ROOT
from tests.containers.conftest import BUILD_SECONDS, Stack
from tests.containers.load import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD_SECONDS + 300)]

MINUTES = 0.5
KILLS_AND_CUTS = next(
    seed
    for seed in range(1000)
    if [fault.action for fault in schedule(seed, 60 * MINUTES)] == [Action.KILL, Action.CUT]
)
CHAOS = (sys.executable, "-m", "testbed.cli", "chaos", "--containers", "--bundle", "models/digits", "--in-flight", "6")


def started(stack: Stack, out: Path) -> subprocess.Popen[str]:
    """On the image that the other tests here have made, in a session of its own."""
    asked = ("--minutes", MINUTES, "--seed", KILLS_AND_CUTS, "--out", out, "--json", out / "report.json")
    command, environment = [*CHAOS, *map(str, asked)], os.environ | {"IMAGE": stack.image}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def left(stack: Stack) -> list[str]:
    """What there is of chaos runs: containers, running or not, and networks."""
    listed = (("ps", "--all", "--format", "{{.Names}}"), ("network", "ls", "--format", "{{.Name}}"))
    return [name for each in listed for name in stack.docker(*each).split() if name.startswith("offramp-chaos-")]


def test_a_killed_tier_and_a_cut_link_cost_no_request(stack: Stack, tmp_path: Path) -> None:
    with started(stack, tmp_path) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert found["requests"] > 100
    assert (found["failed"], found["late"], found["wrong"]) == (0, 0, 0)
    assert [event["action"] for event in found["events"]] == ["kill", "cut"]
    assert found["degraded"], "a fault that nobody noticed shows nothing"
    assert len(found["invariants"]["back_to_baseline"]["evidence"]) == 5
    assert '"event": "ready"' in (tmp_path / "logs" / "device-agent.jsonl").read_text()
    assert not left(stack)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_early_leaves_no_container_and_no_network(
    stack: Stack, tmp_path: Path, how: signal.Signals
) -> None:
    with started(stack, tmp_path) as process:
        until(lambda: bool(left(stack)))
        process.send_signal(how)
        assert process.wait(60) != 0
    until(lambda: not left(stack))
