"""Which files are link traces to replay, and how much of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.errors import InvalidInput
from testbed.bench import conduct
from testbed.cli import app
from testbed.commands.bench import _files

_TRACE = "t_s,mbps\n0,1\n"


def bench(folder: Path, *arguments: str | Path) -> BaseException | None:
    """What `bench policies` with its output in `folder` ends with."""
    words = ["bench", "policies", "--out", str(folder / "out"), *map(str, arguments)]
    return CliRunner().invoke(app, words).exception


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "flat.csv"
    file.write_text(_TRACE)
    return file


def test_two_traces_that_reports_would_call_alike_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("verizon", "verizon.csv", "other.csv")]
    for file in files:
        file.write_text(_TRACE)
    assert _files(files[1:]) == files[1:]
    with pytest.raises(InvalidInput, match="names of their own"):
        _files(files)


def test_a_missing_trace_among_several_is_named(trace: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.csv is no file"):
        _files([trace, trace.with_name("gone.csv")])


@pytest.mark.parametrize("virtual", [True, False])
def test_a_broken_trace_is_refused_before_anything_is_measured(
    virtual: bool, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(conduct, "prepared", lambda *asked: measured.append(asked) or [])
    (broken := trace.with_name("broken.csv")).write_text("t_s,mbps\n0,fast\n")
    asked = ("--trace", trace, "--trace", broken, *(["--virtual"] if virtual else []))
    refused = bench(trace.parent, *asked)
    assert isinstance(refused, InvalidInput)
    assert "broken.csv, line 2: expected two numbers" in str(refused)
    assert not measured


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--whole",), "--whole is for the simulation alone"),
        (("--virtual", "--whole", "--seconds", "5"), "give one of them"),
        (("--virtual", "--whole", "--quick"), "give one of them"),
        (("--virtual", "--quick", "--seconds", "5"), "give one of them"),
        (("--virtual", "--rounds", "5"), "--rounds is for running tiers"),
        (("--quick", "--rounds", "5"), "--quick takes one turn"),
        (("--bundle", "models/digits", "--data", "."), "no --bundle here takes its inputs from --data"),
        (("--bundle", "models/cifar10", "--photos", "."), "no --bundle here takes its inputs from --photos"),
    ],
)
def test_options_of_which_one_would_be_ignored_are_refused(asked: tuple[str, ...], said: str, trace: Path) -> None:
    refused = bench(trace.parent, "--trace", trace, *asked)
    assert isinstance(refused, InvalidInput)
    assert said in str(refused)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (("--virtual",), 120.0),
        (("--virtual", "--quick"), 15.0),
        (("--virtual", "--whole"), None),
        (("--virtual", "--seconds", "5"), 5.0),
    ],
)
def test_as_much_of_a_trace_is_taken_as_was_asked_for(
    asked: tuple[str, ...], seconds: float | None, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[conduct.Asked] = []
    monkeypatch.setattr(conduct, "on_paper", lambda asked, on_step: taken.append(asked) or conduct.Found())
    assert bench(trace.parent, "--trace", trace, *asked) is None
    assert [each.seconds for each in taken] == [seconds]


@pytest.mark.parametrize("option", ["--device-slowdown", "--edge-slowdown"])
def test_a_machine_that_is_slower_without_end_is_refused(option: str, trace: Path) -> None:
    refused = bench(trace.parent, "--trace", trace, option, "inf")
    assert isinstance(refused, SystemExit)
    assert refused.code == 2
