"""The page on performance, from files that the benchmarks might have written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import found, report, targets
from benchmarks.__main__ import Part, main, run
from benchmarks.flames import anonymous
from benchmarks.targets import Row, row

MACHINE = {
    "date": "2026-01-02",
    "cpu": "A Processor",
    "cores": 4,
    "memory_gb": 16,
    "system": "Linux 6.1",
    "load": 0.2,
    "versions": {"python": "3.11.7", "onnxruntime": "1.24.0"},
}
SPREAD = [1.0, 2.0, 3.0]
ROW = {"latency": SPREAD, "share": [0.1, 0.2, 0.3], "p50_us": SPREAD, "p99_us": SPREAD, "rate": [10.0, 20.0, 30.0]}


def _server(name: str, reason: str = "") -> dict[str, Any]:
    measured = {} if reason else {"tiny": ROW}
    asked = {"server": name, "driver": "oip", "setting": "best", "versions": {"it": "1"}}
    return asked | {"reason": reason, "over_bare": measured}


def _written(folder: Path, rows: list[Row]) -> Path:
    (folder / "machine.json").write_text(json.dumps(MACHINE))
    targets.write(folder / "tiers.json", rows, failed={"crowd": "it fell over in /home/someone/place"})
    peers = {"crowd": 32, "cores": 4, "rounds": 3}
    servers = [_server("bare loop"), _server("offramp"), _server("gone", "not installed: see /opt/x/y.log")]
    (folder / "peers.json").write_text(json.dumps(peers | {"measured": servers}))
    return folder


ROWS = [row("fast enough", "at most", 2.0, [1.0]), row("too few", "at least", 0.9, [0.45], note="how so")]


def test_the_page_says_of_each_target_whether_it_is_met(tmp_path: Path) -> None:
    text = report.page(found.gather(_written(tmp_path, ROWS)))
    assert "| fast enough | ≤ 2× | 1× | 1× – 1× | yes |" in text
    assert "| too few (how so) | ≥ 0.9 | 0.45 | 0.45 – 0.45 | **no** |" in text
    assert "- too few: 0.45, 50% off" in text


def test_the_page_names_what_was_not_measured_and_why(tmp_path: Path) -> None:
    text = report.page(found.gather(_written(tmp_path, ROWS)))
    assert "- hop: not measured" in text
    assert "- crowd: it fell over in …" in text
    assert "- gone, oip: not installed: see …" in text
    (tmp_path / "peers.json").unlink()
    assert "- peers: not measured" in report.page(found.gather(tmp_path))


def test_the_page_has_the_date_and_the_machine_and_no_paths(tmp_path: Path) -> None:
    text = report.page(found.gather(_written(tmp_path, ROWS)))
    assert "Measured on 2026-01-02: A Processor, 4 cores, 16 GB, Linux 6.1; python 3.11.7" in text
    assert "/home/" not in text
    assert "/opt/" not in text


def test_every_server_is_shown_beside_the_bare_loop(tmp_path: Path) -> None:
    text = report.page(found.gather(_written(tmp_path, ROWS)))
    for name in ("bare loop", "offramp"):
        assert f"| {name} | oip | 2 / 2 | 2 (1 – 3) | 20 | 0.2 (0.1 – 0.3) |" in text


def test_a_file_of_another_shape_is_told_not_raised(tmp_path: Path) -> None:
    _written(tmp_path, ROWS)
    (tmp_path / "hop.json").write_text(json.dumps({"results": []}))
    assert "cannot be read" in found.gather(tmp_path).missing["hop"]


def test_the_hop_that_counts_is_the_worst_of_its_sizes() -> None:
    sizes = {"16 KiB": {"added / bare stream": 1.1}, "150 KiB": {"added / bare stream": 1.3}}
    sizes["1 MiB"] = {"exchange / bare unary": 1.2}
    results = [{"size": size, "ratios": given} for size, given in sizes.items()]
    added, large = found.of_hop({"results": results})
    assert (added.measured, added.low, added.met) == (1.3, 1.1, False)
    assert (large.measured, large.met) == (1.2, True)


def test_shares_of_the_bare_loop_are_taken_in_the_same_round() -> None:
    rates = {"exchange": [90.0, 50.0, 99.0], "bare loop": [100.0, 50.0, 100.0]}
    times = {"exchange": [60.0, 70.0, 80.0], "minimal unary": [90.0, 100.0, 110.0]}
    share, alone = found.of_tiny({"width": 16, "rates": rates, "microseconds": times})
    assert "16 channels" in share.note
    assert (share.low, share.measured, share.high) == (0.9, 0.99, 1.0)
    assert (alone.measured, alone.met) == (0.7, False)


def test_pictures_and_page_are_written_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "docs").mkdir()
    (_written(tmp_path, ROWS) / report.FLAMES).write_text("<svg/>")
    report.write(tmp_path, tmp_path / "docs" / "performance.md", tmp_path / "docs" / "images")
    text = (tmp_path / "docs" / "performance.md").read_text()
    for name in ("performance-targets.png", "performance-tiny.png", report.FLAMES):
        assert f"(images/{name})" in text
        assert (tmp_path / "docs" / "images" / name).stat().st_size < 200_000


def test_a_flame_graph_keeps_no_folders() -> None:
    text = "<title>run (/home/me/it/.venv/lib/python3.11/site-packages/x/y.py:3)</title>"
    assert anonymous(text, "one caller") == "<title>run (site-packages/x/y.py:3)</title>"


def test_a_flame_graph_does_not_say_who_drew_it() -> None:
    text = '<text id="title">bin/py-spy record --output /home/me/a.svg --pid 1</text>'
    drawn = anonymous(text, "one caller")
    assert drawn == '<text id="title">The processor time of an edge: one caller</text>'


def test_a_benchmark_without_time_leaves_no_figures_of_an_earlier_run(tmp_path: Path) -> None:
    part = Part("machine", 30)
    part.file(tmp_path).write_text("{}")
    assert run(part, tmp_path, 0) == (False, "no time left")
    assert not part.file(tmp_path).exists()


def test_a_benchmark_that_fails_is_told_and_stops_nobody(tmp_path: Path) -> None:
    held, told = run(Part("there_is_none", 30), tmp_path, 30)
    assert not held
    assert told.startswith("failed")


@pytest.mark.parametrize(("code", "met"), [(0, True), (1, False)])
def test_a_benchmark_that_misses_its_bar_is_told_by_its_exit_code(
    code: int, met: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('{{}}'); sys.exit({code})"
    (tmp_path / "stub").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    (tmp_path / "stub").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "stub"))
    monkeypatch.setattr("benchmarks.__main__.PARTS", (Part("machine", 30),))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--folder", str(tmp_path / "out")])
    monkeypatch.setattr(report, "write", lambda *_: None)
    assert main() == (0 if met else 1)
