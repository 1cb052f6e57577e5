"""The bundles that a tier is to serve: directories of one bundle each, or of several.

A directory of several holds NAME/manifest.json or NAME/VERSION/manifest.json. What a model is called, and its
version, is what its manifest says; the names of the directories are for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from services import bundle
from services.bundle import MANIFEST, MEMORY_PER_BYTE, Bundle
from services.errors import BundleError

_DEPTHS = ("*", "*/*")


def load(paths: Iterable[Path], memory_bytes: int | None = None) -> tuple[Bundle, ...]:
    """Reads and verifies every bundle at or below `paths`, in their order; what is there twice is taken once.

    memory_bytes: what there is for all of them; None: as much as they take.

    Raises BundleError where one cannot be served, and for two that no client, or no other tier, could tell apart.
    """
    found: list[Bundle] = []
    for directory in _directories(paths):
        taken = MEMORY_PER_BYTE * sum(len(each.graph) for each in found)
        loaded = bundle.load(directory, None if memory_bytes is None else memory_bytes - taken)
        if all(_apart(loaded, other) for other in found):
            found.append(loaded)
    return tuple(found)


def newest_last(versions: Iterable[str]) -> list[str]:
    """Versions are numbers, and sort as such: 10 is newer than 9."""
    return sorted(versions, key=int)


def _directories(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        below = [] if (path / MANIFEST).exists() else sorted(m for d in _DEPTHS for m in path.glob(f"{d}/{MANIFEST}"))
        yield from (manifest.parent for manifest in below if not _hidden(manifest.parent, path))
        if not below:
            yield path  # which says what is wrong with it


def _hidden(directory: Path, path: Path) -> bool:
    return any(part.startswith(".") for part in directory.relative_to(path).parts)


def _apart(one: Bundle, other: Bundle) -> bool:
    """Whether they are two models; False for the same one twice. Raises BundleError where they cannot be told apart."""
    a, b = one.manifest, other.manifest
    if a == b:
        return False
    if (a.name, a.version) == (b.name, b.version):
        raise BundleError(
            f"{one.path} and {other.path} are both {a.name!r} version {a.version}, but not the same"
            f" (SHA-256 {a.model_hash} and {b.model_hash}); give one of them another version"
        )
    if a.model_hash == b.model_hash:
        raise BundleError(
            f"{one.path} and {other.path} have the same graph, {a.model_hash}, by which tiers tell models apart;"
            " serve only one of them"
        )
    return True
