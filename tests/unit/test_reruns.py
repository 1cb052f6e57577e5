"""What fails is run again only where the machine stood still meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FAILING = """
from pathlib import Path
from tests.conftest import *
from tests.stalls import bystander

runs = Path(__file__).with_name("runs")

def test_it():
    {during}
    runs.write_text((runs.read_text() if runs.exists() else "") + "x")
    assert len(runs.read_text()) > {failures}
"""
STALL = "bystander.stalls = [(0.0, 0.3)]"
QUIET = "bystander.stalls = type('Blind', (list,), {'append': lambda *_: None})()"  # whatever this machine does


@pytest.mark.parametrize(
    ("during", "failures", "outcome"),
    [(STALL, 1, "1 passed, 1 rerun"), (STALL, 9, "1 failed, 2 rerun"), (QUIET, 1, "1 failed")],
)
def test_a_failure_is_run_again_twice_at_most_where_the_machine_stood_still(
    tmp_path: Path, during: str, failures: int, outcome: str
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(FAILING.format(during=during, failures=failures))
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    told = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "test_it.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert told.stdout.strip().splitlines()[-1].startswith(outcome), told.stdout + told.stderr
