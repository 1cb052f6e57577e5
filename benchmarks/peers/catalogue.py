"""Who is measured: how each is installed, started and asked. Nobody writes a log line for each request.

Where a peer has one variant, its setting is the better one of an earlier comparison, on another machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.servers.network import FOLDER, PORT, SPARE_PORT, WORKERS
from benchmarks.subjects import Subject

CORES = 4
"""As many workers as the machine of reference has cores; a thread for each run."""
QUIET = ("--metrics-listen", "-", "--log-level", "warning")
"""What makes one of our tiers write no line for each request."""


@dataclass(frozen=True, slots=True)
class Started:
    """Where one start of a server happens: its ports on this machine, the networks, and a folder of its own."""

    port: int
    spare_ports: tuple[int, int]
    subjects: Mapping[str, Subject]
    networks: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a peer. command: after the environment's interpreter, or a script of it where it names one."""

    name: str
    setting: str
    command: Callable[[Started], Sequence[str]]
    drivers: tuple[str, ...]
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Peer:
    """requirements: none where it runs in our own environment; {onnxruntime} is as here."""

    name: str
    requirements: tuple[str, ...]
    variants: tuple[Variant, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


def environment(variant: Variant, started: Started) -> dict[str, str]:
    """The variables that servers of ours in others' environments read."""
    return {
        FOLDER: str(started.networks),
        WORKERS: str(variant.workers),
        PORT: str(started.port),
        SPARE_PORT: str(started.spare_ports[0]),
    }


def _minimal(started: Started) -> Sequence[str]:
    return ("-m", "benchmarks.peers.servers.minimal")


def _offramp(started: Started) -> Sequence[str]:
    bundles = [word for subject in started.subjects.values() for word in ("--bundle", str(subject.path))]
    listen = ("--listen", f"127.0.0.1:{started.port}", "--workers", str(CORES))
    cache = str(started.networks / "profiles")
    return ("-m", "edge_node", *bundles, *listen, *QUIET, "--profile-cache", cache)


def _mlserver(parallel_workers: int) -> Callable[[Started], Sequence[str]]:
    def command(started: Started) -> Sequence[str]:
        http, metrics = started.spare_ports
        settings = {"host": "127.0.0.1", "grpc_port": started.port, "http_port": http, "metrics_port": metrics}
        settings |= {"debug": False, "parallel_workers": parallel_workers, "metrics_endpoint": None}
        _write(started.folder / "settings.json", settings)
        for name, subject in started.subjects.items():
            model = {"name": name, "implementation": "benchmarks.peers.servers.mlserver_runtime.OnnxRuntime"}
            _write(started.folder / name / "model-settings.json", model | {"parameters": {"uri": str(subject.plain)}})
        return ("mlserver", "start", str(started.folder))

    return command


def _bentoml(started: Started) -> Sequence[str]:
    address = ("--host", "127.0.0.1", "--port", str(started.port))
    return ("bentoml", "serve", "benchmarks.peers.servers.bento_service:Peer", *address)


def _ray(started: Started) -> Sequence[str]:
    return ("-m", "benchmarks.peers.servers.ray_app")


def _write(path: Path, found: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


PEERS = (
    Peer(
        "offramp",
        (),
        (Variant("offramp", f"{CORES} workers", _offramp, ("oip", "oip stream", "exchange", "unary")),),
    ),
    Peer(
        "minimal",
        (),
        (
            Variant("minimal, inline", "grpc.aio, runs on the event loop", _minimal, ("oip",)),
            Variant("minimal, executor", f"grpc.aio, {CORES} threads", _minimal, ("oip",), CORES),
        ),
    ),
    Peer(
        "mlserver",
        ("mlserver==1.7.1", "uvloop<0.22", "onnxruntime=={onnxruntime}"),  # newer ones have no loop in its workers
        (
            Variant("mlserver, inline", "parallel_workers 0", _mlserver(0), ("oip",)),
            Variant("mlserver, 4 workers", "parallel_workers 4", _mlserver(CORES), ("oip",)),
        ),
    ),
    Peer(
        "bentoml",
        ("bentoml==1.4.39", "onnxruntime=={onnxruntime}"),
        (Variant("bentoml", f"raw body over HTTP, {CORES} workers", _bentoml, ("raw http",), CORES),),
        {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false"},
    ),
    Peer(
        "ray",
        ("ray[serve-grpc]==2.60.0", "onnxruntime=={onnxruntime}"),
        (Variant("ray serve", f"gRPC, {CORES} replicas", _ray, ("raw grpc",), CORES),),
        {"RAY_USAGE_STATS_ENABLED": "0"},
    ),
)
