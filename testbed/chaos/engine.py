"""The container engine, through its command line: one call at a time, none that outlives the run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.local import TestbedError

COMPOSE_FILE = "docker-compose.yml"
_CALL_SECONDS = 60.0
_KILLED_SECONDS = 10.0
_LAST_LINES = 3
_AT_END = 'cat > /dev/null; "$@"; exec "$@"'
"""A shell that waits for the end of its input, and then runs its arguments; twice, for what was just being made."""


@dataclass(slots=True)
class Project:
    """A compose project: its name, and the values it gives to the variables of the compose file."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    file: Path = Path(COMPOSE_FILE)
    _life: tuple[int, ...] = ()

    async def compose(self, *arguments: str, seconds: float = _CALL_SECONDS) -> str:
        """What `docker compose` prints. Raises TestbedError where it fails, or takes longer."""
        return await _called(self._compose(*arguments), seconds, self._environment(), self._life)

    async def containers(self) -> dict[str, str]:
        """The ids of all containers, by the names of their services."""
        label = "com.docker.compose"
        found = await docker(
            *("ps", "--all", "--no-trunc", "--filter", f"label={label}.project={self.name}"),
            *("--format", f'{{{{.Label "{label}.service"}}}} {{{{.ID}}}}'),
        )
        return dict(line.split() for line in found.splitlines())

    @asynccontextmanager
    async def removed(self) -> AsyncIterator[None]:
        """Removes containers, networks and volumes when the body ends, however this process ends.

        Another process does it, when nobody holds the other end of its input any more: neither this process, nor a
        call for this project that may outlive it.
        """
        down = self._compose("down", "--volumes", "--remove-orphans", "--timeout", "10")
        ours, life = os.pipe()
        try:
            reaper = await _launched(("sh", "-c", _AT_END, "sh", *down), self._environment(), stdin=ours)
        except BaseException:
            os.close(life)
            raise
        finally:
            os.close(ours)
        self._life = (life,)
        try:
            yield
        finally:
            self._life = ()
            os.close(life)
            await asyncio.shield(reaper.wait())

    def _compose(self, *arguments: str) -> tuple[str, ...]:
        options = ("--ansi", "never", "--file", str(self.file), "--project-name", self.name)
        return ("docker", "compose", *options, *arguments)

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
        return ours | dict(self.values)


async def docker(*arguments: str, seconds: float = _CALL_SECONDS) -> str:
    """What `docker` prints. Raises TestbedError where it fails, or takes longer."""
    return await _called(("docker", *arguments), seconds)


async def _called(
    command: tuple[str, ...],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    held: tuple[int, ...] = (),
) -> str:
    process = await _launched(command, environment, stdout=asyncio.subprocess.PIPE, held=held)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the command line has children of its own, which may outlive it
        with suppress(TimeoutError):  # to the end of its output, not only its own: whoever was killed held that too
            await asyncio.wait_for(process.communicate(), _KILLED_SECONDS)
        if isinstance(error, TimeoutError):
            raise TestbedError(f"`{' '.join(command)}` took more than {seconds:g} seconds") from None
        raise
    text = output.decode(errors="replace")
    if process.returncode:
        last = "\n".join(text.strip().splitlines()[-_LAST_LINES:])
        raise TestbedError(f"`{' '.join(command)}` ended with code {process.returncode}: {last}")
    return text


async def _launched(
    command: tuple[str, ...],
    environment: Mapping[str, str] | None = None,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int = asyncio.subprocess.DEVNULL,
    held: tuple[int, ...] = (),
) -> asyncio.subprocess.Process:
    """Apart from the terminal, so that Ctrl-C reaches only us. held: descriptors that it holds as long as it lives."""
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            pass_fds=held,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise TestbedError(f"{command[0]} is not installed; install Docker, or run without --containers") from None
