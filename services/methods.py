"""The methods of a server: those of its own services and of libraries' servicers, each with what stands around it.

Not by gRPC's interceptors, which are asked anew for every call, each in a coroutine of its own: that took a twentieth
of what a short request costs at the public door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:  # generic in the stubs alone
    Method = grpc.RpcMethodHandler[Any, Any]
else:
    Method = grpc.RpcMethodHandler

Around = Callable[[str, Method], Method]
"""Makes of a method, by its path `/service/Method`, the one that answers in its place; itself, to leave it as it is."""


class Methods:
    """What will be served. Stands in a server's place where generated code adds a servicer."""

    def __init__(self) -> None:
        self._services: dict[str, Mapping[str, Method]] = {}

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Method]) -> None:
        """By their names without the service's."""
        self._services[service] = methods

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods once more, which generated code adds in both ways."""

    def serve(self, server: grpc.aio.Server, around: Sequence[Around] = ()) -> None:
        """Adds all to `server`, with `around` each method: the first is the outermost, and meets a call first."""
        for service, methods in self._services.items():
            standing = {name: _within(around, f"/{service}/{name}", method) for name, method in methods.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, standing),))


def _within(around: Sequence[Around], path: str, method: Method) -> Method:
    for each in reversed(around):
        method = each(path, method)
    return method
