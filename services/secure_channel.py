"""Channels to a server that may speak TLS, with certificates that may be replaced while the channel is in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc

from services.certificates import Files, Pems, Rotation
from services.domain import Clock

_LOOK_SECONDS = 1.0
_OLD_SECONDS = 720.0
"""What is under way on the channel before may go on: servers end their connections before that themselves."""


class Trust:
    """Whom a client trusts, who it is itself, and what the server is called in its certificate.

    Raises SettingsError where the files cannot be used. server_name None: as in the target.
    """

    def __init__(self, files: Files, server_name: str | None = None):
        self.files = files
        self.server_name = server_name
        self.rotation = Rotation(files)


def channel(target: str, options: Sequence[tuple[str, Any]], trust: Trust | None = None) -> grpc.aio.Channel:
    """A channel to `target`: TLS with `trust`, plaintext without. Needs a running event loop."""
    if trust is None:
        return grpc.aio.insecure_channel(target, options)
    return RenewingChannel(target, options, trust)


def credentials_of(pems: Pems) -> grpc.ChannelCredentials:
    """As the files are now, for a channel that does not outlive them."""
    return grpc.ssl_channel_credentials(pems.authorities, pems.key, pems.certificate)


class RenewingChannel(grpc.aio.Channel):
    """A TLS channel. When its files change, new calls go over a new connection; those under way stay on the old."""

    def __init__(self, target: str, options: Sequence[tuple[str, Any]], trust: Trust, clock: Clock = time.monotonic):
        self._target = target
        self._options = [*options]
        if trust.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", trust.server_name))
        self._rotation = trust.rotation
        self._clock = clock
        self._looked = clock()
        self._pems = trust.rotation.current
        self._channel = self._opened(self._pems)
        self._old: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    def current(self) -> grpc.aio.Channel:
        """The channel that new calls go over."""
        now = self._clock()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._rotation.changed()
            if self._pems is not self._rotation.current:  # whoever noticed: all channels of an uplink share it
                self._retire(self._channel)
                self._pems = self._rotation.current
                self._channel = self._opened(self._pems)
        return self._channel

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self, "stream_stream", args, kwargs)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(*(each.close(grace) for each in (self._channel, *self._old.values())))
        await asyncio.gather(*self._old, return_exceptions=True)

    async def __aenter__(self) -> RenewingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(None)

    def _opened(self, pems: Pems) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._target, credentials_of(pems), self._options)

    def _retire(self, old: grpc.aio.Channel) -> None:
        task = asyncio.ensure_future(old.close(_OLD_SECONDS))
        self._old[task] = old
        task.add_done_callback(self._old.pop)


class _Method:
    """A method of whichever channel is the current one when it is called."""

    def __init__(self, owner: RenewingChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self._owner = owner
        self._how = kind, args, kwargs
        self._made: tuple[grpc.aio.Channel, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        channel = self._owner.current()
        if self._made is None or self._made[0] is not channel:
            kind, arguments, named = self._how
            self._made = channel, getattr(channel, kind)(*arguments, **named)
        return self._made[1](*args, **kwargs)
