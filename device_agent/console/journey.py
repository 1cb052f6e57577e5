"""One picture's journey: answered as any request is, and beside it what every part of the network made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from device_agent.console import pictures
from device_agent.console.pictures import Pixels
from device_agent.console.state import condition
from services import codec, exits, images
from services.bundle import Manifest
from services.domain import FloatArray, Plan, Segment, Stage, Tier
from services.errors import InvalidInput, OfframpError
from services.front import Answer
from services.model import SegmentOutput

Json = dict[str, Any]
T = TypeVar("T")

DISPLAY_SECONDS = 20.0
_BEST = 5


class Runs(Protocol):
    """The network, as `services.model.Model` runs it."""

    manifest: Manifest

    def run(self, piece: Segment, tensor: FloatArray) -> SegmentOutput: ...


class Asks(Protocol):
    """Sends a request on its way, as the public door does."""

    async def ask(self, samples: FloatArray, request_id: str) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Step:
    """The activation [1, …] at a split point, and what crossed a link there, if one did."""

    split_point: int
    tier: Tier
    activation: FloatArray
    codec: str | None = None
    nbytes: int | None = None
    confidence: float | None = None
    label: int | None = None


class Journeys:
    """Takes pictures through the tiers, one at a time for display: showing is not worth more of this machine."""

    def __init__(self, model: Runs, asks: Asks):
        self._model, self._asks = model, asks
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="journey")

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def of(self, data: bytes, request_id: str, drawn: bool = False) -> Json:
        """The journey of an uploaded picture. Raises InvalidInput for one that cannot be used, and what `ask` does."""
        shape = images.image_shape(self._model.manifest.input)
        if shape is None:
            raise InvalidInput("this model does not take pictures; send it arrays through its public door")
        pixels = await self._off_the_loop(pictures.read, data, shape, drawn)
        return await self.of_pixels(pixels, request_id)

    async def of_pixels(self, pixels: Pixels, request_id: str) -> Json:
        """The journey of uint8 [1, H, W, C]."""
        samples = images.preprocess(pixels, self._model.manifest.input)
        answer = await self._asks.ask(samples, request_id)
        return await self._off_the_loop(_shown, self._model, pixels, samples, answer)

    async def _off_the_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)
        try:
            return await asyncio.wait_for(running, DISPLAY_SECONDS)
        except TimeoutError:
            raise OfframpError("showing this took too long; try again when there is less to do") from None


def _shown(model: Runs, pixels: Pixels, samples: FloatArray, answer: Answer) -> Json:
    manifest, predictions = model.manifest, answer.response.predictions
    left_at = manifest.exits[int(predictions.exits[0])]
    scores = predictions.scores[0]
    best = scores.argsort()[::-1][:_BEST]
    return {
        "id": answer.request_id,
        "plan": str(answer.plan),
        "input": pictures.data_url(pixels[0]),
        "label": manifest.labels[int(scores.argmax())],
        "confidence": float(predictions.confidences[0]),
        "exit": left_at.index,
        "tier": Tier(int(predictions.tiers[0])).label,
        "degraded": bool(predictions.reasons[0]),
        "seconds": answer.response.trace.seconds,
        "scores": [{"label": manifest.labels[i], "score": float(scores[i])} for i in best.tolist()],
        "steps": [_step(each, manifest, left_at.split_point) for each in steps(model, samples, answer.plan)],
    }


def steps(model: Runs, samples: FloatArray, plan: Plan) -> list[Step]:
    """What the network makes of one sample [1, …] at the exits and where `plan` cuts, codecs of its hops included.

    All the way to the end, whichever exit answered: what the rest would have said is worth seeing, too.
    """
    manifest, tensor = model.manifest, samples
    outlets = {spec.split_point: spec for spec in manifest.exits}
    found = [_crossed(Step(0, Tier.DEVICE, tensor), plan, manifest)]
    edges = sorted({0, manifest.last, *outlets, *(stage.segment.end for stage in plan.stages)})
    for start, end in pairwise(edges):
        activation, logits = model.run(Segment(start, end), found[-1].activation)
        step = Step(end, _runs(plan, start).tier, activation)
        if logits is not None and end in outlets:
            scores = exits.softmax(logits, outlets[end].temperature)
            sure = float(exits.confidence(scores, manifest.confidence)[0])
            step = Step(end, step.tier, activation, confidence=sure, label=int(scores[0].argmax()))
        found.append(_crossed(step, plan, manifest))
    return found


def _runs(plan: Plan, split_point: int) -> Stage:
    """The stage that computes what follows `split_point`."""
    return next(stage for stage in plan.stages if stage.segment.start <= split_point < stage.segment.end)


def _crossed(step: Step, plan: Plan, manifest: Manifest) -> Step:
    """The step behind the hops at its split point: what the next tier gets is what the codec leaves of it."""
    activation, name, nbytes = step.activation, step.codec, step.nbytes
    for stage in plan.stages[1:]:
        if stage.segment.start == step.split_point < manifest.last:
            chosen = codec.at(stage.codec, step.split_point, manifest.input.preprocessing)
            payload = chosen.encode(activation)
            activation, name, nbytes = chosen.decode(payload), stage.codec, payload.nbytes
    return Step(step.split_point, step.tier, activation, name, nbytes, step.confidence, step.label)


def _step(step: Step, manifest: Manifest, left_at: int) -> Json:
    spec = next((each for each in manifest.exits if each.split_point == step.split_point), None)
    said = None
    if spec is not None and step.confidence is not None and step.label is not None:
        said = {
            "index": spec.index,
            "name": spec.name,
            "confidence": step.confidence,
            "label": manifest.labels[step.label],
        } | condition(spec, manifest)
    channels = step.activation.shape[1]
    return {
        "split_point": step.split_point,
        "shape": step.activation.shape[1:],
        "tier": step.tier.label,
        "travelled": step.split_point <= left_at,
        "codec": step.codec,
        "bytes": step.nbytes,
        "channels": channels,
        "tiles": [pictures.data_url(tile) for tile in pictures.tiles(step.activation[0])],
        "exit": said,
    }
