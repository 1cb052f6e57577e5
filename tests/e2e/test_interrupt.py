"""Ctrl-C while a node is still being imported, which nobody listens for yet."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import wait_for_import


@pytest.mark.parametrize("node", ["device_agent", "edge_node", "cloud_node"])
def test_a_node_interrupted_while_it_is_imported_ends_without_a_traceback(node: str, tiny: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", node, "--bundle", str(tiny), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_import(process, "asyncio")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert not [line for line in rest.splitlines() if not line.startswith("import time:")]
