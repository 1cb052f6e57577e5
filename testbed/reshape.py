"""Changing a running emulated link through its control door."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

from testbed.local import LinkAsked, TestbedError

_TIMEOUT_SECONDS = 5.0


async def reshape(control: str, asked: LinkAsked) -> None:
    """Gives the link whose control door is at `control`, HOST:PORT, another rate and round trip.

    Raises TestbedError where the link does not take it.
    """
    await change(control, {"rate": asked.rate, "rtt": asked.rtt})


async def change(control: str, wanted: dict[str, Any]) -> None:
    """Puts `wanted` to the link's control door: see `link_control`. Raises TestbedError where it does not take it."""
    await asyncio.to_thread(_put, control, wanted)


def _put(control: str, wanted: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection(control, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("PUT", "/link", json.dumps(wanted), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise TestbedError(f"the link refused {wanted}: {answer.read(500).decode(errors='replace')}")
    except OSError as error:
        raise TestbedError(f"the link at {control} cannot be reached: {error}") from None
    finally:
        connection.close()
