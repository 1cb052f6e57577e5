"""What crossing a link costs, for every split point and codec. Pure.

S is the number of split points, C of codecs. Where a codec may not cross, `network` is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from device_agent.times import Array, Same, Travellers
from services import codec
from services.bundle import NOT_CARRIED, Manifest
from services.domain import CodecCost, LinkEstimate, Policy, TierProfile
from services.errors import InvalidInput

Names = tuple[str, ...]
Mask = npt.NDArray[np.bool_]

_EXACT = frozenset({*codec.INTERIOR, "pixels"})
"""Codecs that, without a lossless stage, take as many bytes as the shape says."""
_TELLING = "int8+zstd"
"""Adopted bundles have measured at every split point how many bytes this makes, calibrated ones where a cut may pay."""
_FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop in expectation, [S, C] each: seconds, but for `bytes` on the wire and `delta`, the accuracy it adds.

    queue: what those who arrive wait for a worker there, if anything is run for them, [S]. Behind the last split point
    nobody travels: there, codec 0 costs nothing and the others are not offered.
    """

    encode: Array
    network: Array
    queue: Array
    decode: Array
    bytes: Array
    delta: Array

    @property
    def seconds(self) -> Array:
        """Until it has arrived and is decoded."""
        return self.encode + self.network + self.decode

    @property
    def loss(self) -> Array:
        """Of accuracy. A gain is chance, and makes up for no loss elsewhere."""
        return np.maximum(-self.delta, 0.0)


@dataclass(frozen=True, slots=True)
class _Wire:
    """What codecs make of one sample: bytes as float32 [S, 1], on the wire [S, C], and the accuracy they add [S, C].

    plain: exact bytes before the lossless stage, NaN for image files, whose size is not known from the shape.
    usable: that a codec can carry what crosses there, and that it is known to be harmless, or how harmful. least: what
    a lossless stage leaves of a byte there, [S, C], at least.
    """

    fp32: Array
    measured: Array
    plain: Array
    estimated: Array
    delta: Array
    usable: Mask
    least: Array


@dataclass(frozen=True, slots=True)
class _CodecCosts:
    """Of one machine that is not slowed down, [C] each: seconds, and wire bytes (NaN: not measured), per float32 byte.

    stage: what the lossless stage makes of one byte; 1 where there is none.
    """

    encode: Array
    decode: Array
    ratio: Array
    stage: Array


def hop(
    manifest: Manifest,
    codecs: Names,
    travellers: Travellers,
    link: LinkEstimate | None,
    sender: TierProfile | None,
    receiver: TierProfile | None,
    policy: Policy,
) -> Hop:
    """The hop from `sender` over `link` to `receiver`; `policy` may forbid that the input crosses, or images do.

    Bytes of a sample: measured at this split point, else as `_sizes` finds.
    A codec whose costs a machine does not know costs nothing there. Raises InvalidInput for an unknown codec.
    """
    wire = _wire(Same(manifest), codecs)
    sending, receiving = (_codec_costs(Same(each.codecs if each else ()), codecs) for each in (sender, receiver))
    size = _sizes(Same(wire), Same(sending))
    round_trip, per_byte = _link(link)
    known = sender is not None and receiver is not None and np.isfinite(round_trip)
    may = wire.usable & np.isfinite(size) & known
    if policy.privacy:
        may[: manifest.first_activation] = False
    if not policy.images:
        may[:, [name in codec.IMAGE for name in codecs]] = False
    some, count = travellers.some[:, None], travellers.count[:, None]
    sent = np.where(may, count * size, 0.0)
    full = Hop(
        encode=count * wire.fp32 * (sending.encode * (sender.slowdown if sender else 1.0)),
        network=np.where(may, some * (round_trip if known else 0.0) + sent * per_byte, np.inf),
        queue=travellers.some * (receiver.queue_seconds if receiver else 0.0),
        decode=count * wire.fp32 * (receiving.decode * (receiver.slowdown if receiver else 1.0)),
        bytes=sent,
        delta=wire.delta.copy(),
    )
    return _stopping_at_the_end(full)


def offered(manifest: Manifest, codecs: Names) -> Names:
    """Those of `codecs` that may be used somewhere, or one that may not. Raises InvalidInput for an unknown name."""
    return _offered(Same(manifest), codecs)


@lru_cache(maxsize=48)
def _offered(manifest: Same[Manifest], codecs: Names) -> Names:
    for name in set(codecs) - set(codec.NAMES):
        codec.get(name)
    if not codecs:
        raise InvalidInput("a hop has no codec to choose from; name at least one, e.g. fp32")
    usable = _wire(manifest, codecs).usable
    return tuple(name for name, column in zip(codecs, usable.T, strict=True) if column.any()) or codecs[:1]


def _stopping_at_the_end(full: Hop) -> Hop:
    for field in fields(full):
        getattr(full, field.name)[-1] = 0
    full.network[-1, 1:] = np.inf
    return full


