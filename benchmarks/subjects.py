"""The networks that are measured, as folders: a bundle for tiers, and `plain.onnx` for everybody else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services import bundle
from services.bundle import Manifest
from services.domain import FloatArray

PLAIN = "plain.onnx"


@dataclass(frozen=True, slots=True)
class Subject:
    """A network in a folder. `name`: what servers call it."""

    path: Path
    manifest: Manifest

    @classmethod
    def at(cls, path: Path) -> Subject:
        return cls(path, bundle.read_manifest(path))

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def plain(self) -> Path:
        return self.path / PLAIN

    @property
    def sample(self) -> FloatArray:
        """One sample, float32 [1, *input shape], the same each time."""
        return np.random.default_rng(0).random((1, *self.manifest.input.shape), np.float32)


def write(folder: Path, names: tuple[str, ...]) -> dict[str, Subject]:
    """Those of DRAWN that are named, each in a folder of its own."""
    return {name: DRAWN[name](folder / name) for name in names}


def _tiny(path: Path) -> Subject:
    from benchmarks.tiny import network, width

    with tempfile.TemporaryDirectory() as folder:
        return Subject.at(network(path, width(Path(folder))))


def _mobilenet(path: Path) -> Subject:
    from benchmarks.mobilenet import mobilenet_v2

    return _drawn(path, mobilenet_v2)


def _efficientnet(path: Path) -> Subject:
    from benchmarks.efficientnet import efficientnet_b0

    return _drawn(path, efficientnet_b0)


def _drawn(path: Path, draw: Callable[[], object]) -> Subject:
    from benchmarks.efficientnet import in_memory

    found = in_memory(draw())  # type: ignore[arg-type]
    bundle.write(path, found.manifest, found.graph)
    (path / PLAIN).write_bytes(found.graph)
    return Subject(path, found.manifest)


DRAWN: dict[str, Callable[[Path], Subject]] = {
    "tiny": _tiny,
    "mobilenet_v2": _mobilenet,
    "efficientnet_b0": _efficientnet,
}
