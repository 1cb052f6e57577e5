"""A tier as a process of its own: what its memory becomes, and what it says of itself, can be told only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread, Timer

START_SECONDS = 60


@dataclass(slots=True)
class Child:
    """A tier in a process; `said` are the lines it has written, on either stream."""

    process: subprocess.Popen[str]
    address: str = ""
    said: list[str] = field(default_factory=list)
    ready: Event = field(default_factory=Event)

    def listen(self) -> None:
        """Collects lines until the process ends, so that its pipe never fills."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if '"event": "ready"' in line:
                self.address = json.loads(line)["address"]
                self.ready.set()
        self.ready.set()

    def forget_peak(self) -> None:
        """From here on, `peak_bytes` is that of what follows."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        return self._kilobytes("VmHWM") << 10

    def held_bytes(self) -> int:
        return self._kilobytes("VmRSS") << 10

    def _kilobytes(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


@contextmanager
def child(module: str, bundle: Path, *arguments: str) -> Iterator[Child]:
    """`python -m module` with that bundle, on a free port, ready; asserts at the end that nothing failed in it."""
    given = ["--bundle", str(bundle), "--listen", "127.0.0.1:0", "--profile-seconds", "0", "--metrics-listen", "-"]
    given += ["--console-listen", "-"] if module == "device_agent" else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    environment["OFFRAMP_CONSOLE_LISTEN"] = "-"  # its port is one, tests are many
    process = subprocess.Popen(
        [sys.executable, "-m", module, *given, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    running = Child(process)
    listener = Thread(target=running.listen, daemon=True)
    listener.start()
    try:
        assert running.ready.wait(START_SECONDS), "the tier did not start"
        assert running.address, "".join(running.said)
        yield running
        assert process.poll() is None, "".join(running.said[-20:])
    finally:
        process.kill()
        process.wait(START_SECONDS)
        listener.join(START_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
    failures = [line for line in running.said if '"event": "failed"' in line or "Traceback" in line]
    assert not failures, "".join(failures)


def wait_for_import(process: subprocess.Popen[str], module: str) -> None:
    """Reads what `-X importtime` says until `module` is there; fails where the process goes on without it."""
    guard = Timer(START_SECONDS, process.kill)  # who serves says nothing more
    guard.start()
    assert process.stderr is not None
    found = any(line.rpartition("|")[2].strip() == module for line in process.stderr)
    guard.cancel()
    assert found, f"it does not import {module}"
