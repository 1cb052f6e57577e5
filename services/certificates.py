"""The files of TLS: read, checked before they are used, and read again when they change. Standard library only.

A certificate is checked by a handshake with itself, in memory. That is what a peer will do: it finds a key that
does not match, a certificate that is expired or not yet valid, and one that is not made for its purpose.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services import log
from services.errors import SettingsError

_WARNING = 30
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Pems:
    """What the files held when they were read, as gRPC takes it. `ends`: of the certificate, None without one."""

    authorities: bytes | None
    certificate: bytes | None
    key: bytes | None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """Where one side of TLS finds whom it trusts, and who it is. `names`: of the settings, in this order."""

    authorities: Path | None
    certificate: Path | None
    key: Path | None
    names: tuple[str, str, str]
    serving: bool

    def __post_init__(self) -> None:
        """Raises SettingsError for half of a pair."""
        _, certificate, key = self.names
        if self.certificate is not None and self.key is None:
            raise SettingsError(f"{certificate} needs {key}, the file of its private key")
        if self.key is not None and self.certificate is None:
            raise SettingsError(f"{key} needs {certificate}, the certificate of that key")

    def read(self) -> Pems:
        """Raises SettingsError for a file that is not what its setting says, and for a pair no peer would accept."""
        authorities, certificate, key = (
            None if path is None else _bytes(name, path) for name, path in zip(self.names, self.paths, strict=True)
        )
        if self.authorities is not None:
            _check_authorities(self.names[0], self.authorities)
        ends = None
        if self.certificate is not None and self.key is not None:
            ends = self._end_of_pair(self.certificate, self.key)
        return Pems(authorities, certificate, key, ends)

    def stamp(self) -> Stamp:
        """Changes when one of the files does. Raises OSError where one is gone."""
        found = [path.stat() for path in self.paths if path is not None]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)

    @property
    def paths(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.authorities, self.certificate, self.key

    def _end_of_pair(self, certificate: Path, key: Path) -> datetime:
        _, name, key_name = self.names
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self.serving else ssl.PROTOCOL_TLS_CLIENT)
        try:
            load_pair(ours, certificate, key)
        except ssl.SSLError as error:
            fault = "does not belong to" if error.reason == "KEY_VALUES_MISMATCH" else "is no key in plain PEM for"
            raise SettingsError(f"{key_name}: {key} {fault} {name}, {certificate}") from None
        try:
            return _meet_a_stranger(ours, certificate, key, self.serving)
        except ssl.SSLCertVerificationError as error:
            raise SettingsError(f"{name}: {certificate}: {error.verify_message}; put a valid one there") from None
        except ssl.SSLError as error:
            raise SettingsError(f"{name}: {certificate}: a peer would refuse it ({error.reason})") from None


class Rotation:
    """Tells what changed since it was last asked; what cannot be used is logged once and passed over.

    first: what they held at the start; current: what they held when they changed last and could be used. Called from
    gRPC's threads, too. Raises SettingsError where the files cannot be used to begin with.
    """

    def __init__(self, files: Files):
        self._files = files
        self._lock = threading.Lock()
        self._seen = _stamp_or_nothing(files)
        self.current = self.first = files.read()

    def changed(self) -> Pems | None:
        """What the files hold now, where they changed and can be used; else None."""
        with self._lock:
            try:
                stamp = self._files.stamp()
                if stamp == self._seen:
                    return None
                found = self._files.read()
                if stamp != self._files.stamp():
                    return None  # written just now; the next to ask will see all of it
            except OSError:
                return None
            except SettingsError as error:
                log.event("certificate_not_taken", _WARNING, message=f"{error}; the one before stays in use")
                self._seen = stamp
                return None
            self._seen, self.current = stamp, found
        log.event("certificate_taken", setting=self._files.names[1], ends=found.ends and found.ends.isoformat())
        return found


def _stamp_or_nothing(files: Files) -> Stamp:
    try:
        return files.stamp()
    except OSError:  # reading them will say which, and why
        return ()


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Loads both; an encrypted key is an SSLError instead of a question on the terminal."""
    context.load_cert_chain(certificate, key, password=lambda: b"")


def _bytes(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: {path}: {error.strerror}") from None


def _check_authorities(name: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise SettingsError(f"{name}: {path} holds no certificate in PEM") from None


def _meet_a_stranger(ours: ssl.SSLContext, certificate: Path, key: Path, serving: bool) -> datetime:
    """When the certificate ends, from a peer that trusts exactly it. Raises ssl.SSLError where that one refuses it."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if serving else ssl.PROTOCOL_TLS_SERVER)
    for context in (ours, theirs):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    theirs.load_verify_locations(certificate)
    if not serving:
        load_pair(theirs, certificate, key)  # a server needs some certificate
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [ours.wrap_bio(there, back, serving), theirs.wrap_bio(back, there, not serving)]
    for _ in range(4):  # flights of a handshake, at most
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends = (sides[1].getpeercert() or {})["notAfter"]
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(ends)), UTC)
