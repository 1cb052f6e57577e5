"""The emulated links of a testbed, by their control API over HTTP: how they are set, and setting them."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import aiohttp

from services.errors import InvalidInput, UpstreamUnavailable

TIMEOUT_SECONDS = 2.0
MIN_BITS_PER_SECOND, MAX_BITS_PER_SECOND = 1e3, 1e10
MAX_RTT_SECONDS = 10.0
_MAX_REPLY_BYTES = 64 * 1024
_SECONDS_PER_UNIT = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS_PER_UNIT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_RATE = re.compile(r"([0-9.]+(?:e[-+]?[0-9]+)?)([kmg]?)bit")
_DURATION = re.compile(r"([0-9.]+(?:e[-+]?[0-9]+)?)\s*(us|ms|s)")

Setting = dict[str, Any]
"""bytes_per_second (up, as it is now), rtt_seconds, carrying, label (of the rate: a number, or a trace's name)."""


class LinkControls:
    """The control doors of the emulated links, nearest first. Needs a running event loop."""

    def __init__(self, addresses: Sequence[str]):
        self._urls = [_url(address) for address in addresses]
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)

    async def __aenter__(self) -> LinkControls:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    def __len__(self) -> int:
        return len(self._urls)

    async def read(self) -> list[Setting | None]:
        """How each link is set; None for one that does not answer."""
        found = await asyncio.gather(*(self._ask("GET", url) for url in self._urls), return_exceptions=True)
        return [None if isinstance(each, BaseException) else each for each in found]

    async def change(self, number: int, wanted: dict[str, Any]) -> Setting:
        """Sets `bits_per_second`, `rtt_seconds` and `carrying` as far as given.

        Raises InvalidInput for a link or value there is not, UpstreamUnavailable where the link does not answer.
        """
        if not 0 <= number < len(self._urls):
            raise InvalidInput(f"there are {len(self._urls)} links to control, numbered from 0; not {number}")
        return await self._ask("PUT", self._urls[number], _body(wanted))

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> Setting:
        try:
            async with self._session.request(method, url, json=body, allow_redirects=False) as reply:
                text = await reply.content.read(_MAX_REPLY_BYTES)
                said = _parsed(text)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UpstreamUnavailable(f"the link's control at {url} does not answer ({type(error).__name__})") from None
        if reply.status != 200:
            raise InvalidInput(f"the link refuses: {str(said.get('error', reply.status))[:200]}")
        return _setting(said)


def _url(address: str) -> str:
    with_scheme = address if "://" in address else f"http://{address}"
    return f"{with_scheme.rstrip('/')}/link"


def _body(wanted: dict[str, Any]) -> dict[str, Any]:
    unknown = set(wanted) - {"bits_per_second", "rtt_seconds", "carrying"}
    if unknown or not wanted:
        raise InvalidInput("give bits_per_second, rtt_seconds or carrying, and nothing else")
    body: dict[str, Any] = {}
    if "bits_per_second" in wanted:
        low, high = MIN_BITS_PER_SECOND, MAX_BITS_PER_SECOND
        body["rate"] = f"{_within('bits_per_second', wanted, low, high) / 1000:.3f}kbit"
    if "rtt_seconds" in wanted:
        body["rtt"] = f"{1000 * _within('rtt_seconds', wanted, 0, MAX_RTT_SECONDS):.3f}ms"
    if "carrying" in wanted:
        if not isinstance(wanted["carrying"], bool):
            raise InvalidInput("carrying must be true or false")
        body["carrying"] = wanted["carrying"]
    return body


def _within(name: str, wanted: dict[str, Any], low: float, high: float) -> float:
    value = wanted[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)


def _parsed(text: bytes) -> dict[str, Any]:
    said = json.loads(text)
    if not isinstance(said, dict):
        raise ValueError("not an object")
    return said


def _setting(said: dict[str, Any]) -> Setting:
    """Raises UpstreamUnavailable for an answer that is not a link's."""
    try:
        up, down = said["up"], said["down"]
        return {
            "bytes_per_second": _rate(str(up["rate"]), float(said["bytes_per_second_now"]["up"])),
            "rtt_seconds": _seconds(up["delay"]) + _seconds(down["delay"]),
            "carrying": bool(said["carrying"]),
            "label": str(up["rate"])[:100],
        }
    except (KeyError, TypeError, ValueError):
        raise UpstreamUnavailable("what answers at the link's control address is not a link") from None


def _rate(label: str, now: float) -> float:
    """Bytes per second as the link is set; of a trace, as it is `now`. A link that is cut keeps its setting."""
    found = _RATE.fullmatch(label)
    return float(found[1]) * _BITS_PER_UNIT[found[2]] / 8 if found else now


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _SECONDS_PER_UNIT[found[2]] if found else math.nan
    if not math.isfinite(seconds):
        raise ValueError(text)
    return seconds
