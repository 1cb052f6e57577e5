"""`offramp certs`: a development authority, and certificates for tiers and clients that it signs."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.errors import OfframpError, SettingsError

EPILOG = "Example: offramp certs --out certs --san device=camera.local"

_EVERYWHERE = ("localhost", "127.0.0.1", "::1")
_HOSTS = {"device": "device-agent", "edge": "edge-node", "cloud": "cloud-node"}
"""What docker-compose.yml calls them."""
_LONGEST_NAME, _LONGEST_HOST = 63, 253
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"  # containers may have a _ in their names
_HOST = re.compile(rf"(\*\.)?({_LABEL}\.)*(?!\d+$){_LABEL}", re.IGNORECASE | re.ASCII)
_TOKENS_FOR = {
    "device": "that the device asks its clients for (its setting token_file)",
    "client": "that a client brings (--token-file); the same one",
}


def certs(
    out: Annotated[Path, typer.Option("--out", help="Directory to write, one below it for each name.")] = Path("certs"),
    names: Annotated[
        str, typer.Option("--names", help="Who gets a certificate, separated by commas.")
    ] = "device,edge,cloud,client",
    san: Annotated[
        list[str] | None, typer.Option("--san", help="A further host name or address, NAME=HOST; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=825, help="Days until the certificates end.")] = 90,
    renew: Annotated[
        bool,
        typer.Option("--renew", help="New certificates from the authority that is there; no tier needs a restart."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, the authority included.")] = False,
) -> None:
    """Make a development authority, certificates for tiers and clients, and a token; keys only the owner can read."""
    try:
        from testbed import authority as made
    except ModuleNotFoundError as error:
        raise OfframpError(f"'offramp certs' needs {error.name}: pip install 'offramp[testbed]'") from None

    wanted = _wanted(names, san or [])
    if not (renew or force):
        _refuse_to_overwrite(out, [made.CA, *wanted])
    now = datetime.now(UTC)
    authority = made.Authority.read(out) if renew else made.Authority.create(now, 10 * 365)
    holders: list[str] = []
    if not renew:
        for name, content in authority.files().items():
            made.write(out / name, content)
        token = made.new_token()
        holders = [name for name in _TOKENS_FOR if name in wanted]
        for name in holders:
            made.write(out / name / made.TOKENS, token)
    for name, hosts in wanted.items():
        certificate, key = authority.issue(name, hosts, now, days)
        made.write(out / name / made.CA, authority.files()[made.CA])
        made.write(out / name / made.KEY, key)
        made.write(out / name / made.CERTIFICATE, certificate)
        print(f"{out / name}: {', '.join(hosts)}, for {days} days")
    for name in holders:
        print(f"{out / name / made.TOKENS}: the token {_TOKENS_FOR[name]}")
    print(f"{out / made.CA_KEY} signs them: keep it to yourself, no tier needs it")


def _wanted(names: str, further: list[str]) -> dict[str, tuple[str, ...]]:
    """By name, what its certificate says. Raises SettingsError for a name that is none, or not wanted."""
    wanted = {}
    for name in filter(None, (each.strip() for each in names.split(","))):
        if not name.isascii() or not name.replace("-", "").isalnum() or not name[0].isalnum():
            raise SettingsError(f"--names: {name!r} is no name; use letters, digits and -")
        if len(name) > _LONGEST_NAME:
            raise SettingsError(f"--names: {name[:40]!r}… is too long; use at most {_LONGEST_NAME} letters")
        hosts = (name, *filter(None, [_HOSTS.get(name)]))
        wanted[name] = hosts if name == "client" else (*hosts, *_EVERYWHERE)
    if not wanted:
        raise SettingsError("--names: nobody is named")
    for each in further:
        name, _, host = each.partition("=")
        if name not in wanted or not host:
            raise SettingsError(f"--san: {each!r} is not NAME=HOST with one of {', '.join(wanted)}")
        if not _is_host(host):
            raise SettingsError(f"--san: {host!r} is neither a host name nor an IP address")
        wanted[name] = (*wanted[name], host)
    return wanted


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= _LONGEST_HOST and _HOST.fullmatch(text) is not None
    return True


def _refuse_to_overwrite(out: Path, names: list[str]) -> None:
    for name in names:
        if (out / name).exists():
            raise SettingsError(f"{out / name} is there; --renew makes new certificates, --force begins anew")
