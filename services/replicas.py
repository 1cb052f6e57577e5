"""The replicas of the tier above: who they are by now, whose turn it is, and whose link speaks for the hop.

Each has a link estimate of its own; the hop's is that of one of them, the lead, for as long as it is in use and known:
replicas are taken to stand behind the same link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any

from services import log, targets
from services.errors import UpstreamUnavailable
from services.replica import Replica

LINGER_SECONDS = 30.0
"""What is under way to an address that a name has no more may take so long to end."""

Open = Callable[[str, bool], Replica]
"""Begins with the replica of that address; whether it is watched, which is worth a stream where there are others."""


class Replicas:
    """Those that `found` stands for, opened by `begin`; a name's change with it. Needs a running event loop."""

    def __init__(self, found: tuple[str, ...] | targets.Name, begin: Open):
        self._begin = begin
        self._turn = 0
        self._lead: Replica | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookout: targets.Lookout | None = None
        self._all: list[Replica] = []
        if isinstance(found, targets.Name):
            self._lookout = targets.Lookout(found, self._moved)
            self._go_on(self._lookout.run())
        else:
            self._all = [begin(name, len(found) > 1) for name in found]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def usable(self) -> list[Replica]:
        """Those that may be asked."""
        return [replica for replica in self._all if replica.usable]

    def take(self, tried: Collection[Replica]) -> Replica | None:
        """Whose turn it is of those not tried: of those that say they serve, or else of all that may still answer."""
        count = len(self._all)
        if count == 1 and not tried:
            return self._all[0] if self._all[0].breaker.allows() else None
        turns = [self._all[(self._turn + step) % count] for step in range(count)]
        self._turn += not tried
        for serving in (True, False):
            for replica in turns:
                if replica.serving is serving and replica not in tried and replica.breaker.allows():
                    return replica
        return None

    def lead(self) -> Replica:
        """Whose link estimate is the hop's. Raises UpstreamUnavailable where there are no replicas."""
        if not self._all:
            raise self.nobody()
        if len(self._all) == 1:
            return self._all[0]
        lead = self._lead
        if lead is None or not _leads(lead):
            better = next(filter(_leads, self._all), None)
            lead = self._lead = better or lead or self._all[0]
        return lead

    def pass_lead(self, silent: Replica) -> None:
        """Another one than `silent` leads, where there is one that may be asked."""
        others = (replica for replica in self.usable() if replica is not silent)
        self._lead = next(others, silent if silent in self._all else None)

    def look_again(self) -> None:
        """Whoever a name stands for may have changed."""
        if self._lookout is not None:
            self._lookout.again()

    def nobody(self) -> UpstreamUnavailable:
        """Why nobody is to be asked."""
        if not self._all:
            return UpstreamUnavailable("the name of the next tier stands for no address")
        return UpstreamUnavailable("the next tier has not answered lately; it is checked on in the background")

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self._all))

    def _moved(self, found: frozenset[str]) -> None:
        """The name stands for other addresses than before: those that stay keep what is known of them."""
        known = {replica.name: replica for replica in self._all}
        self._all = [known.pop(name) if name in known else self._begin(name, True) for name in sorted(found)]
        if self._lead not in self._all:
            self._lead = None
        for gone in known.values():
            self._go_on(gone.close(LINGER_SECONDS))

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="uplink")
        task.add_done_callback(log.ended)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _leads(replica: Replica) -> bool:
    return replica.usable and replica.serving and replica.connection.link().rtt_seconds is not None
