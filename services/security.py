"""Who may come in: TLS, mutual TLS with a list of names, and bearer tokens for clients, as the settings say.

A name is a subject alternative name of the peer's certificate: a host name, an address or a URI. Tokens are for
clients; between tiers, certificates say who is who. Health needs neither.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from services import log, wire
from services.certificates import Files, Pems, Rotation
from services.errors import OfframpError, PermissionDenied, SettingsError, Unauthenticated
from services.methods import Around, Method
from services.observing import Observers, Refused
from services.pb.offramp.v1 import tier_pb2 as pb
from services.secure_channel import Trust
from services.settings import TierSettings
from services.tokens import Tokens

_WARNING = 30
_HEALTH = "/grpc.health.v1.Health/"
_TIER_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
_LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Security:
    """What the settings ask for. All None: everybody may come in, and anybody on the way may read."""

    identity: Rotation | None = None
    asks_for_certificates: bool = False
    allowed: frozenset[str] = frozenset()
    tokens: Tokens | None = None
    above: Trust | None = None
    health_listen: str | None = None

    def credentials(self) -> grpc.ServerCredentials | None:
        """For the server's port; its certificate is looked at again at each handshake. None: plaintext."""
        identity = self.identity
        if identity is None:
            return None

        def changed() -> grpc.ServerCertificateConfiguration | None:
            found = identity.changed()
            return None if found is None else _configuration(found)

        fetch: Any = changed  # the stubs do not know that it may return None, which says: as before
        return grpc.dynamic_ssl_server_credentials(_configuration(identity.first), fetch, self.asks_for_certificates)

    def gates(self, services: Sequence[str], observers: Observers) -> list[Around]:
        """What stands before every method of `services`. Raises SettingsError where one would stay open."""
        if self.tokens is not None and _TIER_SERVICE in services and not self.asks_for_certificates:
            raise SettingsError(
                "token_file: tokens are for clients, and this tier also serves other tiers; set tls_client_ca too, "
                "so that those show certificates"
            )
        if not self.allowed and self.tokens is None:
            return []
        return [Gate(self.allowed, self.tokens, observers).before]


def of(given: TierSettings) -> Security:
    """The security of a tier. Raises SettingsError for what cannot work, and logs what is easily overlooked."""
    mutual = given.tls_client_ca is not None
    if given.tls_cert is None and mutual:
        raise SettingsError("tls_client_ca needs tls_cert and tls_key: without TLS nobody shows a certificate")
    if given.allowed_names and not mutual:
        raise SettingsError("allowed_sans needs tls_client_ca: without it nobody shows a certificate")
    names = ("tls_client_ca", "tls_cert", "tls_key")
    files = Files(given.tls_client_ca, given.tls_cert, given.tls_key, names, serving=True)
    security = Security(
        Rotation(files) if given.tls_cert is not None else None,
        mutual,
        given.allowed_names,
        Tokens(given.token_file) if given.token_file is not None else None,
        _above(given),
        given.health_listen,
    )
    _say(given, security)
    return security


def _above(given: TierSettings) -> Trust | None:
    names = ("next_ca", "next_cert", "next_key")
    files = Files(given.next_ca, given.next_cert, given.next_key, names, serving=False)
    if given.next_ca is None:
        for name in ("next_cert", "next_server_name"):
            if getattr(given, name) is not None:
                raise SettingsError(f"{name} needs next_ca, which says whose certificates to trust")
        return None
    return Trust(files, given.next_server_name)


def _say(given: TierSettings, security: Security) -> None:
    if security.asks_for_certificates and given.health_listen is None:
        log.event("hint", message="probes need a certificate, too; health_listen serves health alone, without")
    if security.tokens is not None and security.identity is None and not given.listen.startswith(_LOOPBACK):
        log.event("hint", _WARNING, message="token_file without tls_cert: tokens cross the network as they are")
    used = {"tls_cert": security.identity, "next_cert": security.above.rotation if security.above else None}
    for setting, rotation in used.items():
        if rotation is not None and rotation.first.ends is not None:
            log.event("certificate", setting=setting, ends=rotation.first.ends.isoformat())


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    assert pems.key is not None
    assert pems.certificate is not None
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.authorities)


class Gate:
    """Lets a call through to its method if its caller may make it. What is not said to be open is closed."""

    def __init__(self, allowed: frozenset[str], tokens: Tokens | None, observers: Observers):
        self._allowed = allowed
        self._tokens = tokens
        self._observers = observers

    def before(self, path: str, method: Method) -> Method:
        """`method` with the gate before it; health is open to all."""
        if path.startswith(_HEALTH):
            return method
        return self._guard(method, wants_token=not path.startswith(f"/{_TIER_SERVICE}/"))

    def check(self, context: Context, wants_token: bool) -> None:
        """Raises PermissionDenied for a certificate that is not on the list, Unauthenticated for no good token."""
        if self._allowed:
            names = names_of(context)
            if not names & self._allowed:
                shown = ", ".join(sorted(names))[:200] or "nobody"
                raise PermissionDenied(f"the certificate of {shown} may not call this tier")
        if self._tokens is not None and wants_token:
            given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
            if len(given) != 1:
                raise Unauthenticated("a token is wanted here: one header 'authorization: Bearer TOKEN'")
            if not self._tokens.accept(str(given[0])):
                raise Unauthenticated("the token is not one of those that are good here")

    def _guard(self, method: Method, wants_token: bool) -> Method:
        inner: Any = method.unary_unary or method.unary_stream or method.stream_unary or method.stream_stream

        async def refuse(context: Context, error: OfframpError) -> None:
            self._observers.refused(Refused("", error.reason, f"{context.peer()}: {error}"))
            await context.abort(*wire.status_of(error))

        async def answer(request: Any, context: Context) -> Any:
            try:
                self.check(context, wants_token)
            except OfframpError as error:
                await refuse(context, error)
            return await inner(request, context)

        async def stream(request: Any, context: Context) -> None:
            try:
                self.check(context, wants_token)
            except OfframpError as error:
                await refuse(context, error)
            if inspect.isasyncgenfunction(inner):
                async with aclosing(inner(request, context)) as replies:
                    await _write_all(replies, context)
            else:
                await inner(request, context)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.request_streaming, method.response_streaming]
        behaviour: Any = stream if method.response_streaming else answer
        return make(behaviour, method.request_deserializer, method.response_serializer)


def names_of(context: Context) -> frozenset[str]:
    """The subject alternative names of the peer's certificate; none where it showed none."""
    found = context.auth_context().get("x509_subject_alternative_name", ())
    return frozenset(name.decode(errors="replace") for name in found)


async def _write_all(replies: AsyncIterator[Any], context: Context) -> None:
    async for reply in replies:
        await context.write(reply)
