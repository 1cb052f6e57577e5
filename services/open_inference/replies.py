"""Answers as the public door's messages. Always raw, with parameters only of kinds that every client knows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from services.bundle import Manifest
from services.domain import DegradedReason, Plan, Tier
from services.errors import InvalidInput
from services.front import Answer
from services.open_inference import messages
from services.response import Predictions

OUTPUTS = {
    "scores": "FP32",
    "label": "INT64",
    "exit_confidence": "FP32",
    "exit_index": "INT64",
    "tier_index": "INT64",
    "degraded": "BOOL",
}
_NOT_OFFERED = {"classification", "shared_memory_region"}
"""Extensions that change what an output is: passing over them would answer something else than was asked."""

FINAL = "triton_final_response"


def shapes(classes: int) -> dict[str, list[int]]:
    """The shape of one sample's row of each output, of a network of so many classes."""
    return {name: [] for name in OUTPUTS} | {"scores": [classes], "exit_confidence": [1]}


def wanted(request: Any) -> list[str]:
    """The outputs asked for, in their order, each once; all of them where none is. Raises InvalidInput."""
    if len(request.outputs) > len(OUTPUTS):
        raise InvalidInput(f"{len(request.outputs)} outputs are asked for; there are {len(OUTPUTS)}")
    names: dict[str, None] = {}
    for output in request.outputs:
        name = output.name
        if name not in OUTPUTS:
            raise InvalidInput(f"no output is called {name[:60]!r}; there are {', '.join(OUTPUTS)}")
        if not _NOT_OFFERED.isdisjoint(output.parameters):
            raise InvalidInput(f"outputs take none of the parameters {', '.join(sorted(_NOT_OFFERED))}; leave them out")
        names[name] = None
    return list(names or OUTPUTS)


def reply(manifest: Manifest, answer: Answer, outputs: list[str], trace: bool = False) -> Any:
    """The ModelInferResponse of an answer."""
    answers = answer.response.predictions
    message = messages.ModelInferResponse()
    message.MergeFromString(_described(manifest, answer))
    message.MergeFromString(_shaped(tuple(outputs), *answers.scores.shape))
    message.id = message.parameters["request_id"].string_param = answer.request_id
    message.raw_output_contents.extend([_ARRAYS[name](answers).tobytes() for name in outputs])
    if trace:
        message.parameters["trace"].string_param = trace_json(answer)
    return message


def _described(manifest: Manifest, answer: Answer) -> bytes:
    """What holds for the whole request: of a batch, the furthest exit and tier, and the worst reason."""
    answers = answer.response.predictions
    furthest = max(answers.exits.tolist())
    about = max(answers.tiers.tolist()), furthest, max(answers.reasons.tolist())
    return _written(manifest.name, manifest.version, manifest.exits[furthest].name, answer.plan, *about)


@functools.lru_cache(maxsize=256)
def _written(model: str, version: str, exit_name: str, plan: Plan, tier: int, exit_index: int, reason: int) -> bytes:
    """What many answers have in common, as it crosses the wire: putting it in costs less than writing it anew."""
    message = messages.ModelInferResponse(model_name=model, model_version=version)
    given = message.parameters
    given["tier"].string_param = Tier(tier).label
    given["exit_index"].int64_param = exit_index
    given["exit_name"].string_param = exit_name
    given["degraded"].bool_param = reason != DegradedReason.NONE
    given["degraded_reason"].string_param = DegradedReason(reason).label
    given["plan"].string_param = str(plan)
    written: bytes = message.SerializeToString()
    return written


@functools.lru_cache(maxsize=256)
def _shaped(outputs: tuple[str, ...], count: int, classes: int) -> bytes:
    """What says of `outputs` how to read them, for so many samples, as it crosses the wire."""
    message, rows = messages.ModelInferResponse(), shapes(classes)
    for name in outputs:
        message.outputs.add(name=name, datatype=OUTPUTS[name], shape=[count, *rows[name]])
    written: bytes = message.SerializeToString()
    return written


def trace_json(answer: Answer) -> str:
    """The Trace and the links as JSON: `hops`, nearest first, in seconds and bytes; `links`, unknowns null.

    `expected_seconds`: what the planner expected of the plan, null where it was fixed.
    """
    hops = [hop._asdict() | {"tier": hop.tier.label} for hop in answer.response.trace.hops]
    links = [asdict(link) | {"source": link.source.label} for link in answer.response.links]
    whole = {"seconds": answer.response.trace.seconds, "expected_seconds": answer.plan.expected_seconds}
    return json.dumps(whole | {"hops": hops, "links": links})


_ARRAYS: dict[str, Callable[[Predictions], npt.NDArray[Any]]] = {
    "scores": lambda answers: answers.scores.astype("<f4", copy=False),
    "label": lambda answers: answers.labels.astype("<i8", copy=False),
    "exit_confidence": lambda answers: answers.confidences.astype("<f4", copy=False)[:, None],
    "exit_index": lambda answers: answers.exits.astype("<i8"),
    "tier_index": lambda answers: answers.tiers.astype("<i8"),
    "degraded": lambda answers: np.asarray(answers.reasons != 0),
}
