"""Why the tier above cannot be reached, where TLS is the reason: to gRPC all of it looks like an outage."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time

from services import log
from services.certificates import Files, load_pair
from services.domain import Clock
from services.errors import SettingsError
from services.secure_channel import Trust

LOOK_SECONDS = 5.0
_TIMEOUT_SECONDS = 2.0
_WARNING = 30
_HOST_PORT = re.compile(r"^(?:dns:(?:///)?)?(?P<host>\[[^\]]+\]|[^:/,\[\]]+):(?P<port>\d+)$")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")


class Hints:
    """Finds out why, in the background, when told that a call failed; logs it once for each reason."""

    def __init__(self, target: str, trust: Trust | None, clock: Clock = time.monotonic):
        self._target = target
        self._trust = trust
        self._clock = clock
        self._looked = float("-inf")
        self._said: str | None = None
        self._looking: asyncio.Task[None] | None = None

    def failed(self) -> None:
        """Looks, unless it just has. Needs a running event loop."""
        if self._clock() - self._looked >= LOOK_SECONDS and (self._looking is None or self._looking.done()):
            self._looked = self._clock()
            self._looking = asyncio.create_task(self._look(), name="tls hint")
            self._looking.add_done_callback(log.ended)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        found = await asyncio.to_thread(why, self._target, self._trust)
        if found not in (None, self._said):
            log.event("tls_hint", _WARNING, target=self._target, message=found)
        self._said = found


def why(target: str, trust: Trust | None, timeout_seconds: float = _TIMEOUT_SECONDS) -> str | None:
    """What is wrong with TLS to `target`; None where nothing is, or it cannot be told. Blocks."""
    found = _HOST_PORT.match(target)
    if found is None:
        return None
    host = found["host"].strip("[]")
    try:
        context = _context(trust.files if trust else None)
        name = (trust.server_name if trust else None) or host
        with (
            socket.create_connection((host, int(found["port"])), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            welcome = tls.recv(1)  # whoever refuses our certificate says so only now, or hangs up without a word
    except ssl.SSLError as error:
        return _explained(error, trust)
    except (OSError, SettingsError):
        return None
    if trust is None:
        return "the tier above speaks TLS; set next_ca to whose certificates to trust"
    return None if welcome else _refused(trust.files)


def _context(files: Files | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if files is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context.load_verify_locations(files.authorities)
    if files.certificate is not None and files.key is not None:
        load_pair(context, files.certificate, files.key)
    return context


def _explained(error: ssl.SSLError, trust: Trust | None) -> str | None:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None  # a link whose far end is away ends like this
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the tier above speaks TLS, but next_ca does not trust its certificate: {error.verify_message}"
    if reason in _NOT_TLS:
        return "the tier above does not speak TLS; leave next_ca out, or give that tier tls_cert" if trust else None
    if trust and "ALERT" in reason:
        return _refused(trust.files)
    return f"TLS to the tier above fails: {reason}"


def _refused(files: Files) -> str:
    if files.certificate is None:
        return "the tier above wants a certificate; set next_cert and next_key"
    try:
        files.read()
    except SettingsError as error:
        return f"the tier above refuses this tier's certificate. {error}"
    return "the tier above refuses this tier's certificate: its tls_client_ca does not know who signed that"
