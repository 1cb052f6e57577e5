"""How soon a tier answers after its process has started, what importing it takes, and what it holds while idle.

The bundle is one that is shipped, and the disk is warm: an earlier start, which does not count, has read everything
and has left its profile and Python's bytecode behind, as on a machine where a tier has been started before.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from benchmarks.drivers import tier
from benchmarks.memory import resident_mb
from benchmarks.subjects import Subject
from benchmarks.targets import Row, row
from testbed.local import part

BUNDLE = Path("models/digits")
FIRST_ANSWER_SECONDS, IMPORT_SECONDS, RESIDENT_MB = 2.0, 0.6, 150.0
_TIMEOUT_SECONDS = 60.0
_IMPORT = "import time; began = time.perf_counter(); import edge_node.__main__; print(time.perf_counter() - began)"


async def rows(folder: Path, starts: int, path: Path = BUNDLE) -> list[Row]:
    folder.mkdir(parents=True, exist_ok=True)
    subject = Subject.at(path)
    with _bytecode_kept(folder / "bytecode"):
        imports = [await asyncio.to_thread(_imported) for _ in range(starts + 1)][1:]
        started = [await _start(folder, subject) for _ in range(starts + 1)][1:]
    return [
        row("first answer after the process starts", "at most", FIRST_ANSWER_SECONDS, [s for s, _ in started], "s"),
        row("import of edge_node", "at most", IMPORT_SECONDS, imports, "s"),
        row("resident memory of an idle tier", "at most", RESIDENT_MB, [megabytes for _, megabytes in started], "MB"),
    ]


@contextmanager
def _bytecode_kept(folder: Path) -> Iterator[None]:
    """Lets the processes that start here keep bytecode, outside the tree, whatever this shell says of it."""
    with mock.patch.dict(os.environ, {"PYTHONPYCACHEPREFIX": str(folder)}):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield


async def _start(folder: Path, subject: Subject) -> tuple[float, float]:
    """Seconds to the first answer, and megabytes that are resident after it."""
    listen = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    arguments = ("edge_node", "--bundle", str(subject.path), *listen, "--profile-cache", str(folder / "profiles"))
    began = time.perf_counter()
    async with part("edge", arguments, folder / "edge.log") as edge, tier(edge.address, subject) as connect:
        await connect()()
        return time.perf_counter() - began, resident_mb(edge.process.pid)


def _imported() -> float:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
    )
    return float(done.stdout)
