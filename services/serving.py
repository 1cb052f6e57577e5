"""What a tier serves: its models, each with a queue and a front of its own, found by hash or by name and version."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from services.bundle import Bundle, Manifest
from services.bundles import newest_last
from services.describing import Describer
from services.domain import TIMERS_DIFFER_SECONDS, Deadline, Segment
from services.errors import ModelMismatch, UnknownModel
from services.front import FixedFront, Front
from services.limiter import Limiter
from services.preparing import Preparer
from services.tier import TierRuntime


@dataclass(slots=True)
class Served:
    """One model of a tier: what runs it, how many requests it holds, who prepares plans, and who answers in front.

    segments: what is made ready before it serves. warmup_seconds: what that took. failed, failed_seconds: requests
    that it had and could not answer, and how long it had them.
    """

    bundle: Bundle
    runtime: TierRuntime
    limiter: Limiter
    preparer: Preparer
    manifest: Manifest = field(init=False)
    front: Front = field(init=False)
    describer: Describer = field(init=False)
    segments: tuple[Segment, ...] = field(init=False)
    warmup_seconds: float | None = None
    failed: int = 0
    failed_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.manifest = self.bundle.manifest
        self.front = FixedFront(self.runtime)
        self.describer = Describer(self.runtime)
        self.segments = (Segment(0, self.manifest.last),)

    def answering(self, requests: int = 1) -> Answering:
        """Counts the body of a `with` as so many failed requests where it ends with an error."""
        return Answering(self, requests)

    def close(self) -> None:
        """Lets go of what builds and what runs."""
        self.runtime.close()


class Answering:
    """Requests that travel as one, or one, while they are answered: a class, since every request has one.

    deadline: theirs, once it is known. Who is stopped after it has failed, too.
    """

    __slots__ = ("_requests", "_served", "_started", "deadline")

    def __init__(self, served: Served, requests: int):
        self._served = served
        self._requests = requests
        self.deadline: Deadline | None = None

    def __enter__(self) -> Answering:
        self._started = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is None:
            return
        late = self.deadline is not None and self.deadline.remaining() <= TIMERS_DIFFER_SECONDS
        if late or issubclass(kind, Exception):  # else the caller has left
            self._served.failed += self._requests
            self._served.failed_seconds += self._requests * (time.monotonic() - self._started)


class Models:
    """The models of one tier, in the order they were given. `limiter` holds for all of them together."""

    def __init__(self, served: Iterable[Served], limiter: Limiter):
        self._served = tuple(served)
        self.limiter = limiter
        self._by_hash = {each.manifest.model_hash: each for each in self._served}
        self._by_name: dict[tuple[str, str], Served] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def add(self, further: Iterable[Served]) -> None:
        """Serves these, too, from now on: for whoever runs on the event loop, all of them at once."""
        self._served = (*self._served, *(new := tuple(further)))
        self._by_hash |= {each.manifest.model_hash: each for each in new}
        self._by_name.clear()
        self.limiter.max_in_flight += sum(each.limiter.max_in_flight for each in new)

    @property
    def first(self) -> Served:
        return self._served[0]

    def by_hash(self, model_hash: str) -> Served:
        """The model of that hash. Raises ModelMismatch naming it and what is held."""
        found = self._by_hash.get(model_hash)
        if found is None:
            tier, held = self.first.runtime.tier.label, ", ".join(sorted(self._by_hash))
            models = f"{held}" if len(self) == 1 else f"{len(self)} models, but not that one: {held}"
            raise ModelMismatch(f"the request names model {model_hash[:64]}, this {tier} holds {models}")
        return found

    def named(self, name: str, version: str = "") -> Served:
        """The model of that name and version; an empty version is the newest. Raises UnknownModel."""
        found = self._by_name.get((name, version))
        if found is None:
            found = self._by_name[name, version] = self._looked_up(name, version)
        return found

    def _looked_up(self, name: str, version: str) -> Served:
        versions = {each.manifest.version: each for each in self._served if each.manifest.name == name}
        if not versions:
            raise UnknownModel(f"no model is called {name[:60]!r}; there is {self._names()}")
        known = newest_last(versions)
        if version and version not in versions:
            raise UnknownModel(f"model {name!r} has version {', '.join(known)}, not {version[:20]!r}")
        return versions[version or known[-1]]

    def described(self, name: str, version: str = "") -> Served:
        """As `named`; an empty name is the only model there is, so that a client can find out what is served."""
        if not name and len({each.manifest.name for each in self._served}) == 1:
            name = self.first.manifest.name
        return self.named(name, version)

    def versions(self, name: str) -> list[str]:
        """The versions of the model called `name`, newest last."""
        return newest_last(each.manifest.version for each in self._served if each.manifest.name == name)

    def close(self) -> None:
        """Lets go of all of them."""
        for each in self._served:
            each.close()

    def _names(self) -> str:
        return ", ".join(repr(name) for name in dict.fromkeys(each.manifest.name for each in self._served))
