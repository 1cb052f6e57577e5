"""What becomes of a question to the next tier whose connection is closed meanwhile, or whose asker leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.connection import Connection, Silence
from services.domain import Tier


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Connection, asyncio.Task[object]]]:
    """A connection to where nobody ever answers, and a question that is under way on it."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        connection = Connection(Tier.DEVICE, f"127.0.0.1:{deaf.getsockname()[1]}")
        question: asyncio.Task[object] = asyncio.create_task(connection.describe(30.0))
        try:
            await asyncio.sleep(0)
            yield connection, question
        finally:
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)
            await connection.close()


async def test_a_question_on_a_connection_that_is_closed_ends_in_silence_and_not_as_if_its_asker_had_left() -> None:
    async with asked() as (connection, question):
        await connection.close()
        with pytest.raises(Silence, match="no longer where it was asked"):
            await question


async def test_who_leaves_while_a_question_is_asked_is_not_kept() -> None:
    async with asked() as (_, question):
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
