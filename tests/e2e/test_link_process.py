"""An emulated link as a process of its own, and its control door."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from testbed.links import format_address
from tests.e2e.test_link_sockets import PATIENCE, ROOT, receive


@contextmanager
def a_process(target: tuple[str, int], *more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [
        sys.executable,
        "-m",
        "testbed.links",
        "--listen",
        "127.0.0.1:0",
        "--target",
        format_address(target),
    ]
    command += ["--rate", "20mbit", "--control", "127.0.0.1:0", *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def ask(
    control: str, method: str, path: str, body: str | Iterator[bytes] | None = None
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(control, timeout=PATIENCE)
    try:
        with suppress(BrokenPipeError):  # refused before it was sent whole: the answer says why
            connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_process_carries_and_ends_on_sigterm_with_exit_code_0() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        a_process(listener.getsockname(), "--rtt", "10ms") as (process, ready),
    ):
        assert ready["event"] == "listening"
        host, port = ready["address"].rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            listener.settimeout(PATIENCE)
            target, _ = listener.accept()
            with target:
                client.sendall(b"hello")
                assert receive(target, 5) == b"hello"
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0


def test_a_process_is_changed_through_its_control_door() -> None:
    with a_process(("127.0.0.1", 1), "--rtt", "10ms") as (_, ready):
        assert ask(ready["control"], "GET", "/health") == (200, {"status": "ok"})
        status, link = ask(ready["control"], "PUT", "/link", '{"down": {"delay": "7ms"}}')
        assert (status, link["down"]) == (200, {"rate": "20mbit", "delay": "7ms", "jitter": "0ms"})
        up = ask(ready["control"], "GET", "/link")[1]["up"]
        assert up == {"rate": "20mbit", "delay": "5ms", "jitter": "0ms"}


def test_the_control_door_refuses_what_it_cannot_do() -> None:
    with a_process(("127.0.0.1", 1)) as (_, ready):
        refused: list[tuple[int, str, str, str | Iterator[bytes] | None]] = [
            (400, "PUT", "/link", "{"),
            (400, "PUT", "/link", '{"rate": "trace:../../etc/passwd"}'),
            (404, "PUT", "/other", "{}"),
            (404, "GET", "/../link", None),
            (400, "PUT", "/link", None),
            (411, "PUT", "/link", iter([b"{}"])),
            (413, "PUT", "/link", " " * 70_000),
        ]
        for status, method, path, body in refused:
            got, answer = ask(ready["control"], method, path, body)
            assert got == status
            assert isinstance(answer["error"], str)


def test_a_port_that_is_taken_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = format_address(taken.getsockname())
        command = [
            sys.executable,
            "-m",
            "testbed.links",
            "--listen",
            where,
            "--target",
            where,
            "--rate",
            "1mbit",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
