"""Bundles that must not be served: each tier refuses them at start, in one line with the file and the reason."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from rich.console import Console

from services import bundle
from testbed import inspection

TIERS = ("device_agent", "edge_node", "cloud_node")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return shutil.copytree(tiny, tmp_path / "broken")


def say(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / bundle.MANIFEST).read_text())
    change(manifest)
    (path / bundle.MANIFEST).write_text(json.dumps(manifest))


def regraph(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Another graph, with the hash that fits it."""
    model = onnx.load_model_from_string((path / "model.onnx").read_bytes())
    change(model)
    rewrite(path, model.SerializeToString())


def rewrite(path: Path, graph: bytes) -> None:
    (path / "model.onnx").write_bytes(graph)
    say(path, lambda m: m.update(graph_sha256=bundle.sha256(graph)))


def cut(path: Path, name: str, share: float) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: int(share * len(data))])


def flip(path: Path) -> None:
    data = bytearray((path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "model.onnx").write_bytes(data)


def outside(model: onnx.ModelProto, location: str) -> None:
    """The first weight is said to lie in another file."""
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "144")):
        weight.external_data.add(key=key, value=value)


def link(path: Path, name: str, target: str) -> None:
    (path / name).unlink()
    (path / name).symlink_to(target)


def reshape_weight(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.raw_data = weight.raw_data[:-8]


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("there is none", shutil.rmtree, "no such bundle directory"),
    ("it is empty", lambda p: [file.unlink() for file in p.iterdir()], "manifest.json: No such file"),
    ("the manifest is no JSON", lambda p: cut(p, "manifest.json", 0.5), "manifest.json: not a JSON object"),
    ("the manifest is of tomorrow", lambda p: say(p, lambda m: m.update(format_version=2)), "format_version is 2"),
    ("the graph is not there", lambda p: (p / "model.onnx").unlink(), "model.onnx: No such file"),
    ("the graph is cut short", lambda p: cut(p, "model.onnx", 0.9), "model.onnx: SHA-256 is"),
    ("the graph was tampered with", flip, "model.onnx: SHA-256 is"),
    ("the graph is another file", lambda p: say(p, lambda m: m.update(graph="../model.onnx")), "graph: "),
    ("the graph is a link to outside", lambda p: link(p, "model.onnx", "/etc/hostname"), "links outside its bundle"),
    ("the graph is a link to itself", lambda p: link(p, "model.onnx", "model.onnx"), "model.onnx: "),
    ("the manifest is a link to outside", lambda p: link(p, "manifest.json", "/etc/hostname"), "links outside"),
    ("a weight lies outside", lambda p: regraph(p, lambda m: outside(m, "../../etc/hostname")), "model.onnx: "),
    ("a weight lies at the root", lambda p: regraph(p, lambda m: outside(m, "/etc/hostname")), "model.onnx: "),
    ("a weight lies beside", lambda p: regraph(p, lambda m: outside(m, "samples.npz")), "model.onnx: "),
    ("the graph is noise with its hash", lambda p: rewrite(p, os.urandom(4096)), "model.onnx: not a graph"),
    ("the graph is empty with its hash", lambda p: rewrite(p, b""), "model.onnx: not a graph"),
    ("the graph is half, with its hash", lambda p: rewrite(p, (p / "model.onnx").read_bytes()[:-2000]), "model.onnx"),
    ("a weight is short, with its hash", lambda p: regraph(p, reshape_weight), "model.onnx"),
    (
        "an operator is unknown, with its hash",
        lambda p: regraph(p, lambda m: setattr(m.graph.node[0], "op_type", "Evil")),
        "model.onnx",
    ),
    ("it lies about a shape", lambda p: say(p, lambda m: m["split_points"][2].update(shape=[4, 8, 7])), "split points"),
    (
        "it lies about a split point",
        lambda p: say(p, lambda m: m["split_points"][2].update(tensor="c1")),
        "split points",
    ),
    ("it lies about the input", lambda p: say(p, lambda m: m["input"].update(shape=[1, 8, 9])), "split point 0"),
    ("it lies about an exit", lambda p: say(p, lambda m: m["exits"][0].update(split_point=1)), "exits are not those"),
    ("it lies about an output", lambda p: say(p, lambda m: m["exits"][0].update(output="exit_9")), "exits are not"),
    (
        "it lies about the labels",
        lambda p: say(p, lambda m: m.update(labels=["a", "b"])),
        "2 labels are not the output",
    ),
    (
        "it lies about a codec",
        lambda p: say(p, lambda m: m.update(codec_accuracy=[{"split_point": 99, "codec": "int8"}])),
        "codec_accuracy names split point 99, there are 0..",
    ),
    (
        "two exits have one name",
        lambda p: say(p, lambda m: [e.update(name="a") for e in m["exits"]]),
        "exits must have",
    ),
    ("a label clears the screen", lambda p: say(p, lambda m: m["labels"].append("\x1b[2J")), "labels.4: "),
    ("a name turns lines around", lambda p: say(p, lambda m: m["input"].update(name="\u202einput")), "input.name: "),
    ("a key clears the screen", lambda p: say(p, lambda m: m.update({"\x1b[2J\n": 1})), "?[2J?: Extra inputs"),
]


def start(module: str, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    given = ("--bundle", str(path), "--listen", "127.0.0.1:0", "--metrics-listen", "-", "--profile-seconds", "0")
    command = [sys.executable, "-m", module, *given, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that is no log line. Asserts that there is just one."""
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return said


@pytest.mark.parametrize(("break_it", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_tier_refuses_a_bundle_when(copy: Path, break_it: Callable[[Path], object], says: str) -> None:
    break_it(copy)
    done = start("cloud_node", copy)
    assert done.returncode == 1, done.stderr
    assert refusal(done).startswith(f"cloud: {copy}")
    assert says in refusal(done)


@pytest.mark.parametrize("module", TIERS)
def test_every_tier_refuses_what_was_tampered_with(copy: Path, module: str) -> None:
    flip(copy)
    done = start(module, copy)
    assert (done.returncode, refusal(done).startswith(f"{module.partition('_')[0]}: {copy}")) == (1, True)


def test_a_graph_larger_than_the_memory_is_refused_before_it_is_read(copy: Path) -> None:
    with (copy / "model.onnx").open("r+b") as file:
        file.truncate(1 << 30)
    done = start("edge_node", copy, "--memory-bytes", str(512 << 20))
    assert done.returncode == 1
    assert "model.onnx: this graph takes 4,294,967,296 bytes of memory and more, there are 536,870,912" in refusal(done)


def test_what_a_bundle_says_of_itself_cannot_paint_the_terminal(copy: Path) -> None:
    say(copy, lambda m: m.update(labels=["[red]red[/]", "b", "c", "d"]))
    shown = io.StringIO()
    Console(file=shown, width=200, force_terminal=True).print(inspection.shown(copy))
    assert "[red]red[/]" in shown.getvalue()
