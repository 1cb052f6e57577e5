"""Wrong calls of every command and of every tier: one clear line, its exit code, and never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import child

ROOT = Path(__file__).parents[2]
OFFRAMP = "testbed"
TIERS = ("device_agent", "edge_node", "cloud_node")
_FRAME = "╭─╮│╰╯ "


def call(module: str, *arguments: str, out: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OFFRAMP_", "GRPC_"))}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, on one line. A usage error has a frame around it, and a hint above."""
    lines = [line.strip(_FRAME) for line in done.stderr.splitlines()]
    said = [line for line in lines if line and not line.startswith(("Usage: ", "Try ", "Error ", "{"))]
    return " ".join(said) if done.stderr.startswith("Usage: ") else "\n".join(said)


DIGITS = "models/digits"
WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("nonsense",), 2, "No such command"),
    (("run", "--nonsense"), 2, "No such option"),
    (("run", "--splits", "99,99"), 2, "splits 99,99 must be rising and within"),
    (("run", "--then", ""), 2, "is not RATE,RTT"),
    (("run", "--then", "fast"), 2, "is not RATE,RTT"),
    (("run", "--device-edge", "0mbit,1ms"), 2, "is not a rate"),
    (("run", "--edge-cloud", "1mbit,-1ms"), 2, "is not a duration"),
    (("run", "--device-slowdown", "nan"), 2, "--device-slowdown"),
    (("run", "--port", "99999"), 2, "--port"),
    (("run", "--out", "/proc/nowhere"), 2, "/proc/nowhere: No such file"),
    (("run", "--bundle", ""), 1, "manifest.json: No such file; give the directory of a bundle"),
    (("up", "--bundle", "tests"), 1, "tests: manifest.json: No such file; give the directory of a bundle"),
    (("up", "--port", "0"), 2, "--port"),
    (("infer", ""), 2, "a directory, give files"),
    (("infer", "README.md", "--target", ""), 2, "give the address of a tier, HOST:PORT"),
    (("infer", "README.md", "--target", "127.0.0.1:1"), 1, "answers at 127.0.0.1:1: nothing listens there"),
    (("infer", "README.md", "--target", "nowhere.invalid:8001"), 1, "the name 'nowhere.invalid' cannot be resolved"),
    (("infer", "README.md", "--target", "foo"), 1, "it is not HOST:PORT"),
    (("infer", "README.md", "--timeout", "nan"), 2, "--timeout"),
    (("health", "--addr", ""), 2, "give the address of a tier, HOST:PORT"),
    (("health", "--timeout", "nan"), 2, "--timeout"),
    (("inspect", ""), 1, "manifest.json: No such file; give the directory of a bundle"),
    (("inspect", "README.md"), 1, "README.md: no such bundle directory"),
    (("eval", ""), 1, "manifest.json: No such file"),
    (("eval", DIGITS, "--codec", "gzip"), 2, "gzip"),
    (("calibrate", DIGITS, "--epsilon", "2"), 2, "--epsilon"),
    (("explain", ""), 1, "manifest.json: No such file"),
    (("explain", DIGITS, "--links", "5mbit"), 2, "is not RATE,RTT: write both, like 5mbit,10ms"),
    (("explain", DIGITS, "--links", "5mbit,1ms", "--seconds", "0.1"), 2, "give --links twice"),
    (("explain", DIGITS, "--batch", "0"), 2, "--batch"),
    (("profile", DIGITS, "--batch", "many"), 2, "--batch many: give up to 8 numbers"),
    (("profile", DIGITS, "--seconds", "0.5", "--cache", "README.md"), 1, "give another --cache"),
    (("partition",), 2, "give MODEL.onnx"),
    (("partition", "README.md"), 2, "README.md: not an ONNX file"),
    (("partition", "tests"), 2, "tests"),
    (("partition", "--network", "nonsense"), 2, "no network is called 'nonsense'"),
    (("partition", "--network", "efficientnet-b0", "--out", "/proc/nowhere"), 2, "--out /proc/nowhere: No such file"),
    (("partition", "--network", "efficientnet-b0", "--exits", "a"), 2, "--exits takes numbers of blocks"),
    (("train", "--out", "/dev/null/x"), 2, "--out /dev/null/x: Not a directory"),
    (("train", "--out", "README.md"), 2, "--out README.md: File exists"),
    (("train", "--dataset", "imagenet"), 2, "--dataset"),
    (("paper", "dsc", "--json", "/proc/nowhere/x"), 2, "--json /proc/nowhere: No such file"),
    (("paper", "dsc", "--json", "tests"), 2, "--json tests: Is a directory"),
    (("paper", "dsc", "--out", "/proc/nowhere"), 2, "--out /proc/nowhere: No such file"),
    (("bench", "policies"), 2, "--trace"),
    (("bench", "policies", "--trace", "nowhere"), 2, "--trace needs link traces"),
    (("bench", "policies", "--trace", "Makefile", "--out", "/proc/nowhere"), 2, "--out /proc/nowhere: No such file"),
    (("bench", "policies", "--trace", "Makefile", "--policies", "nobody"), 2, "there is no policy 'nobody'"),
    (("calibrate", DIGITS, "--data", "Makefile.npz"), 2, "Makefile.npz: not an .npz with `images` and `labels`"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_a_wrong_call_is_one_clear_line(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = call(OFFRAMP, *arguments)
    said = complaint(done)
    assert done.returncode == code, done.stderr
    assert says in said
    assert "\n" not in said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("run",), ("run", "--serve"), ("up",)], ids=" ".join)
