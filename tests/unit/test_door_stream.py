"""A stream of the public door whose client is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.observing import Observers
from services.open_inference import messages
from services.open_inference.stream import Stream


class Gone:
    """A context of gRPC whose client hung up before the answer was written."""

    writes = 0

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, message: Any) -> None:
        self.writes += 1
        raise grpc.aio.InternalError('Failed "execute_batch"')


async def test_an_answer_that_nobody_takes_is_no_fault_of_the_tier() -> None:
    async def requests() -> AsyncIterator[Any]:
        for name in ("a", "b"):
            yield messages.ModelInferRequest(id=name)

    async def infer(request: Any, early: Any) -> Any:
        early(messages.ModelInferResponse(id=request.id))
        return messages.ModelInferResponse(id=request.id)

    context = Gone()
    await Stream(infer, context, Observers([])).run(requests())  # type: ignore[arg-type]
    assert context.writes == 4
