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


def load(paths: Iterable[Path], memory_bytes: int | None = None, held: Iterable[Bundle] = ()) -> tuple[Bundle, ...]:
    """Reads and verifies every bundle at or below `paths`, in their order; what is there twice is taken once.

    memory_bytes: what there is for all of them; None: as much as they take. held: what is served already, and goes on
    being served beside them; where it is still there it is what is returned.

    Raises BundleError where one cannot be served, and for two that no client, or no other tier, could tell apart.
    """
    known = {each.manifest.model_hash: each for each in held}
    found: dict[str, Bundle] = {}
    for directory in _directories(paths):
        loaded = bundle.load(directory, _left(memory_bytes, directory, known.values()))
        if all(_apart(loaded, other) for other in known.values()):
            known[loaded.manifest.model_hash] = loaded
        found[loaded.manifest.model_hash] = known[loaded.manifest.model_hash]
    return tuple(found.values())


def newest_last(versions: Iterable[str]) -> list[str]:
    """Versions are numbers, and sort as such: 10 is newer than 9."""
    return sorted(versions, key=int)


def _left(memory_bytes: int | None, directory: Path, known: Iterable[Bundle]) -> int | None:
    """What the others leave of the memory for the bundle in `directory`, which may be one that is known."""
    if memory_bytes is None:
        return None
    manifest = bundle.read_manifest(directory)
    return memory_bytes - MEMORY_PER_BYTE * sum(len(each.graph) for each in known if each.manifest != manifest)


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
    if one.path == other.path and a.model_hash == b.model_hash:
        raise BundleError(f"{one.manifest_path}: changed, though its graph did not; a restart takes it up")
    if one.path == other.path and (a.name, a.version) == (b.name, b.version):
        raise BundleError(
            f"{one.path}: now another graph (SHA-256 {a.model_hash}) than what is served as {a.name!r} version"
            f" {a.version} (SHA-256 {b.model_hash}); give it another version"
        )
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
