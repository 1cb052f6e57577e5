"""Which files are link traces to replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.errors import InvalidInput
from testbed.commands.bench import _files


def test_two_traces_that_reports_would_call_alike_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("verizon", "verizon.csv", "other.csv")]
    for file in files:
        file.write_text("t_s,mbps\n0,1\n")
    assert _files(files[1:]) == files[1:]
    with pytest.raises(InvalidInput, match="names of their own"):
        _files(files)
