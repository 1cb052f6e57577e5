"""Requests of one message that want the same are run as one request: whatever one costs besides its run is then shared.

Only short runs are merged, on the tier that ends their plans, so that nobody waits for another longer than it would
have waited for its turn. Those of one message are one caller's: what one of them holds can harm nobody else's. Each
keeps its id, its checks, its line and its counts; where anything goes wrong, each is run on its own, and tells its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from services import codec, trace_context, wire
from services.batcher import INLINE_SECONDS
from services.domain import Payload, Plan, Predictions, Request, Response
from services.errors import OfframpError
from services.framing import Framed
from services.guard import MAX_REQUEST_ID
from services.observing import Finished, Observers
from services.serving import Models, Served

PATIENCE_SECONDS = 0.1
"""A request with less time left runs alone: none may end late, or by half, for the sake of another."""
TOGETHER_SECONDS = 0.002
"""What the samples of one run may take one by one, all together."""

Call = tuple[int, Framed]
Key = tuple[object, ...]
Read = Callable[[Framed, Served], Request]
"""Checks and decodes one request."""


class Apart(Exception):
    """These cannot run as one; each is to be run on its own."""


class Merging:
    """Finds what can run as one, and runs it. max_batch: samples of one request."""

    def __init__(self, models: Models, max_batch: int, read: Read, observers: Observers):
        self._models = models
        self._max_batch = max_batch
        self._read = read
        self._observers = observers

    def groups(self, calls: Sequence[Call]) -> Iterator[Sequence[Call]]:
        """`calls`, all of them, in groups that can run as one; most are alone where nothing is alike."""
        if len(calls) == 1:
            yield calls
            return
        alike: dict[Key, list[Call]] = {}
        for call in calls:
            alike.setdefault(_key(call), []).append(call)
        for found in alike.values():
            most = self._most(found[0][1]) if len(found) > 1 else 1
            yield from (found[at : at + most] for at in range(0, len(found), most))

    async def answer(self, group: Sequence[Framed], arrived: float) -> list[bytes]:
        """Runs several as one: their replies, serialised, in their order. Raises Apart, and nothing has happened."""
        try:
            served = self._models.by_hash(group[0].header.model_hash)
            least = min(framed.header.remaining_seconds for framed in group)
            if served.limiter.room < len(group) or 0 < least < served.limiter.wait():
                raise Apart
            with served.limiter.admit(places=len(group)):
                whole = self._whole(group, served)
                response = await served.runtime.infer(whole, arrived)
        except Exception:
            raise Apart from None
        if response.predictions.reasons.any():
            raise Apart
        samples = group[0].activation.shape[0]
        ends = range(samples, samples * len(group) + 1, samples)
        for framed, end in zip(group, ends, strict=True):
            part = _rows(response.predictions, end - samples, end)
            self._observers.answered(_finished(framed, served, whole.plan, response, part))
        return wire.replies(response, ends)

    def _whole(self, group: Sequence[Framed], served: Served) -> Request:
        """One request with the samples of all, and the nearest of their deadlines; raises what one of them would."""
        if max(len(framed.header.request_id) for framed in group) > MAX_REQUEST_ID:
            raise Apart
        nearest = min(group, key=lambda framed: framed.header.remaining_seconds or math.inf)
        request = self._read(nearest, served)
        first = wire.payload_from_pb(nearest.activation, b"")
        by = codec.at(first.codec, request.at, served.manifest.input.preprocessing)
        payloads = (
            Payload(first.shape, first.codec, each.payload, each.activation.parameters, each.activation.crc32c)
            for each in group
        )
        return replace(request, activation=by.decode_all(payloads), traceparent="")

    def _most(self, framed: Framed) -> int:
        """How many requests like this one are worth running as one."""
        header, samples = framed.header, max(framed.activation.shape[0], 1) if framed.activation.shape else 1
        try:
            served, plan = self._models.by_hash(header.model_hash), wire.plan_from_pb(header.plan)
        except OfframpError:
            return 1  # alone, it will say what is wrong with it
        runtime = served.runtime
        stage = plan.stage(runtime.tier)
        if runtime.batcher.batching.max_batch_size == 1:  # the settings say: never
            return 1
        if stage is None or plan.after(runtime.tier) or not runtime.model.resident(stage.segment):
            return 1
        seconds = runtime.profiler.expected(stage.segment, 1)
        if seconds is None or seconds >= INLINE_SECONDS:
            return 1
        limit = min(self._max_batch, served.manifest.input.max_batch or sys.maxsize, int(TOGETHER_SECONDS / seconds))
        return max(min(limit // samples, served.limiter.room), 1)


def _key(call: Call) -> Key:
    """What is equal in requests that can run as one; all there is to check of one of them was then checked of all."""
    number, framed = call
    header, activation = framed.header, framed.activation
    seconds = header.remaining_seconds
    if seconds and not seconds >= PATIENCE_SECONDS:
        return (number,)
    return (
        header.model_hash,
        header.plan.SerializeToString(),
        header.at,
        tuple(header.thresholds),
        tuple(activation.shape),
        activation.codec,
        activation.dtype,
    )


def _rows(whole: Predictions, start: int, end: int) -> Predictions:
    rows = slice(start, end)
    return Predictions(
        whole.scores[rows], whole.confidences[rows], whole.exits[rows], whole.tiers[rows], whole.reasons[rows]
    )


def _finished(framed: Framed, served: Served, plan: Plan, whole: Response, part: Predictions) -> Finished:
    """How one of them ended: with its own answers, in the time that all took."""
    response = Response(part, whole.trace, whole.profiles, whole.links)
    header = framed.header
    given = trace_context.accepted(header.traceparent)
    return Finished(header.request_id, served.runtime.tier, served.manifest, plan, response, given)
