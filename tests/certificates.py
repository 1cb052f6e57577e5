"""Certificates made for one test, with whatever is wrong with them that the test wants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.certificates import Files
from services.secure_channel import Trust
from testbed import authority
from testbed.authority import Authority

GOOD_TOKEN = "a-token-that-only-this-test-knows"


@dataclass(frozen=True, slots=True)
class Party:
    """The files of one who serves or calls."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / authority.CA

    @property
    def cert(self) -> Path:
        return self.folder / authority.CERTIFICATE

    @property
    def key(self) -> Path:
        return self.folder / authority.KEY

    def serving(self, **more: object) -> dict[str, object]:
        """Settings of a tier that serves as this party, to those its authority signed for."""
        return {"tls_cert": self.cert, "tls_key": self.key, "tls_client_ca": self.ca} | more

    def calling(self, **more: object) -> dict[str, object]:
        """Settings of a tier that calls the next one as this party."""
        return {"next_ca": self.ca, "next_cert": self.cert, "next_key": self.key} | more

    def trust(self, anonymous: bool = False, server_name: str | None = None) -> Trust:
        pair = (None, None) if anonymous else (self.cert, self.key)
        return Trust(Files(self.ca, *pair, ("next_ca", "next_cert", "next_key"), serving=False), server_name)


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority, and where it puts what it makes."""

    folder: Path
    authority: Authority

    @classmethod
    def at(cls, folder: Path) -> Signer:
        return cls(folder, Authority.create(datetime.now(UTC), 30))

    def party(self, name: str, *hosts: str, age_days: float = 0, days: float = 10) -> Party:
        """New files for `name`, replacing those there were. `age_days`: since they became valid."""
        party = Party(self.folder / name)
        began = datetime.now(UTC) - timedelta(days=age_days)
        certificate, key = self.authority.issue(name, (*hosts, "localhost", "127.0.0.1"), began, days)
        authority.write(party.ca, self.authority.files()[authority.CA])
        authority.write(party.key, key)
        authority.write(party.cert, certificate)
        return party

    def expired(self, name: str) -> Party:
        return self.party(name, age_days=20, days=10)
