"""Commands that need torch say so in one line where it is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from testbed.__main__ import main; sys.exit(main())"


@pytest.mark.parametrize(
    "arguments",
    [
        ("privacy", "models/digits"),
        ("train", "--out", "{out}"),
        ("partition", "--network", "efficientnet-b0", "--out", "{out}"),
    ],
)
def test_what_needs_torch_says_so(arguments: tuple[str, ...], tmp_path: Path) -> None:
    given = [each.format(out=tmp_path) for each in arguments]
    command = [sys.executable, "-c", WITHOUT_TORCH, *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "needs torch; in a checkout: .venv/bin/pip install" in done.stderr
