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
from services.domain import DegradedReason, Plan, Predictions, Tier
from services.errors import InvalidInput
from services.front import Answer
from services.open_inference import messages

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


def shapes(manifest: Manifest) -> dict[str, list[int]]:
    """The shape of one sample's row of each output."""
    return {name: [] for name in OUTPUTS} | {"scores": [len(manifest.labels)], "exit_confidence": [1]}


def wanted(request: Any) -> list[str]:
    """The outputs asked for, in their order, each once; all of them where none is. Raises InvalidInput."""
    if len(request.outputs) > len(OUTPUTS):
        raise InvalidInput(f"{len(request.outputs)} outputs are asked for; there are {len(OUTPUTS)}")
    names = list(dict.fromkeys(output.name for output in request.outputs)) or list(OUTPUTS)
    for output in request.outputs:
        if not _NOT_OFFERED.isdisjoint(output.parameters):
            raise InvalidInput(f"outputs take none of the parameters {', '.join(sorted(_NOT_OFFERED))}; leave them out")
    for name in names:
        if name not in OUTPUTS:
            raise InvalidInput(f"no output is called {name[:60]!r}; there are {', '.join(OUTPUTS)}")
    return names


def reply(manifest: Manifest, answer: Answer, outputs: list[str], trace: bool = False) -> Any:
    """The ModelInferResponse of an answer."""
    answers = answer.response.predictions
    message = messages.ModelInferResponse(
        model_name=manifest.name, model_version=manifest.version, id=answer.request_id
    )
    for name in outputs:
        array = _ARRAYS[name](answers)
        message.outputs.add(name=name, datatype=OUTPUTS[name], shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    _describe(message.parameters, manifest, answer)
    if trace:
        message.parameters["trace"].string_param = trace_json(answer)
    return message


def _describe(parameters: Any, manifest: Manifest, answer: Answer) -> None:
    """What holds for the whole request: of a batch, the furthest exit and tier, and the worst reason."""
    answers = answer.response.predictions
    furthest, reason = max(answers.exits.tolist()), DegradedReason(max(answers.reasons.tolist()))
    parameters["tier"].string_param = Tier(max(answers.tiers.tolist())).label
    parameters["exit_index"].int64_param = furthest
    parameters["exit_name"].string_param = manifest.exits[furthest].name
    parameters["degraded"].bool_param = reason is not DegradedReason.NONE
    parameters["degraded_reason"].string_param = reason.label
    parameters["plan"].string_param = _written(answer.plan)
    parameters["request_id"].string_param = answer.request_id


@functools.lru_cache(maxsize=256)
def _written(plan: Plan) -> str:
    """Many requests share a plan."""
    return str(plan)


def trace_json(answer: Answer) -> str:
    """The Trace and the links as JSON: `hops`, nearest first, in seconds and bytes; `links`, unknowns null.

    `expected_seconds`: what the planner expected of the plan, null where it was fixed.
    """
    hops = [asdict(hop) | {"tier": hop.tier.label} for hop in answer.response.trace.hops]
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
