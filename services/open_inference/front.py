"""What stands behind the public door: something that answers samples, on whichever tier it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from services.domain import Deadline, FloatArray, Plan, Response
from services.tier import TierRuntime


@dataclass(frozen=True, slots=True)
class Answer:
    """What the public door returns: the request's id, the plan it travelled by, and the response."""

    request_id: str
    plan: Plan
    response: Response


class Front(Protocol):
    """Answers float32 [N, *input shape]. `thresholds` overrides the bundle's, one per exit."""

    runtime: TierRuntime

    async def infer(
        self,
        samples: FloatArray,
        deadline: Deadline,
        request_id: str = "",
        thresholds: tuple[float, ...] | None = None,
        arrived: float | None = None,
    ) -> Answer: ...
