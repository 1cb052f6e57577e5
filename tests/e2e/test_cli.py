"""The command line as a user runs it: real processes, real links."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

OFFRAMP = (sys.executable, "-m", "testbed.cli")
FAST = ("--device-edge", "100mbit,2ms", "--edge-cloud", "100mbit,4ms", "--device-slowdown", "1", "--edge-slowdown", "1")
FIXED = (*FAST, "--splits", "2,4")


def offramp(*arguments: str | Path, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    command = [*OFFRAMP, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@contextmanager
def up(bundle: Path, out: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`offramp run --serve` on a free port; the process, and the address of the public door."""
    environment = os.environ | {"COLUMNS": "200"}
    port = free_port()
    command = [
        *OFFRAMP,
        "run",
        "--serve",
        "--port",
        str(port),
        "--console-port",
        "0",
        "--bundle",
        bundle,
        "--out",
        out,
        *FIXED,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        else:
            pytest.fail(f"the testbed did not come up:\n{said}")
        yield process, f"127.0.0.1:{port}"
    finally:
        guard.cancel()
        process.terminate()
        process.wait(30)
        process.stdout.close()


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def runs(process: int) -> bool:
    """Whether it is there, and not only waiting to be collected."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def announced(log: Path) -> dict[str, Any]:
    """What a tier said when it was ready."""
    return next(line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "ready")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_run_answers_everything_and_writes_its_results(tiny: Path, tmp_path: Path) -> None:
    done = offramp("run", "--bundle", tiny, "--out", tmp_path, *FIXED, "--then", "-")
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["requests"], summary["failed"]) == (40, 0)
    assert sum(summary["answered_at"].values()) == 40
    assert all(count > 0 for count in summary["answered_at"].values())
    assert min(summary["bytes_sent"].values()) > 0
    assert summary["raw_input_bytes"] == 40 * 64
    assert summary["explained"] >= 0.95
    assert summary["plan"] == "device 0:2 > edge 2:4 int8+zstd > cloud 4:8 int8+zstd"
    assert summary["links"]["edge_cloud"] == {"rate": "100mbit", "rtt": "4ms"}
    for tier in ("device", "edge", "cloud"):
        assert summary["latency_ms"][tier]["p50"] > 0
    for name in ("exits.png", "journey.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 500


def test_the_same_seed_gives_the_same_answers(tiny: Path, tmp_path: Path) -> None:
    found = []
    steady = (*FIXED, "--then", "-")  # over a slow link, a busy machine may have the device finish by itself
    for name in ("a", "b"):
        assert offramp("run", "--bundle", tiny, "--out", tmp_path / name, "--seed", "3", *steady).returncode == 0
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        found.append({key: summary[key] for key in ("accuracy", "answered_at", "bytes_sent", "plan", "seed")})
    assert found[0] == found[1]


def test_a_served_testbed_answers_and_drains_on_ctrl_c(tiny: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(picture)
    array = tmp_path / "array.npy"
    np.save(array, np.zeros((2, 1, 8, 8), np.float32))
    with up(tiny, tmp_path / "out") as (process, address):
        asked = offramp("infer", picture, array, "--target", address, "--json")
        shown = offramp("infer", picture, "--target", address)
        healthy = offramp("health", "--addr", address, "--service", "readiness")
        unknown = offramp("health", "--addr", address, "--service", "nonsense")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    answers = json.loads(asked.stdout)
    assert len(answers) == 3
    assert {"label", "confidence", "tier", "exit_index", "trace", "degraded"} <= set(answers[0])
    assert answers[1]["scores"] == answers[2]["scores"]
    assert "network" in shown.stdout
    assert "confidence" in shown.stdout
    assert (healthy.returncode, healthy.stdout.strip()) == (0, "SERVING")
    assert unknown.returncode == 1
    logs = tmp_path / "out" / "logs"
    for name in ("device-agent", "edge-node", "cloud-node"):
        assert json.loads((logs / f"{name}.jsonl").read_text().splitlines()[-1])["event"] == "stopped"


def test_a_served_testbed_goes_on_when_a_part_is_gone(tiny: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.npy"
    with np.load(tiny / "samples.npz") as archive:
        np.save(samples, archive["images"])
    with up(tiny, tmp_path / "out") as (process, address):
        assert process.stdout is not None
        ready = announced(tmp_path / "out" / "logs" / "cloud-node.jsonl")
        os.kill(ready["process"], signal.SIGKILL)
        assert "cloud-node ended" in process.stdout.readline()
        answers = json.loads(offramp("infer", samples, "--target", address, "--json").stdout)
    assert len(answers) == 40
    assert {a["degraded_reason"] for a in answers} == {"", "upstream_unavailable"}


def test_inspect_shows_what_the_manifest_holds(tiny: Path) -> None:
    found = json.loads(offramp("inspect", tiny, "--json").stdout)
    assert len(found["split_points"]) == 9
    assert [spec["split_point"] for spec in found["exits"]] == [2, 4, 8]
    assert found["files"]["model.onnx"] == (tiny / "model.onnx").stat().st_size
    assert "Split points" in offramp("inspect", tiny).stdout


def test_eval_reports_accuracy_shares_and_bytes(tiny: Path) -> None:
    found = json.loads(offramp("eval", tiny, "--json").stdout)
    assert sum(found["answered_at"].values()) == found["samples"] == 40
    assert set(found["bytes_per_hop"]) == {"exit0_exit1", "exit1_exit2"}
    assert 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_version_is_that_of_the_package(asked: str) -> None:
    assert offramp(asked).stdout.strip() == metadata.version("offramp")


def test_a_second_testbed_on_the_same_port_leaves_the_first_alone(tiny: Path, tmp_path: Path) -> None:
    with up(tiny, tmp_path / "out") as (_, address):
        logs = {file.name: file.read_bytes() for file in (tmp_path / "out" / "logs").iterdir()}
        again = offramp("up", "--port", address.split(":")[1], "--bundle", tiny, "--out", tmp_path / "out")
        assert (again.returncode, again.stderr.count("\n")) == (2, 1)
        assert "choose one with --port" in again.stderr
        assert {file.name: file.read_bytes() for file in (tmp_path / "out" / "logs").iterdir()} == logs


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parts end with their parent on Linux only")
def test_a_testbed_that_is_killed_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    with up(tiny, tmp_path / "out") as (process, _):
        parts = children(process.pid)
        assert len(parts) == 5
        process.kill()
        process.wait(30)
        deadline = time.monotonic() + 30
        while (left := [pid for pid in parts if runs(pid)]) and time.monotonic() < deadline:
            threading.Event().wait(0.02)  # nobody tells when somebody else's process ends
        assert left == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("infer", "missing.png"), 2, "missing.png: no such file"),
        (("infer", "tests"), 2, "tests: a directory"),
        (("run", "--bundle", "models/digits", "--out", "/dev/null/out"), 2, "Not a directory"),
        (("run", "--bundle", "models/digits", "--splits", "9,1"), 2, "must be rising"),
        (("infer", "pyproject.toml", "--target", "127.0.0.1:1"), 1, "no device agent answers"),
        (("inspect", "missing"), 1, "no such bundle directory"),
        (("eval", "missing"), 1, "no such bundle directory"),
        (("run", "--bundle", "missing"), 1, "no such bundle directory"),
        (("run", "--device-edge", "fast"), 2, "is not RATE,RTT"),
        (("health", "--addr", "127.0.0.1:1"), 1, ""),
        (("profile", "models/digits", "--seconds", "0.5", "--cache", "pyproject.toml"), 1, "give another --cache"),
        (("partition", "--network", "mobilenetv2", "--seed", str(1 << 70)), 2, "'--seed'"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_a_wrong_call_gives_one_clear_line(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = offramp(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "up",
        "chaos",
        "infer",
        "train",
        "calibrate",
        "eval",
        "inspect",
        "partition",
        "profile",
        "explain",
        "health",
        "version",
    ],
)
def test_every_command_shows_an_example(command: str) -> None:
    done = offramp(command, "--help")
    assert done.returncode == 0
    assert f"Example: offramp {command}" in done.stdout
