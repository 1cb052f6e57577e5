"""Names of nodes and outputs are printed as they are, even where they look like markup."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from services.measuring import Findings
from testbed.adopt import adopt
from testbed.bench.results import Comparison, Target
from testbed.bench.world import Loop
from testbed.commands import bench
from testbed.commands.partition import partition
from testbed.commands.profile import shown

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] main, float[N,4] aux) {
    r = Relu(x)  aux = Abs(r)  n = Neg(r)  main = Exp(n) }"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A graph that leaves a note about its output, which is called like the end of a style, as a node is."""
    model = onnx.parser.parse_model(TEXT)
    model.graph.node[2].name = "[/neg]"
    model.graph.output[0].name = model.graph.node[3].output[0] = "[/det]"
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_partition_prints_names_as_they_are(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partition(file, out=file.parent / "b")
    printed = capsys.readouterr().out
    assert "note: output '[/det]' is the final exit" in printed
    assert "[/neg]" in printed


def test_a_profile_prints_names_as_they_are(file: Path) -> None:
    manifest = adopt(file, file.parent / "b").manifest
    console = Console(file=(printed := io.StringIO()), width=120)
    console.print(shown(manifest, Findings([], ()), (1,)))
    assert "neg]" in printed.getvalue()


def test_the_bench_prints_names_of_traces_as_they_are() -> None:
    compared = Comparison("b", Loop.CLOSED, real=False, deadline_ms=100.0, traces={"lte[up]": {}})
    target = Target("within 5 %", "lte[up]", "1.2 on [/lte]", met=False)
    console = Console(file=(printed := io.StringIO()), width=160)
    console.print(bench._shown(compared))
    console.print(bench._verdicts([target]))
    assert printed.getvalue().count("lte[up]") == 2
    assert "1.2 on [/lte]" in printed.getvalue()