@lru_cache(maxsize=48)
def _wire(manifest: Same[Manifest], codecs: Names) -> _Wire:
    """What the manifest and the codecs themselves say; shared between calls, so nobody may write to the arrays."""
    spec = manifest.value
    measured, plain, estimated, delta = np.full((4, len(spec.split_points), len(codecs)), np.nan)
    usable = np.zeros(measured.shape, bool)
    found = {(entry.split_point, entry.codec): entry for entry in spec.codec_accuracy}
    worst = _worst_deltas(spec)
    for point in spec.split_points[:-1]:
        offered = set(codec.usable(spec, point.index))
        for column, name in enumerate(codecs):
            where = point.index, column
            entry, unpacked = found.get((point.index, name)), found.get((point.index, name.partition("+")[0]))
            deltas = [each.delta for each in (entry, unpacked) if each is not None and each.delta is not None]
            delta[where] = deltas[0] if deltas else worst.get(name.partition("+")[0], np.nan)  # a stage loses nothing
            measured[where] = entry.bytes_per_sample if entry and entry.bytes_per_sample else np.nan
            if name in offered:
                shape, base = (1, *point.shape), name.partition("+")[0]
                estimated[where] = codec.at(name, point.index, spec.input.preprocessing).estimate_bytes(shape)
                if base in _EXACT:
                    plain[where] = codec.at(base, point.index, spec.input.preprocessing).estimate_bytes(shape)
                known = codec.faithful(name) or (bool(deltas) and spec.calibration is not None)
                usable[where] = known and NOT_CARRIED not in deltas[:1]
    fp32 = np.array([[_FP32_BYTES * point.elements] for point in spec.split_points], np.float64)
    return _Wire(fp32, measured, plain, estimated, np.nan_to_num(delta), usable, _least_stage(spec, codecs))


def _worst_deltas(spec: Manifest) -> dict[str, float]:
    """What each codec does to accuracy where that is worst, for where it was not measured; without its stage.

    What it cannot carry in one place tells nothing of others.
    """
    worst: dict[str, float] = {}
    for entry in spec.codec_accuracy:
        if entry.delta is not None and entry.delta != NOT_CARRIED:
            base = entry.codec.partition("+")[0]
            worst[base] = min(worst.get(base, entry.delta), entry.delta)
    return worst


def _least_stage(spec: Manifest, codecs: Names) -> Array:
    """What a lossless stage leaves of a byte at least, [S, C]: what it left there where that was measured.

    One measured on an activation that is nearly constant would promise as much everywhere.
    """
    least = np.zeros((len(spec.split_points), len(codecs)))
    staged = np.array(["+" in name for name in codecs])
    for entry in spec.codec_accuracy:
        if entry.codec == _TELLING and entry.bytes_per_sample:
            shape = (1, *spec.split_points[entry.split_point].shape)
            base = codec.get(_TELLING.partition("+")[0]).estimate_bytes(shape)
            least[entry.split_point, staged] = min(entry.bytes_per_sample / base, 1.0)
    return least


@lru_cache(maxsize=64)
def _codec_costs(measured: Same[tuple[CodecCost, ...]], codecs: Names) -> _CodecCosts:
    found = {cost.codec: cost for cost in measured.value}
    costs = [found.get(name) for name in codecs]
    return _CodecCosts(
        np.array([c.encode_seconds_per_byte if c else 0.0 for c in costs]),
        np.array([c.decode_seconds_per_byte if c else 0.0 for c in costs]),
        np.array([c.ratio if c else np.nan for c in costs]),
        np.array([_stage(name, found) for name in codecs]),
    )


def _stage(name: str, costs: dict[str, CodecCost]) -> float:
    base = name.partition("+")[0]
    if name == base:
        return 1.0
    known = name in costs and base in costs and costs[base].ratio > 0
    return costs[name].ratio / costs[base].ratio if known else np.nan


@lru_cache(maxsize=64)
def _sizes(of_wire: Same[_Wire], of_sender: Same[_CodecCosts]) -> Array:
    """Bytes of a sample [S, C], not to be written to: measured there; else exact before the lossless stage, times what
    that stage makes of it on the sender, or at least there; of an image file, by the sender's ratio; else estimated
    from the shape.

    A codec's own ratio would mislead away from where it was measured: ranges outweigh the levels of small maps.
    """
    wire, sending = of_wire.value, of_sender.value
    by_ratio = np.where(np.isnan(wire.plain), sending.ratio * wire.fp32, np.nan)
    staged = wire.plain * np.maximum(sending.stage, wire.least)
    return _first_known(wire.measured, staged, by_ratio, wire.estimated)


def _first_known(*choices: Array) -> Array:
    found = choices[0]
    for choice in choices[1:]:
        found = np.where(np.isnan(found), choice, found)
    return found


def _link(link: LinkEstimate | None) -> tuple[float, float]:
    """Seconds of a round trip and per byte; infinite, 0 where either is unknown: neither fast nor slow."""
    if link is None or link.rtt_seconds is None or (link.up_bytes_per_second or 0.0) <= 0:
        return np.inf, 0.0
    return link.rtt_seconds, 1 / (link.up_bytes_per_second or np.inf)
