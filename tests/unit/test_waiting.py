"""Signals that end a command, and those that do not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from testbed import demo
from testbed.commands.waiting import Interrupted, wait_for
from testbed.local import LinkAsked, TestbedSettings


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def hung_up() -> str:
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    return "went on"


def test_the_end_of_its_terminal_ends_a_command() -> None:
    with pytest.raises(Interrupted):
        wait_for(hung_up())


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert wait_for(hung_up()) == "went on"


@pytest.mark.parametrize("ignored", [True, False])
async def test_a_testbed_under_nohup_outlives_its_terminal(ignored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @asynccontextmanager
    async def running(settings: TestbedSettings) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(gone=list, device=SimpleNamespace(address="127.0.0.1:1"))

    monkeypatch.setattr("testbed.local.running", running)
    monkeypatch.setattr(demo, "_show_addresses", lambda *shown: None)
    link = LinkAsked.parse("1mbit,1ms")
    serving = asyncio.create_task(demo.serve(TestbedSettings(Path("nowhere"), link, link), Console(quiet=True)))
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    assert serving.done() is not ignored
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 5)
