"""All benchmarks, one after the other, each in a process of its own; then a page of what they found, with pictures.

Run: ``python -m benchmarks`` (or ``make bench``). Everything goes to out/bench: a JSON file for each benchmark, what it
printed beside it, and performance.md. A benchmark that fails, or misses its bar, does not stop the others; the whole
ends in time, and says what it had no time for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark: its module, what it is told besides where to write, and seconds after which it is ended."""

    module: str
    limit_seconds: float
    arguments: Sequence[str] = ()
    option: str = "--json"
    suffix: str = "json"

    def file(self, folder: Path) -> Path:
        name = report.FLAMES if self.suffix == "svg" else f"{self.module}.{self.suffix}"
        return folder / name


PARTS = (
    Part("machine", 30),
    Part("hop", 180),
    Part("tiny", 120),
    Part("tiers", 400),
    Part("peers", 480, ("all",)),
    Part("flames", 120, option="--svg", suffix="svg"),
    Part("links", 120),
    Part("planner", 60),
    Part("sessions", 120),
    Part("link_estimates", 240, ("--quick",)),
    Part("codecs", 480, ("--samples", "1000")),
)
"""Those that the page is made of come first."""


def run(part: Part, folder: Path, seconds: float) -> tuple[bool, str]:
    """Whether it ran and met its bars, and what became of it, in a few words. Files of earlier runs are gone anyway."""
    target, log = part.file(folder), folder / f"{part.module}.log"
    target.unlink(missing_ok=True)
    if seconds <= 0:
        return False, "no time left"
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *part.arguments, part.option, str(target)]
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False, f"ended after {seconds:.0f} s"
        finally:
            _end(process)
    took = f"{time.monotonic() - began:.0f} s"
    if not target.exists():
        return False, f"failed after {took}; see {log}"
    return code == 0, took if code == 0 else f"{took}; a bar was missed, see {log}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks it to stop, so that it can end what it has started, and insists after a while."""
    if process.poll() is None:
        process.send_signal(2)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Runs them and writes the page. Exit code 1 where one did not run, or missed a bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [part.module for part in PARTS]
    parser.add_argument("names", nargs="*", help=f"which; none: all of {', '.join(names)}")
    parser.add_argument("--folder", type=Path, default=Path("out/bench"), help="where to write")
    parser.add_argument("--minutes", type=float, default=20, help="how long all of it may take")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stop = time.monotonic() + 60 * arguments.minutes
    chosen = [part for part in PARTS if part.module in (arguments.names or names)]
    met = []
    for part in chosen:
        print(f"{part.module} … ", end="", flush=True)
        held, told = run(part, arguments.folder, min(part.limit_seconds, stop - time.monotonic()))
        met.append(held)
        print(told, flush=True)
    page = arguments.folder / "performance.md"
    if (arguments.folder / "machine.json").exists():
        report.write(arguments.folder, page, arguments.folder)
        print(f"{page} has the table; 'python -m benchmarks.report' makes the published page of it")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
