"""The cluster's certificates."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from sandbox import network, pki

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pki.ensure(tmp_path / "pki", NOW)
    return tmp_path / "pki"


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


@pytest.mark.parametrize("name", ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"])
def test_the_api_server_verifies_under_every_name_it_has_in_the_cluster(folder: Path, name: str) -> None:
    store = Store([certificate(folder, "ca")])
    PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName(name)).verify(certificate(folder, "apiserver"), [])


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """A handshake of the two in memory. Raises ssl.SSLError where one refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server, server_hostname=name), server.wrap_bio(to_server, to_client, server_side=True)]
    for side in (*sides, *sides, sides[1]):  # hello, answer, finished, and the server's last word
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert all(side.cipher() for side in sides)


@pytest.mark.parametrize("leaf", [leaf.file for leaf in pki.LEAVES if leaf.names or leaf.addresses])
def test_servers_and_clients_verify_by_the_strict_rules_of_python_3_13(folder: Path, leaf: str) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    server.load_cert_chain(folder / f"{leaf}.crt", folder / f"{leaf}.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    for context in (client, server):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    handshake(client, server, network.NODE_ADDRESS)


@pytest.mark.parametrize("leaf", [leaf.file for leaf in pki.LEAVES])
def test_every_part_of_the_cluster_has_a_client_certificate_of_its_own(folder: Path, leaf: str) -> None:
    made = certificate(folder, leaf)
    made.verify_directly_issued_by(certificate(folder, "ca"))
    uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in uses


def test_nobody_else_reads_the_keys(folder: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_start_changes_nothing(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    pki.ensure(folder, NOW + dt.timedelta(days=1))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_leaves_near_their_end_are_renewed_and_the_authority_stays(folder: Path) -> None:
    authority, tokens, leaf = ((folder / name).read_bytes() for name in ("ca.crt", "tokens.key", "apiserver.crt"))
    pki.ensure(folder, NOW + dt.timedelta(days=pki.LEAF_DAYS - pki.RENEW_DAYS + 1))
    assert (folder / "apiserver.crt").read_bytes() != leaf
    assert (folder / "ca.crt").read_bytes() == authority
    assert (folder / "tokens.key").read_bytes() == tokens  # or every ServiceAccount token would be refused


def test_a_certificate_without_its_key_is_made_anew(folder: Path) -> None:
    (folder / "admin.key").unlink()
    pki.ensure(folder, NOW)
    assert (folder / "admin.key").is_file()


def test_an_embedded_kubeconfig_works_on_its_own(folder: Path) -> None:
    document = yaml.safe_load(pki.kubeconfig(folder, "admin", embed=True))
    assert document["current-context"] == "sandbox"
    assert b64decode(document["users"][0]["user"]["client-key-data"]) == (folder / "admin.key").read_bytes()
    assert document["clusters"][0]["cluster"]["server"] == "https://10.99.0.2:6443"
    assert str(folder) not in pki.kubeconfig(folder, "admin", embed=True)


def test_a_private_file_is_never_readable_by_others_even_for_a_moment(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.write_text("old")
    target.chmod(0o644)
    pki.write_private(target, "new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
