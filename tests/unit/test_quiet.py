"""Nothing calls home, and a tier carries nothing it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SET_BY_SERVICES = ("ORT_DISABLE_TELEMETRY", "OPENBLAS_NUM_THREADS")
NOT_BEFORE_THEY_ARE_ASKED_FOR = {"PIL", "aiohttp", "cryptography", "opentelemetry", "rich", "simpy", "typer"}


def _python(code: str, home: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in SET_BY_SERVICES} | {"HOME": str(home)}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_running_a_model_leaves_no_trace_of_telemetry(tiny: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from services import bundle; from services.domain import Segment;"
        f"from services.model import Model; Model(bundle.load(Path({str(tiny)!r}))).warm([Segment(0, 8)])"
    )
    _python(code, tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_a_tier_imports_neither_torch_nor_matplotlib_nor_sklearn(tmp_path: Path) -> None:
    code = "import sys, edge_node.__main__, cloud_node.__main__, device_agent.__main__; print(*sys.modules)"
    modules = {name.partition(".")[0] for name in _python(code, tmp_path).split()}
    assert not modules & {"torch", "matplotlib", "sklearn", "scipy", "pandas", "training", "testbed"}
    assert not modules & NOT_BEFORE_THEY_ARE_ASKED_FOR


def test_importing_a_tier_starts_no_threads(tmp_path: Path) -> None:
    code = "import os, edge_node.__main__; print(len(os.listdir('/proc/self/task')))"
    assert _python(code, tmp_path).strip() == "1"
