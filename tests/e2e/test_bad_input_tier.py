"""Everything a lower tier can get wrong: what it is told, and a tier that goes on as if nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import PATIENCE, TIER
from tests.e2e.bad_input import Asked, Wrong, asking_a, check
from tests.e2e.bad_tier import ODD, WRONG, good


def essence(reply: bytes) -> object:
    """The answer of an InferReply, without its times."""
    return pb.InferReply.FromString(reply).predictions.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def edge(tiny: Path) -> Iterator[tuple[Asked, object, int]]:
    with asking_a("edge_node", tiny, f"{TIER}/Infer", good().SerializeToString(), essence) as asked:
        yield asked


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.id)
def test_the_edge_refuses(edge: tuple[Asked, object, int], wrong: Wrong) -> None:
    check(edge, wrong)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.id)
def test_the_edge_takes(edge: tuple[Asked, object, int], odd: Wrong) -> None:
    asked, first, _ = edge
    assert essence(asked.method(odd.body(), timeout=PATIENCE)) == first
