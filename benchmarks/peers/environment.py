"""Each peer in an environment of its own, and its server as a group of processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.peers.catalogue import Peer, Started, Variant, environment

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / "out" / "peers"
_INSTALL_SECONDS = 600.0
_STOP_SECONDS = 15.0
_TELL_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


class PeerError(Exception):
    """A peer that cannot be installed, or does not serve, and why."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a peer's programs are, and the versions of what was asked for."""

    peer: Peer
    bin: Path
    versions: dict[str, str]


def install(peer: Peer) -> Installed:
    """Makes the environment unless it is there as asked for. Raises PeerError with what the installer said."""
    if not peer.requirements:
        return Installed(peer, Path(sys.executable).parent, _versions(Path(sys.executable), ("onnxruntime", "grpcio")))
    folder = HOME / peer.name
    wanted = [each.format(onnxruntime=metadata.version("onnxruntime")) for each in peer.requirements]
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != wanted:
        print(f"installing {peer.name} into {folder.relative_to(ROOT)} …", file=sys.stderr, flush=True)
        done.unlink(missing_ok=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *wanted)
        done.write_text(json.dumps(wanted))
    names = tuple(each.partition("[")[0].partition("=")[0].partition("<")[0] for each in wanted)
    return Installed(peer, python.parent, _versions(python, names))


def _versions(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = json.loads(_run(str(python), "-c", _TELL_VERSIONS, *names))
    return found


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise PeerError(f"{command[0]} took longer than {_INSTALL_SECONDS:g} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise PeerError(" ".join(errors[-1:])[:300] or f"{command[0]} failed")
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@asynccontextmanager
async def running(installed: Installed, variant: Variant, started: Started) -> AsyncIterator[None]:
    """The server's processes until the body ends; whether it serves by then is not known. Raises PeerError."""
    started.folder.mkdir(parents=True, exist_ok=True)
    first, *rest = variant.command(started)
    program = [str(installed.bin / "python"), first, *rest] if first == "-m" else [str(installed.bin / first), *rest]
    ours = ("OFFRAMP_", "VIRTUAL_ENV", "OPENBLAS_NUM_THREADS")  # what our own modules set is not theirs
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    given = environment(variant, started) | dict(installed.peer.variables)
    path = os.pathsep.join((str(installed.bin), kept.get("PATH", "")))
    with (started.folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *program,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            env=kept | given | {"PATH": path, "PYTHONPATH": str(ROOT)},
            process_group=0,
        )
    try:
        yield
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """The group, since some peers leave processes behind when only their first is told."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def said(started: Started) -> str:
    """The end of what the server wrote."""
    lines = (started.folder / "log").read_text(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-3:])[-300:]
