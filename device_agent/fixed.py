"""The plan that settings fix: the split points given, or those after the bundle's exits. Pure."""

from __future__ import annotations

from services import codec
from services.bundle import Manifest
from services.domain import Plan, Segment, Stage, Tier
from services.errors import SettingsError


def fixed_plan(manifest: Manifest, splits: tuple[int, int] | None, codecs: tuple[str, str]) -> Plan:
    """A plan that cuts at `splits`, sending activations by `codecs` (device to edge, edge to cloud).

    Without `splits`, cuts after the first two exits. Raises SettingsError where they do not fit the network.
    """
    first, second = splits or default_splits(manifest)
    if not 0 <= first <= second <= manifest.last:
        raise SettingsError(f"splits {first},{second} must be rising and within 0..{manifest.last}")
    for split_point, name in zip((first, second), codecs, strict=True):
        if name not in codec.usable(manifest, split_point):
            raise SettingsError(f"codec {name} is for images at split point 0, the plan cuts at {split_point}")
    return Plan(
        (
            Stage(Tier.DEVICE, Segment(0, first)),
            Stage(Tier.EDGE, Segment(first, second), codecs[0]),
            Stage(Tier.CLOUD, Segment(second, manifest.last), codecs[1]),
        )
    )


def default_splits(manifest: Manifest) -> tuple[int, int]:
    """After the first two exits. Where there are fewer, at the first and last compressive bottleneck beyond."""
    at = [spec.split_point for spec in manifest.exits[:-1]][:2]
    beyond = [p.index for p in manifest.split_points[1:-1] if p.compressive and p.index > max(at, default=0)]
    while len(at) < 2:
        at.append(beyond.pop(0 if not at else -1) if beyond else manifest.last)
    return at[0], at[1]
