"""Where metrics are served, and how calls are spelt there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest

from services.domain import Tier
from services.errors import SettingsError
from services.metrics import calls, endpoint
from services.metrics.endpoint import Endpoint
from services.metrics.requests import Metrics
from tests.scraping import total, values


@pytest.fixture
def served() -> Iterator[str]:
    metrics = Metrics(Tier.CLOUD, "0")
    door = Endpoint(metrics.registry)
    url = door.start("127.0.0.1:0")
    assert url is not None
    yield url
    door.close()


def test_the_endpoint_serves_a_page_that_parses(served: str) -> None:
    with urlopen(served, timeout=10) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        page = values(reply.read().decode())
    assert total(page, "offramp_build_info", version="0") == 1
    assert total(page, "process_open_fds") > 0
    assert not any(name.endswith("_created") for name, _ in page)


@pytest.mark.parametrize(("path", "method", "code"), [("/", "GET", 404), ("/metrics/x", "GET", 404)])
def test_the_endpoint_serves_nothing_else(served: str, path: str, method: str, code: int) -> None:
    url = served.removesuffix("/metrics") + path
    with pytest.raises(HTTPError) as error:
        urlopen(Request(url, method=method), timeout=10)
    assert error.value.code == code
    error.value.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_the_endpoint_takes_no_other_method(served: str, method: str) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(Request(served, method=method, data=b"" if method != "HEAD" else None), timeout=10)
    assert error.value.code == 501
    error.value.close()


def test_who_asks_byte_by_byte_does_not_keep_others_out(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_MOST_SECONDS", 0.5)
    host, port = served.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=0.1) as dripping:
        dripping.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        for _ in range(100):
            dripping.sendall(b"x")
            try:
                assert dripping.recv(1) == b""
                break
            except TimeoutError:
                continue
        else:
            raise AssertionError("it may drip for as long as it likes")


def test_silent_connections_do_not_pile_up(served: str) -> None:
    host, port = served.split("/")[2].split(":")
    silent = [socket.create_connection((host, int(port)), timeout=10) for _ in range(12)]
    try:
        closed = sum(not connection.recv(1) for connection in silent[4:])
        assert closed == 8
    finally:
        for connection in silent:
            connection.close()


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="--metrics-listen"):
            Endpoint(Metrics(Tier.EDGE, "0").registry).start(f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_dash_serves_nothing() -> None:
    endpoint = Endpoint(Metrics(Tier.EDGE, "0").registry)
    assert endpoint.start("-") is None
    endpoint.close()


def test_the_endpoint_leaves_its_port_and_thread_behind_it() -> None:
    endpoint = Endpoint(Metrics(Tier.EDGE, "0").registry)
    url = endpoint.start("127.0.0.1:0")
    assert url is not None
    address = url.split("/")[2]
    endpoint.close()
    again = Endpoint(Metrics(Tier.EDGE, "0").registry)
    assert again.start(address) == url
    again.close()


def test_go_spellings() -> None:
    assert {code: calls.go_name(code) for code in grpc.StatusCode} == {
        grpc.StatusCode.OK: "OK",
        grpc.StatusCode.CANCELLED: "Canceled",
        grpc.StatusCode.UNKNOWN: "Unknown",
        grpc.StatusCode.INVALID_ARGUMENT: "InvalidArgument",
        grpc.StatusCode.DEADLINE_EXCEEDED: "DeadlineExceeded",
        grpc.StatusCode.NOT_FOUND: "NotFound",
        grpc.StatusCode.ALREADY_EXISTS: "AlreadyExists",
        grpc.StatusCode.PERMISSION_DENIED: "PermissionDenied",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "ResourceExhausted",
        grpc.StatusCode.FAILED_PRECONDITION: "FailedPrecondition",
        grpc.StatusCode.ABORTED: "Aborted",
        grpc.StatusCode.OUT_OF_RANGE: "OutOfRange",
        grpc.StatusCode.UNIMPLEMENTED: "Unimplemented",
        grpc.StatusCode.INTERNAL: "Internal",
        grpc.StatusCode.UNAVAILABLE: "Unavailable",
        grpc.StatusCode.DATA_LOSS: "DataLoss",
        grpc.StatusCode.UNAUTHENTICATED: "Unauthenticated",
    }
