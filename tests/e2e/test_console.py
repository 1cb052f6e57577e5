"""A console on a real socket: what it serves, and whom it refuses."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from device_agent.console import safety
from device_agent.console.listeners import MAX_LISTENERS
from device_agent.console.server import ConsoleServer
from services.domain import Deadline
from services.errors import ModelNotReady, SettingsError
from testbed.link_control import serve_control
from testbed.links import EmulatedLink, symmetric
from tests.consoles import OURS, Served, console
from tests.networks import write_bundle

PICTURE = io.BytesIO()
Image.new("L", (16, 16), 90).save(PICTURE, "PNG")


async def test_the_page_and_all_it_asks_for_is_served_with_safe_headers(tiny: Path) -> None:
    async with console(tiny) as served:
        async with served.session.get(served.url) as reply:
            page = await reply.text()
            assert reply.status == 200
            assert {name: reply.headers[name] for name in safety.HEADERS} == safety.HEADERS
            assert "Server" not in reply.headers
        assert "http" not in page.replace("https://", "http").partition("<body>")[0].replace("http-equiv", "")
        for name in ("app.js", "uplot.js", "base.css", "icon.svg"):
            async with served.session.get(f"{served.url}/static/{name}") as reply:
                assert (reply.status, reply.headers["X-Content-Type-Options"]) == (200, "nosniff")


@pytest.mark.parametrize("path", ["/static/uplot.LICENSE.txt", "/static/..%2fserver.py", "/static/nothing.js", "/api"])
async def test_nothing_else_can_be_fetched_and_the_refusal_is_as_safe(tiny: Path, path: str) -> None:
    async with console(tiny) as served, served.session.get(served.url + path) as reply:
        assert reply.status == 404
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "error" in await reply.json()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
async def test_a_name_that_others_could_point_here_is_refused(tiny: Path, host: str, status: int) -> None:
    async with console(tiny) as served:
        assert (await served.ask("GET", "/api/state", headers={"Host": host}))[0] == status


@pytest.mark.parametrize("host", ["MyBox:8000", "mybox", "MYBOX"])
def test_this_machines_own_name_is_allowed_however_it_is_spelt(host: str) -> None:
    assert safety.allowed_host(host, {"MyBox"})
    assert not safety.allowed_host(host, {"other"})


async def test_a_request_of_the_page_that_is_refused_is_counted(tiny: Path) -> None:
    async with console(tiny) as served:
        served.view._limiter.warm = False
        with pytest.raises(ModelNotReady):
            await served.view.ask(np.zeros((1, 1, 8, 8), np.float32), "r")
        assert served.view.feed.total_refused == 1


async def test_another_sites_page_cannot_make_the_console_do_anything(tiny: Path) -> None:
    async with console(tiny) as served:
        for headers in ({}, OURS | {"Origin": "http://evil.example"}, OURS | {"Origin": "null"}):
            status, said = await served.ask("POST", "/api/journey", data=PICTURE.getvalue(), headers=headers)
            assert (status, said["error"][:4]) == (403, "only")
        assert served.view.feed.total == 0


async def test_without_a_testbed_nothing_can_be_changed(tiny: Path) -> None:
    async with console(tiny) as served:
        for method, path, body in (
            ("PUT", "/api/links/0", {"carrying": False}),
            ("POST", "/api/load", {"per_second": 1}),
        ):
            status, said = await served.ask(method, path, json=body)
            assert status == 400
            assert "link_control" in said["error"]


async def test_a_picture_travels_as_a_request_and_is_seen(tiny: Path) -> None:
    async with console(tiny) as served:
        status, found = await served.ask("POST", "/api/journey", data=PICTURE.getvalue())
        await asyncio.sleep(0)
        _, state = await served.ask("GET", "/api/state")
    assert (status, found["tier"]) == (200, "device")
    assert [request["id"] for request in state["requests"]] == [found["id"]]
    assert state["now"]["window"]["requests"] == 1


async def test_a_sample_travels_and_says_what_it_is(tiny: Path) -> None:
    async with console(tiny) as served:
        status, found = await served.ask("POST", "/api/journey?sample=3")
        assert (status, found["truth"] in "abcd") == (200, True)
        status, _ = await served.ask("POST", "/api/journey?sample=9999")
        assert status == 400
        async with served.session.get(f"{served.url}/api/samples/3") as reply:
            assert reply.content_type == "image/png"


@pytest.mark.parametrize(("body", "status"), [(b"no picture", 400), (b"0" * (9 << 20), 413)])
async def test_an_upload_that_cannot_be_is_refused_with_a_sentence(tiny: Path, body: bytes, status: int) -> None:
    async with console(tiny) as served:
        found, said = await served.ask("POST", "/api/journey", data=io.BytesIO(body))
    assert (found, "error" in said) == (status, True)


async def test_each_of_several_models_is_shown_for_itself(tiny: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", seed=1, name="other")
    async with console((tiny, other)) as served:
        await served.view.ask(np.zeros((1, 1, 8, 8), np.float32), "r")
        _, first = await served.ask("GET", "/api/state")
        _, second = await served.ask("GET", "/api/state?model=other:1")
        status, _ = await served.ask("GET", "/api/state?model=nothing")
    assert first["models"] == second["models"] == ["tiny:1", "other:1"]
    assert (len(first["requests"]), len(second["requests"])) == (1, 0)
    assert (second["model"]["name"], status) == ("other", 400)


async def events(served: Served, count: int) -> list[tuple[str, dict[str, object]]]:
    """The first `count` events."""
    found: list[tuple[str, dict[str, object]]] = []
    async with served.session.get(f"{served.url}/api/events") as reply:
        name = ""
        async for line in reply.content:
            if line.startswith(b"event: "):
                name = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                found.append((name, json.loads(line[6:])))
                if len(found) == count:
                    break
    return found


async def test_a_page_gets_everything_once_and_then_what_changes(tiny: Path) -> None:
    async with console(tiny) as served:
        listening = asyncio.create_task(events(served, 3))
        samples = np.zeros((1, 1, 8, 8), np.float32)
        while not listening.done():
            await served.view.ask(samples, "r")
            await asyncio.wait([listening], timeout=0.05)
        found = await listening
    assert found[0][0] == "whole"
    assert {"model", "now", "requests", "history"} <= found[0][1].keys()
    assert {name for name, _ in found[1:]} <= {"now", "requests"}


async def test_only_so_many_pages_may_listen(tiny: Path) -> None:
    async with console(tiny) as served:
        replies = [await served.session.get(f"{served.url}/api/events") for _ in range(MAX_LISTENERS)]
        status, said = await served.ask("GET", "/api/events")
        for reply in replies:
            reply.close()
    assert (status, "close one" in said["error"]) == (503, True)


async def test_stopping_ends_the_events_of_every_page(tiny: Path) -> None:
    async with console(tiny) as served:
        reply = await served.session.get(f"{served.url}/api/events")
        await reply.content.readline()
        await served.server.stop()
        assert b"event: whole" in await asyncio.wait_for(reply.content.read(), 10)


async def test_on_a_testbed_a_link_and_a_bounded_load_are_controlled(tiny: Path) -> None:
    with ExitStack() as stack:
        link = stack.enter_context(EmulatedLink(("127.0.0.1", 0), ("127.0.0.1", 9), *symmetric(2.5e6, 0.01)))
        control = "{}:{}".format(*stack.enter_context(serve_control(link, ("127.0.0.1", 0))))
        async with console(tiny, control) as served:
            status, changed = await served.ask("PUT", "/api/links/0", json={"bits_per_second": 1e6})
            assert (status, changed["bytes_per_second"]) == (200, 125_000)
            status, _ = await served.ask("POST", "/api/load", json={"per_second": 1e6, "seconds": 1})
            assert status == 400
            status, said = await served.ask("POST", "/api/load", json={"per_second": 10**400, "seconds": 1})
            assert (status, said["error"]) == (400, "per_second is beyond all bounds")
            status, said = await served.ask("POST", "/api/load", json={"per_second": 100, "seconds": 30})
            assert said["load"]["per_second"] == 100
            deadline = Deadline.after(20)
            while served.view.feed.total < 3 and deadline.remaining() > 0:
                await asyncio.sleep(0.01)
            assert served.view.feed.total >= 3
            assert (await served.ask("POST", "/api/load", json={"stop": True}))[1] == {"load": None}


async def test_a_port_that_is_taken_is_a_setting_that_cannot_work(tiny: Path) -> None:
    async with console(tiny) as served:
        second = ConsoleServer({"tiny:1": served.view})
        with pytest.raises(SettingsError, match=r"console_listen: .* cannot be used"):
            await second.start(served.url.removeprefix("http://"))
        await second.stop()


def test_a_console_that_is_off_imports_no_web_server() -> None:
    code = "import sys, device_agent.__main__; print('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
