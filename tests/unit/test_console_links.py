"""The console's client of the emulated links' control API, against a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from device_agent.console.links import LinkControls
from services.errors import InvalidInput, UpstreamUnavailable
from testbed.link_control import serve_control
from testbed.links import EmulatedLink, symmetric


@pytest.fixture
def link() -> Iterator[EmulatedLink]:
    with EmulatedLink(("127.0.0.1", 0), ("127.0.0.1", 9), *symmetric(2.5e6, 0.01)) as running:
        yield running


@pytest.fixture
def address(link: EmulatedLink) -> Iterator[str]:
    with ExitStack() as stack:
        yield "{}:{}".format(*stack.enter_context(serve_control(link, ("127.0.0.1", 0))))


async def test_how_a_link_is_set_is_read(address: str) -> None:
    async with LinkControls([address]) as controls:
        assert await controls.read() == [
            {"bytes_per_second": 2.5e6, "rtt_seconds": pytest.approx(0.01), "carrying": True, "label": "20mbit"}
        ]


async def test_a_link_is_changed_in_what_was_named_only(address: str, link: EmulatedLink) -> None:
    async with LinkControls([f"http://{address}/"]) as controls:
        changed = await controls.change(0, {"bits_per_second": 1e6})
        assert (changed["bytes_per_second"], changed["rtt_seconds"]) == (125_000, pytest.approx(0.01))
        changed = await controls.change(0, {"rtt_seconds": 0.08, "carrying": False})
    assert (changed["rtt_seconds"], changed["carrying"]) == (pytest.approx(0.08), False)
    assert changed["bytes_per_second"] == 125_000
    assert not link.carrying


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"bits_per_second": 0},
        {"bits_per_second": 1e12},
        {"bits_per_second": float("nan")},
        {"bits_per_second": True},
        {"bits_per_second": "fast"},
        {"rtt_seconds": -1},
        {"rtt_seconds": 11},
        {"carrying": 1},
        {"jitter": "1ms"},
    ],
)
async def test_what_no_link_could_be_is_refused_before_it_is_sent(wanted: dict[str, object]) -> None:
    async with LinkControls(["127.0.0.1:1"]) as controls:
        with pytest.raises(InvalidInput):
            await controls.change(0, wanted)


async def test_a_link_that_is_not_there_is_refused(address: str) -> None:
    async with LinkControls([address]) as controls:
        with pytest.raises(InvalidInput, match="numbered from 0; not 1"):
            await controls.change(1, {"carrying": True})


async def test_a_link_that_does_not_answer_is_unknown_and_cannot_be_changed(address: str) -> None:
    async with LinkControls(["127.0.0.1:1", address]) as controls:
        dead, alive = await controls.read()
        assert dead is None
        assert alive is not None
        with pytest.raises(UpstreamUnavailable, match="does not answer"):
            await controls.change(0, {"carrying": True})
