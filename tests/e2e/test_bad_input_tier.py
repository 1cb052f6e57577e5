"""Everything a lower tier can get wrong, either way: what it is told, and a tier that goes on as if nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import PATIENCE, TIER
from tests.e2e.bad_input import Asked, Wrong, alone, asking_a, check
from tests.e2e.bad_stream import on_a_stream
from tests.e2e.bad_tier import ODD, WRONG, good


def essence(reply: bytes) -> object:
    """The answer of an InferReply, without its times."""
    return pb.InferReply.FromString(reply).predictions.SerializeToString(deterministic=True)


@pytest.fixture(scope="module", params=["Infer", "Exchange"])
def edge(tiny: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Asked, object, int]]:
    way = {"Infer": alone, "Exchange": on_a_stream}[request.param]
    with asking_a("edge_node", tiny, f"{TIER}/{request.param}", good().SerializeToString(), essence, way) as asked:
        yield asked


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.id)
def test_the_edge_refuses(edge: tuple[Asked, object, int], wrong: Wrong) -> None:
    check(edge, wrong)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.id)
def test_the_edge_takes(edge: tuple[Asked, object, int], odd: Wrong) -> None:
    asked, first, _ = edge
    assert essence(asked.method(odd.body(), timeout=PATIENCE)) == first
