"""Files of TLS and tokens: what is refused and how that is said, and what a change does."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import security
from services.certificates import Files, Rotation
from services.errors import OfframpError, SettingsError
from services.settings import TierSettings
from services.tokens import Tokens, read_one
from testbed.commands import certs as command
from tests.certificates import GOOD_TOKEN, Party, Signer

NAMES = ("tls_client_ca", "tls_cert", "tls_key")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.at(tmp_path / "certs")


@pytest.fixture
def edge(signer: Signer) -> Party:
    return signer.party("edge")


def files_of(party: Party, serving: bool = True) -> Files:
    return Files(party.ca, party.cert, party.key, NAMES, serving)


@pytest.mark.parametrize("serving", [True, False])
def test_good_files_are_read_with_when_they_end(edge: Party, serving: bool) -> None:
    found = files_of(edge, serving).read()
    assert (found.authorities, found.certificate) == (edge.ca.read_bytes(), edge.cert.read_bytes())
    assert found.ends is not None


@pytest.mark.parametrize("serving", [True, False])
def test_a_certificate_out_of_its_time_is_refused(signer: Signer, serving: bool) -> None:
    with pytest.raises(SettingsError, match=r"tls_cert: .*tls.crt: certificate has expired"):
        files_of(signer.expired("old"), serving).read()
    with pytest.raises(SettingsError, match="not yet valid"):
        files_of(signer.party("young", age_days=-2), serving).read()


def test_a_key_of_another_certificate_is_refused(signer: Signer, edge: Party) -> None:
    with pytest.raises(SettingsError, match=r"tls_key: .* does not belong to tls_cert"):
        replace(files_of(edge), key=signer.party("cloud").key).read()


@pytest.mark.parametrize("content", ["", "not PEM", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_without_quoting_it(edge: Party, content: str) -> None:
    edge.key.write_text(content)
    with pytest.raises(SettingsError, match=r"tls_key: .* is no key in plain PEM") as refused:
        files_of(edge).read()
    assert "AAAA" not in str(refused.value)


def test_what_holds_no_authority_is_refused(edge: Party) -> None:
    edge.ca.write_text("nothing")
    with pytest.raises(SettingsError, match=r"tls_client_ca: .* holds no certificate"):
        files_of(edge).read()


@pytest.mark.parametrize(("broken", "said"), [("ca", "tls_client_ca"), ("cert", "tls_cert"), ("key", "tls_key")])
def test_a_missing_file_is_named(edge: Party, broken: str, said: str) -> None:
    getattr(edge, broken).unlink()
    with pytest.raises(SettingsError, match=rf"^{said}: .*: No such file or directory$"):
        Rotation(files_of(edge))


def test_half_a_pair_is_refused(edge: Party) -> None:
    with pytest.raises(SettingsError, match="tls_cert needs tls_key"):
        Files(None, edge.cert, None, NAMES, serving=True)
    with pytest.raises(SettingsError, match="tls_key needs tls_cert"):
        Files(None, None, edge.key, NAMES, serving=True)


def test_a_change_is_told_once(signer: Signer, edge: Party) -> None:
    rotation = Rotation(files_of(edge))
    assert rotation.changed() is None
    signer.party("edge")
    found = rotation.changed()
    assert found is not None
    assert found.certificate == edge.cert.read_bytes()
    assert rotation.changed() is None


def test_a_change_is_passed_over_until_key_and_certificate_fit(signer: Signer, edge: Party) -> None:
    rotation, old = Rotation(files_of(edge)), edge.cert.read_bytes()
    signer.party("edge")
    new = edge.cert.read_bytes()
    edge.cert.write_bytes(old)
    assert rotation.changed() is None
    edge.cert.write_bytes(new)
    found = rotation.changed()
    assert found is not None
    assert found.certificate == new


def test_files_that_vanish_change_nothing(edge: Party) -> None:
    rotation = Rotation(files_of(edge))
    edge.cert.unlink()
    assert rotation.changed() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_cert": "cert"}, "tls_cert needs tls_key"),
        ({"tls_client_ca": "ca"}, "tls_client_ca needs tls_cert"),
        ({"tls_cert": "cert", "tls_key": "key", "allowed_sans": "edge"}, "allowed_sans needs tls_client_ca"),
        ({"next_cert": "cert", "next_key": "key"}, "next_cert needs next_ca"),
        ({"next_server_name": "edge"}, "next_server_name needs next_ca"),
        ({"next_ca": "ca", "next_key": "key"}, "next_key needs next_cert"),
        ({"token_file": "nowhere"}, "token_file: nowhere: No such file"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(edge: Party, given: dict[str, str], said: str) -> None:
    paths = {name: getattr(edge, value, value) for name, value in given.items()}
    with pytest.raises(SettingsError, match=said):
        security.of(TierSettings(**paths))


def test_without_settings_there_is_nothing_to_check() -> None:
    nothing = security.of(TierSettings())
    assert nothing == security.Security()
    assert nothing.credentials() is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no token"),
        ("# none\n\n", "holds no token"),
        ("short\n", "fewer than 16"),
        ("ä" * 20, "something else"),
    ],
)
def test_a_file_without_good_tokens_is_refused_without_quoting_it(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(SettingsError, match=said) as refused:
        Tokens(file)
    assert "short\n" not in str(refused.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"one-more-token-of-others\n{GOOD_TOKEN}\n")
    return Tokens(file)


@given(text=st.text(max_size=60) | st.sampled_from([f"Bearer {GOOD_TOKEN}", f"BEARER  {GOOD_TOKEN} ", GOOD_TOKEN]))
def test_nothing_but_a_token_is_accepted(good: Tokens, text: str) -> None:
    assert good.accept(text) == (text[:7].lower() == "bearer " and text[7:].strip() == GOOD_TOKEN)


def test_each_token_of_the_file_is_accepted(good: Tokens) -> None:
    assert good.accept(f"Bearer {GOOD_TOKEN}")
    assert good.accept("bearer one-more-token-of-others")


def test_an_emptied_file_lets_nobody_in_and_a_vanished_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(GOOD_TOKEN)
    tokens = Tokens(file)
    file.unlink()
    assert tokens.accept(f"Bearer {GOOD_TOKEN}")
    file.write_text("")
    assert not tokens.accept(f"Bearer {GOOD_TOKEN}")


def test_a_client_reads_the_first_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"# mine\n{GOOD_TOKEN}\n")
    assert read_one(file) == GOOD_TOKEN


def test_the_command_makes_what_tiers_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.certs(tmp_path / "certs", san=["edge=edge.example.org"])
    for name in ("device", "edge", "cloud", "client"):
        files_of(Party(tmp_path / "certs" / name)).read()
    assert Tokens(tmp_path / "certs" / "device" / "tokens").accept(
        f"Bearer {read_one(tmp_path / 'certs' / 'client' / 'tokens')}"
    )
    printed = capsys.readouterr().out
    assert "edge-node, localhost, 127.0.0.1, ::1, edge.example.org" in printed
    for name in ("device", "client"):
        assert f"{tmp_path / 'certs' / name / 'tokens'}: the token" in printed
    assert read_one(tmp_path / "certs" / "client" / "tokens") not in printed


@pytest.mark.parametrize("host", ["camera.local", "my_container", "*.example.org", "10.0.0.5", "fe80::1", "n" * 63])
def test_a_host_name_or_an_address_goes_into_the_certificate(tmp_path: Path, host: str) -> None:
    command.certs(tmp_path / "certs", names="device", san=[f"device={host}"])
    files_of(Party(tmp_path / "certs" / "device")).read()


def test_only_the_owner_can_read_keys_and_tokens(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        command.certs(tmp_path / "certs")
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "certs").rglob("*") if file.is_file()}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "tls.crt": 0o644, "tls.key": 0o600, "tokens": 0o600}


def test_the_command_does_not_overwrite_unless_told_to(tmp_path: Path) -> None:
    out = tmp_path / "certs"
    command.certs(out)
    before = (out / "ca.crt").read_bytes()
    with pytest.raises(SettingsError, match=r"--renew .* --force"):
        command.certs(out)
    assert (out / "ca.crt").read_bytes() == before
    command.certs(out, force=True)
    assert (out / "ca.crt").read_bytes() != before


def test_renewed_certificates_are_of_the_same_authority(tmp_path: Path) -> None:
    out = tmp_path / "certs"
    command.certs(out)
    authority, leaf, tokens = ((out / name).read_bytes() for name in ("ca.crt", "edge/tls.crt", "device/tokens"))
    command.certs(out, renew=True)
    assert (out / "ca.crt").read_bytes() == authority
    assert (out / "edge" / "tls.crt").read_bytes() != leaf
    assert (out / "device" / "tokens").read_bytes() == tokens


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"names": "a/../b"}, "is no name"),
        ({"names": " , "}, "nobody is named"),
        ({"san": ["nobody=host"]}, "is not NAME=HOST"),
        ({"san": ["device=a b"]}, "neither a host name nor an IP address"),
        ({"san": ["device=https://x/y"]}, "neither a host name nor an IP address"),
        ({"san": ["device=camera-.local"]}, "neither a host name nor an IP address"),
        ({"san": ["device=10.0.0.256"]}, "neither a host name nor an IP address"),
        ({"san": ["device=" + "a.b" * 90]}, "neither a host name nor an IP address"),
        ({"names": "n" * 65}, "too long"),
        ({"renew": True}, "no certificate authority"),
    ],
)
def test_what_the_command_cannot_do_is_said(tmp_path: Path, asked: dict[str, object], said: str) -> None:
    with pytest.raises(OfframpError, match=said):
        command.certs(tmp_path / "certs", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "certs").exists()
