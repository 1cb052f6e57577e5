"""`offramp partition --network` and `offramp paper dsc` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services import bundle
from services.errors import InvalidInput
from testbed import cli
from testbed.commands import paper
from testbed.dsc import efficientnets
from tests.networks import three_exit_graph

RUNNER = CliRunner()


def test_a_published_network_is_partitioned_with_its_exits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asked = ["partition", "--network", "resnet20", "--exits", "2,5", "--out", str(tmp_path / "b"), "--json"]
    result = RUNNER.invoke(cli.app, asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [spec["name"] for spec in found["exits"]] == ["early", "middle", "final"]
    assert "synthetic" in found["measured_on"]
    assert bundle.load(tmp_path / "b").manifest.name == "resnet20"


@pytest.mark.parametrize("asked", [["--slowdown", "4"], ["--seconds", "60"], ["--out", "x"]])
def test_what_is_asked_of_maps_is_refused_where_none_are_drawn(asked: list[str]) -> None:
    with pytest.raises(InvalidInput, match="--no-maps measures nothing here"):
        RUNNER.invoke(cli.app, ["paper", "dsc", "--no-maps", *asked], catch_exceptions=False)


@pytest.mark.parametrize(
    "asked",
    [
        [],
        ["--network", "resnet20", "m.onnx"],
        ["m.onnx", "--exits", "2"],
        ["--network", "resnet20", "--mean", "0"],
        ["m.onnx", "--seed", "5"],
    ],
)
def test_a_file_or_a_network_is_wanted_and_not_both(asked: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"give MODEL\.onnx"):
        RUNNER.invoke(cli.app, ["partition", *asked], catch_exceptions=False)


@pytest.mark.parametrize(("asked", "reason"), [("alexnet", "known: efficientnet-b0"), ("resnet20:99", "it has 1 to 8")])
def test_a_network_or_block_there_is_none_of_is_refused(tmp_path: Path, asked: str, reason: str) -> None:
    pytest.importorskip("torch")
    name, _, block = asked.partition(":")
    arguments = ["partition", "--network", name, "--out", str(tmp_path / "b"), *(["--exits", block] if block else [])]
    with pytest.raises(InvalidInput, match=reason):
        RUNNER.invoke(cli.app, arguments, catch_exceptions=False)
    assert not (tmp_path / "b").exists()


def test_a_file_is_partitioned_and_says_what_its_bytes_were_measured_on(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(three_exit_graph().SerializeToString())
    result = RUNNER.invoke(cli.app, ["partition", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "b")])
    assert result.exit_code == 0, result.output
    assert "4 synthetic images" in " ".join(result.stdout.split())


def test_the_counts_are_written_without_measuring_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paper.dsc(json_file=tmp_path / "counts.json", maps=False)
    found = json.loads((tmp_path / "counts.json").read_text())
    assert set(found[0]) == {"model", "input", "blocks", "natural", "compressive", "ratios"}
    assert [entry["model"] for entry in found] == [entry.model for entry in efficientnets()]
    assert not (tmp_path / "out").exists()
