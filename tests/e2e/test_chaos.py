"""A short chaos run, as a user starts it: every fault is survived, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from testbed.chaos.schedule import schedule

CHAOS = (sys.executable, "-m", "testbed.cli", "chaos")
QUICK = ("--device-slowdown", "20", "--device-edge", "50mbit,4ms", "--edge-cloud", "50mbit,8ms", "--in-flight", "4")


def command(bundle: Path, out: Path, minutes: float, seed: int) -> list[str]:
    asked = ("--minutes", minutes, "--seed", seed, "--bundle", bundle, "--out", out, "--json", out / "report.json")
    return [*CHAOS, *QUICK, *map(str, asked)]


@pytest.mark.timeout(180)
def test_a_short_run_survives_a_killed_edge_and_says_so(tiny: Path, tmp_path: Path) -> None:
    minutes, seed = 0.3, KILLS_THE_EDGE
    done = subprocess.run(
        command(tiny, tmp_path, minutes, seed), capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert found["requests"] > 100
    assert (found["failed"], found["late"], found["wrong"]) == (0, 0, 0)
    assert len(found["invariants"]) == 7
    assert [(e["action"], e["target"]) for e in found["events"]] == [
        (fault.action, fault.target) for fault in schedule(seed, 60 * minutes)
    ]
    assert found["degraded"], "a fault that nobody noticed shows nothing"
    with Image.open(tmp_path / "timeline.png") as picture:
        assert picture.width > 500


KILLS_THE_EDGE = next(
    seed for seed in range(1000) if [(f.action, f.target) for f in schedule(seed, 18.0)] == [("kill", "edge")]
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parts end with their parent on Linux only")
@pytest.mark.timeout(120)
def test_a_run_that_is_killed_leaves_nothing_behind_not_even_a_paused_tier(tiny: Path, tmp_path: Path) -> None:
    seed = next(s for s in range(1000) if [f.action for f in schedule(s, 60.0)][:1] == ["pause"])
    process = subprocess.Popen(command(tiny, tmp_path, 1.0, seed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        paused = _until(lambda: [pid for pid in _processes(tmp_path) if _state(pid) == "T"])
        started = _processes(tmp_path)
        assert paused
        assert len(started) >= 3
        process.kill()
        process.wait(30)
        assert _until(lambda: all(_state(pid) in ("", "Z") for pid in started)), "something was left behind"
    finally:
        process.kill()
        process.wait(30)


def _until(found: Any) -> Any:
    """The first thing that counts as found, within a time that a busy machine needs."""
    deadline = time.monotonic() + 45
    while not (value := found()) and time.monotonic() < deadline:
        Event().wait(0.05)  # nobody tells when a process of somebody else's ends
    return value


def _processes(out: Path) -> list[int]:
    """The tiers that announced themselves."""
    lines = (line for log in (out / "logs").glob("*.jsonl") for line in log.read_text().splitlines())
    said = (json.loads(line) for line in lines if line.startswith("{") and '"ready"' in line)
    return [line["process"] for line in said]


def _state(process: int) -> str:
    """One letter, as the kernel has it; empty for a process that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_run_too_short_for_a_fault_is_refused(tiny: Path, tmp_path: Path) -> None:
    seed = next(s for s in range(1000) if not schedule(s, 12.0))
    done = subprocess.run(command(tiny, tmp_path, 0.2, seed), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no time for a fault" in done.stderr
    assert "Traceback" not in done.stderr
