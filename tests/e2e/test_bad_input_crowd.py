"""Many large messages at once, and senders that stall: a tier's memory stays bounded, and others are served."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from services.channels import channel_options
from tests.calls import PATIENCE, TIER
from tests.e2e.bad_input import LIMIT, padded
from tests.e2e.bad_tier import good
from tests.e2e.test_bad_input_tier import essence
from tests.processes import Child, child

INFER = f"/{TIER}/Infer"
MEMORY = 256 << 20
"""Bytes that the tier is told it may take: an eighth of it for messages, eight of them side by side."""
LARGEST = MEMORY // 64
CROWD = 48


@pytest.fixture(scope="module")
def edge(tiny: Path) -> Iterator[Child]:
    given = ("--memory-bytes", str(MEMORY), "--max-message-bytes", str(LIMIT), "--deadline-seconds", "4")
    with child("edge_node", tiny, *given) as tier:
        yield tier


def connected(address: str, number: int) -> grpc.Channel:
    """A connection of its own, as another device has one."""
    return grpc.insecure_channel(address, [*channel_options(4 * LIMIT), ("grpc.channel_id", number)])


@pytest.fixture
def link(edge: Child) -> Iterator[str]:
    """A link to the edge that all share, so that what they send arrives side by side, a little of each at a time."""
    given = ("--listen", "127.0.0.1:0", "--target", edge.address, "--rate", "800mbit", "--rtt", "10ms")
    command = [sys.executable, "-m", "testbed.links", *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
        process.kill()


def test_a_crowd_of_large_messages_is_answered_within_the_memory_there_is(edge: Child, link: str) -> None:
    small = good().SerializeToString()
    large = small + padded(LARGEST - len(small) - 16)()
    with ExitStack() as stack, ThreadPoolExecutor(CROWD) as callers:
        channels = [stack.enter_context(connected(link, number)) for number in range(CROWD)]
        calls = [channel.unary_unary(INFER) for channel in channels]
        first, held = essence(calls[0](small, timeout=PATIENCE)), edge.held_bytes()
        edge.forget_peak()
        answers = list(callers.map(lambda call: call(large, timeout=PATIENCE), calls))
        assert {essence(answer) for answer in answers} == {first}
    assert edge.peak_bytes() - held < 3 * MEMORY // 4 <= CROWD * LARGEST


@pytest.fixture
def impatient(tiny: Path) -> Iterator[Child]:
    """An edge that gives a message one second to arrive."""
    given = ("--memory-bytes", str(MEMORY), "--max-message-bytes", str(LIMIT), "--deadline-seconds", "1")
    with child("edge_node", tiny, *given) as tier:
        yield tier


def test_senders_that_stall_keep_nobody_waiting_longer_than_a_request_may_take(impatient: Child) -> None:
    """More of them than there is room for: each holds its place until its time is over, then the others go on."""
    over = threading.Event()

    def never() -> Iterator[bytes]:
        over.wait(PATIENCE)
        yield from ()

    with ExitStack() as stack:
        stalled = []
        for number in range(12):
            channel = stack.enter_context(connected(impatient.address, number))
            stalled.append(channel.stream_unary(INFER).future(never(), timeout=PATIENCE))
        answer = stack.enter_context(connected(impatient.address, 99)).unary_unary(INFER)(
            good().SerializeToString(), timeout=PATIENCE
        )
        assert essence(answer)
        told = [each.exception().code() for each in stalled]
        over.set()
    assert set(told) == {grpc.StatusCode.DEADLINE_EXCEEDED}


def test_a_call_that_brings_no_message_is_refused(edge: Child) -> None:
    with connected(edge.address, 0) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(INFER)(iter(()), timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
