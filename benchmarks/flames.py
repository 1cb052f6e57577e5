"""Where the processor time of an edge goes, as flame graphs: py-spy watches it while somebody asks.

Needs py-spy, and leave to look at the process; says so where it has neither.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import subjects
from benchmarks.hop import node
from benchmarks.load import Window, loads
from benchmarks.peers.rounds import CROWD
from benchmarks.subjects import Subject

SECONDS = 6
_TIMEOUT_SECONDS = 60.0
_COMMAND = re.compile(r"[^<>]*py-spy record [^<>]*")
_ROOTS = re.compile(r"(?:/[\w.+-]+)+/(?=(?:site-packages|lib|bin|services|edge_node|testbed)/)")


@dataclass(frozen=True, slots=True)
class Flame:
    """One picture: who asks, by which driver. suffix: of its file. what: of what the time is."""

    suffix: str
    driver: str
    callers: int
    what: str


GRAPHS = (
    Flame("", "exchange", CROWD, f"{CROWD} callers, tier to tier"),
    Flame("-alone", "exchange", 1, "one caller, tier to tier"),
    Flame("-door", "oip", CROWD, f"{CROWD} callers at the public door"),
)


def file(target: Path, flame: Flame) -> Path:
    """The picture's, beside `target`, which is the first one's."""
    return target.with_name(f"{target.stem}{flame.suffix}{target.suffix}")


async def record(folder: Path, target: Path) -> str:
    """Writes the flame graphs; returns what went wrong, if anything."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        return "py-spy is not installed; pip install py-spy"
    subject = subjects.write(folder, ("tiny",))["tiny"]
    faults = [await _record(program, subject, flame, file(target, flame)) for flame in GRAPHS]
    return next((fault for fault in faults if fault), "")


async def _record(program: str, subject: Subject, flame: Flame, target: Path) -> str:
    target.unlink(missing_ok=True)
    async with node("edge", subject.path) as edge, loads() as load:
        window = Window(flame.driver, str(subject.path), edge.address, flame.callers, SECONDS * 1.5)
        asked = asyncio.create_task(load.measure(window))
        options = ("--format", "flamegraph", "--rate", "200", "--duration", str(SECONDS), "--output", str(target))
        pipe = asyncio.subprocess.PIPE
        command = (program, "record", *options, "--pid", str(edge.process.pid))
        watching = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        try:
            _, errors = await asyncio.wait_for(watching.communicate(), _TIMEOUT_SECONDS)
        finally:
            if watching.returncode is None:
                watching.kill()
            await asked
    if watching.returncode or not target.exists():
        return (errors.decode(errors="replace").strip().splitlines() or ["py-spy wrote nothing"])[-1][:300]
    target.write_text(anonymous(target.read_text(encoding="utf-8"), flame.what), encoding="utf-8")
    return ""


def anonymous(picture: str, what: str) -> str:
    """`picture` without the folders that things are installed in, named after `what` it shows."""
    named = _COMMAND.sub(f"The processor time of an edge: {what}", picture)
    return re.sub(r"process \d+:[^<\"]*", "edge", _ROOTS.sub("", named))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flames", description=__doc__)
    parser.add_argument("--svg", type=Path, default=Path("out/bench/performance-edge.svg"), help="file to write")
    arguments = parser.parse_args()
    arguments.svg.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fault = asyncio.run(record(Path(folder), arguments.svg))
    if fault:
        print(f"no flame graph: {fault}", file=sys.stderr)
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
