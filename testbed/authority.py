"""A certificate authority for development: short-lived certificates for tiers on one machine or one desk.

Its key lies in a file next to the certificates. For anything that others can reach, use an authority that guards
its key: the tiers take certificates from anywhere.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.errors import SettingsError

CA, CA_KEY = "ca.crt", "ca.key"
CERTIFICATE, KEY = "tls.crt", "tls.key"
TOKENS = "tokens"
TRUST_DOMAIN = "offramp"
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, now: datetime, days: float) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Offramp development CA")
        usage = _usage(key_cert_sign=True, crl_sign=True)
        unsigned = (
            _builder(name, name, key.public_key(), now - _SKEW, now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        return cls(key, unsigned.sign(key, hashes.SHA256()))

    @classmethod
    def read(cls, folder: Path) -> Authority:
        """Raises SettingsError where there is none in `folder`."""
        try:
            key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        except (OSError, ValueError, TypeError):
            raise SettingsError(f"{folder}: no certificate authority of 'offramp certs' to renew from") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise SettingsError(f"{folder / CA_KEY} does not belong to {folder / CA}")
        return cls(key, certificate)

    def issue(self, name: str, also: Sequence[str], now: datetime, days: float) -> tuple[bytes, bytes]:
        """Certificate and key, PEM, of a tier that may serve and call. `also`: host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        identifier = x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{name}")
        begins = min(now, ends) - _SKEW
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        unsigned = (
            _builder(_name(name), self.certificate.subject, key.public_key(), begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([*map(_alternative, also), identifier]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return _pem(unsigned.sign(self.key, hashes.SHA256())), _key_pem(key)

    def files(self) -> dict[str, bytes]:
        return {CA: _pem(self.certificate), CA_KEY: _key_pem(self.key)}


def new_token() -> bytes:
    """256 random bits, as a line."""
    return secrets.token_urlsafe(32).encode() + b"\n"


def write(file: Path, content: bytes) -> None:
    """Puts `content` in place at once; only the owner may read a key or a token."""
    public = file.suffix == ".crt"
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if public else 0o600), "wb") as out:
        out.write(content)
    fresh.replace(file)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
