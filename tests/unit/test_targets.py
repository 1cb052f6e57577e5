"""What a target says: addresses, or a name for them."""

from __future__ import annotations

import pytest

from services import targets
from services.targets import Name


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("edge:8001", ("edge:8001",)),
        ("edge:8001, other:8001", ("edge:8001", "other:8001")),
        ("edge:8001,edge:8001,", ("edge:8001",)),
        ("ipv4:10.0.0.1:80,10.0.0.2:80", ("ipv4:10.0.0.1:80,10.0.0.2:80",)),
        ("unix:/run/edge", ("unix:/run/edge",)),
        ("dns:///edges:8001", Name("edges", 8001)),
        ("dns:edges:8001", Name("edges", 8001)),
        ("dns:///[::1]:8001", Name("::1", 8001)),
    ],
)
def test_targets_are_read(target: str, expected: tuple[str, ...] | Name) -> None:
    assert targets.parse(target) == expected


@pytest.mark.parametrize(
    "target",
    ["edge:8001", "a:1,b:2", "[::1]:8001", "dns:///edges:8001", "unix:/run/edge", "ipv4:10.0.0.1:80,10.0.0.2:80"],
)
def test_a_target_that_can_be_called_is_taken(target: str) -> None:
    targets.check(target)


async def test_a_name_is_all_its_addresses_with_the_port() -> None:
    found = await targets.addresses(Name("localhost", 8001))
    assert found
    assert found <= {"127.0.0.1:8001", "[::1]:8001"}


async def test_a_name_that_is_none_is_no_address() -> None:
    assert await targets.addresses(Name("no..name", 1)) == frozenset()
