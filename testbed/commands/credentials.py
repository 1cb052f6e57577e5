"""The options with which a command trusts a server, and shows it who asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.errors import SettingsError

if TYPE_CHECKING:
    import grpc

CaOption = Annotated[Path | None, typer.Option("--ca", help="Who signs for the server, PEM; none: plaintext.")]
CertOption = Annotated[Path | None, typer.Option("--cert", help="Certificate to show to the server, PEM.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Private key of --cert, PEM.")]
TokenOption = Annotated[Path | None, typer.Option("--token-file", help="File with the bearer token to bring.")]

_LOOPBACK = ("127.", "localhost", "[::1]", "unix:")


@dataclass(frozen=True, slots=True)
class Asking:
    """How a command asks: with which credentials, None for plaintext, and with which token, if any."""

    credentials: grpc.ChannelCredentials | None = None
    token: str | None = None


def asking(target: str, ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None = None) -> Asking:
    """Raises SettingsError for no address, what cannot be used, and a token that others on the way could read."""
    if not target.strip():
        raise SettingsError("give the address of a tier, HOST:PORT, e.g. 127.0.0.1:8001")
    if ca is None and (cert is not None or key is not None):
        raise SettingsError("--cert and --key need --ca, which says whose servers to trust")
    credentials = None
    if ca is not None:
        from services.certificates import Files
        from services.secure_channel import credentials_of

        credentials = credentials_of(Files(ca, cert, key, ("--ca", "--cert", "--key"), serving=False).read())
    if token_file is None:
        return Asking(credentials)
    if credentials is None and not target.startswith(_LOOPBACK):
        raise SettingsError(f"--token-file: without --ca everybody on the way to {target} could read the token")
    from services.tokens import read_one

    return Asking(credentials, read_one(token_file))
