"""The plan that settings or a request fix: the split points given, or those after the bundle's exits. Pure."""

from __future__ import annotations

from services import codec
from services.bundle import Manifest
from services.domain import Plan, Segment, Stage, Tier
from services.errors import SettingsError

DEFAULT_CODECS = ("int8+zstd", "int8+zstd")
"""Of the hop from the device to the edge, and of that to the cloud."""


def fixed_plan(
    manifest: Manifest, splits: tuple[int, int] | None, codecs: tuple[str, str], lowest: Tier = Tier.DEVICE
) -> Plan:
    """A plan that cuts at `splits`, sending activations by `codecs` (device to edge, edge to cloud).

    Without `splits`, cuts after the first two exits. `lowest` is where it begins: what tiers below would run is its.
    Raises SettingsError where they do not fit the network.
    """
    first, second = splits or default_splits(manifest)
    if not 0 <= first <= second <= manifest.last:
        raise SettingsError(f"splits {first},{second} must be rising and within 0..{manifest.last}")
    for split_point, name in zip((first, second)[lowest:], codecs[lowest:], strict=True):
        if name not in codec.usable(manifest, split_point):
            raise SettingsError(f"codec {name} is for images at split point 0, the plan cuts at {split_point}")
    ends = (first, second, manifest.last)
    above = (Stage(tier, Segment(ends[tier - 1], ends[tier]), codecs[tier - 1]) for tier in Tier if tier > lowest)
    return Plan((Stage(lowest, Segment(0, ends[lowest])), *above))


def held_plan(
    manifest: Manifest,
    codecs: tuple[str, str],
    lowest: Tier = Tier.DEVICE,
    holds: Segment | None = None,
    privacy: bool = False,
) -> Plan:
    """The plan that cuts after the first two exits, or as far as `lowest` holds the network where that ends before.

    privacy: not before more crosses than the input, if that much is held.
    """
    earliest = manifest.first_activation if privacy else 0
    first, second = (max(at, earliest) for at in default_splits(manifest))
    if holds is not None:
        splits = zip((first, second), Tier, strict=False)
        first, second = (min(at, holds.end) if lowest is tier else at for at, tier in splits)
    return fixed_plan(manifest, (first, max(first, second)), codecs, lowest)


def interior(codecs: tuple[str, str]) -> tuple[str, str]:
    """`codecs` for cuts inside the network; in place of those that only images travel by, the usual ones."""
    near, far = (name if name in codec.INTERIOR else usual for name, usual in zip(codecs, DEFAULT_CODECS, strict=True))
    return near, far


def default_splits(manifest: Manifest) -> tuple[int, int]:
    """After the first two exits. Where there are fewer, at the first and last compressive bottleneck beyond."""
    at = [spec.split_point for spec in manifest.exits[:-1]][:2]
    beyond = [p.index for p in manifest.split_points[1:-1] if p.compressive and p.index > max(at, default=0)]
    while len(at) < 2:
        at.append(beyond.pop(0 if not at else -1) if beyond else manifest.last)
    return at[0], at[1]