@pytest.mark.parametrize("splits", ["99,99", "9"])
def test_splits_that_do_not_fit_are_refused_before_anything_starts(
    command: tuple[str, ...], splits: str, tmp_path: Path
) -> None:
    done = call(OFFRAMP, *command, "--splits", splits, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("offramp: splits")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("module", TIERS)
def test_a_port_in_use_is_one_clear_line(module: str, taken: str) -> None:
    done = call(module, "--listen", taken, "--profile-seconds", "0", "--metrics-listen", "-")
    assert (done.returncode, complaint(done)) == (
        2,
        f"{module.partition('_')[0]}: cannot listen on {taken}: in use, or not an address of this machine",
    )


TIERS_WRONG: list[tuple[tuple[str, ...], str]] = [
    (("--threds", "1"), "--threds"),
    (("--listen", "nowhere.invalid:1", "--metrics-listen", "-"), "cannot listen on nowhere.invalid:1"),
    (("--max-message-bytes", "1"), "max_message_bytes"),
    (("--memory-bytes", "1"), "memory_bytes"),
    (("--deadline-seconds", "nan"), "deadline_seconds"),
    (("--holds", "0:999"), "holds"),
]


@pytest.mark.parametrize("module", TIERS)
@pytest.mark.parametrize(("arguments", "says"), TIERS_WRONG, ids=[" ".join(row[0]) for row in TIERS_WRONG])
def test_a_wrong_setting_of_a_tier_is_one_clear_line(module: str, arguments: tuple[str, ...], says: str) -> None:
    done = call(module, "--profile-seconds", "0", *arguments)
    said = complaint(done)
    assert done.returncode == 2, done.stderr
    assert said.startswith(module.partition("_")[0] + ": ")
    assert says in said
    assert "\n" not in said


@pytest.fixture(scope="module")
def door(tiny: Path) -> Iterator[str]:
    """The address of a device agent that serves the tiny network."""
    with child("device_agent", tiny) as tier:
        yield tier.address


def npy(kind: str, count: int) -> bytes:
    """The header of an array, and the bytes of a few numbers."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count},), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(36)


FILES: list[tuple[str, bytes, str]] = [
    ("notes.txt", b"hello", "give .png, .jpg or .npy"),
    ("text.png", b"hello", "not an image that can be read"),
    ("empty.png", b"", "not an image that can be read"),
    ("gif.png", b"GIF89a" + bytes(50), "not an image that can be read"),
    ("text.npy", b"hello", "not a .npy array of numbers"),
    ("objects.npy", npy("|O", 1), "not a .npy"),
    ("huge.npy", npy("<f4", 9_999_999_999), "not a .npy"),
    ("words.npy", npy("<U9", 1), "not a .npy array of real numbers"),
    ("short.npy", npy("<f4", 1), "does not fit 'input'"),
]


@pytest.mark.parametrize(("name", "content", "says"), FILES, ids=[row[0] for row in FILES])
def test_a_file_that_is_no_input_is_one_clear_line(
    door: str, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = call(OFFRAMP, "infer", str(tmp_path / name), "--target", door)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("arguments", [("version",), ("inspect", DIGITS), ("inspect", DIGITS, "--json"), ("--help",)])
def test_a_full_disk_is_one_clear_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = call(OFFRAMP, *arguments, out=full.fileno())
    assert (done.returncode, done.stderr) == (1, "offramp: system: No space left on device\n")


@pytest.mark.parametrize("arguments", [("inspect", DIGITS), ("explain", DIGITS), ("run",)])
def test_ctrl_c_while_a_command_starts_is_one_clear_line(arguments: tuple[str, ...]) -> None:
    """As soon as Python has begun with the command, whose imports then take most of a second."""
    shown = [sys.executable, "-v", "-m", OFFRAMP, *arguments]  # -v: names each module as it is imported
    with subprocess.Popen(shown, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "import 'typer'" in line or "import 'services.errors'" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = [line for line in process.stderr if line.startswith(("offramp:", "Traceback", "KeyboardInterrupt"))]
        process.wait(60)
    assert (process.returncode, rest) == (130, ["offramp: interrupted\n"])
