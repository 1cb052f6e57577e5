"""Which addresses the tier above has: as given, or as a name says, which may say something else tomorrow."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

LOOK_SECONDS = 30.0
LEAST_SECONDS = 1.0
_NAME = re.compile(r"dns:(?://[^/]*/)?(?P<host>\[[^\]]+\]|[^:/,]+):(?P<port>\d+)")
_ONE = ("ipv4:", "ipv6:")
"""gRPC names that have commas of their own: one channel, which is gRPC's to balance."""


_LITERAL = (*_ONE, "unix:", "unix-abstract:", "vsock:")
"""Left to gRPC to read."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name to be resolved."""

    host: str
    port: int


def parse(target: str) -> tuple[str, ...] | Name:
    """Targets separated by commas, or the name behind `dns:///`."""
    found = _NAME.fullmatch(target)
    if found is not None:
        return Name(found["host"].strip("[]"), int(found["port"]))
    if target.startswith(_ONE):
        return (target,)
    return tuple(dict.fromkeys(part.strip() for part in target.split(",") if part.strip()))


def check(target: str) -> None:
    """Raises ValueError for what nobody can be reached at. Of gRPC's own ways to write one, only the ports of names."""
    parts = parse(target)
    if isinstance(parts, Name):
        parts = (f"{parts.host}:{parts.port}",)
    if not parts or not all(part.startswith(_LITERAL) or _is_address(part) for part in parts):
        raise ValueError("must be HOST:PORT, several of them separated by commas, or dns:///NAME:PORT")


def _is_address(part: str) -> bool:
    host, separator, port = part.rpartition(":")
    return bool(separator and host) and "/" not in host and port.isdecimal() and 0 < int(port) < 1 << 16


async def addresses(name: Name) -> frozenset[str]:
    """All of HOST:PORT that `name` stands for now; none where it cannot be told."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    hosts = {str(address[0]) for *_, address in found}
    return frozenset(f"[{host}]:{name.port}" if ":" in host else f"{host}:{name.port}" for host in hosts)


@dataclass(slots=True)
class Lookout:
    """Resolves a name every half minute, or within a second of `again`; tells `found` of addresses where there are."""

    name: Name
    found: Callable[[frozenset[str]], None]
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def again(self) -> None:
        """Somebody did not answer: the name may have moved."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            known = await addresses(self.name)
            if known:
                self.found(known)
            await asyncio.sleep(LEAST_SECONDS)
            try:
                async with asyncio.timeout(LOOK_SECONDS if known else 0):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
