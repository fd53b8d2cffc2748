"""Certificates: one authority, a leaf for each server with every name it is called by, keys in the servers' own Secrets only."""

from __future__ import annotations

import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
import pytest

from components import certificates
from components.certificates import Certificates, CertificatesArgs, Server
from components.lib.contracts import Placement
from stacks.recording import pem
from tests.app.pki import Authority
from tests.unit.recording import Graph, record

AT = Placement(stack="dev", namespace="groundwork-dev", cluster_domain="cluster.local")
ARGS = CertificatesArgs(AT, (Server("postgres"), Server("consul", ("server.dc1.consul",))))


@cache
def recorded(args: CertificatesArgs = ARGS) -> Graph:
    def build() -> None:
        made = Certificates("certificates", args, provider=k8s.Provider("k8s", kubeconfig="", context="c"))
        pulumi.export("ca", made.ca)
        pulumi.export("pem", made.ca_pem)
        pulumi.export("digest", made.ca_digest)
        pulumi.export("fingerprints", {name: tls.fingerprint for name, tls in made.tls.items()})
        pulumi.export("mounted", {name: [tls.secret, tls.ca] for name, tls in made.tls.items()})
        pulumi.export("valid_until", made.valid_until)

    return record(build)


@pytest.fixture
def graph() -> Graph:
    return recorded()


def test_a_server_is_known_by_every_name_that_a_client_may_use() -> None:
    names = certificates.dns_names(Server("postgres"), "groundwork-dev", "cluster.local")
    assert names == [
        "postgres",
        "postgres.groundwork-dev",
        "postgres.groundwork-dev.svc",
        "postgres.groundwork-dev.svc.cluster.local",
        "*.postgres-headless.groundwork-dev.svc",
        "*.postgres-headless.groundwork-dev.svc.cluster.local",
        "localhost",
    ]


def test_consul_s_servers_carry_the_name_that_they_verify_of_each_other(graph: Graph) -> None:
    assert "server.dc1.consul" in graph.one("CertRequest", "certificates-consul")["dnsNames"]
    assert "server.dc1.consul" not in graph.one("CertRequest", "certificates-postgres")["dnsNames"]


def test_probes_may_call_by_the_loopback_address(graph: Graph) -> None:
    assert all("127.0.0.1" in request["ipAddresses"] for request in graph.of_type("CertRequest"))


def test_a_leaf_lives_90_days_and_is_renewed_in_its_last_30(graph: Graph) -> None:
    for leaf in graph.of_type("LocallySignedCert"):
        assert leaf["validityPeriodHours"] == 2160
        assert leaf["earlyRenewalHours"] == 720
        assert not leaf.inputs.get("isCaCertificate")


def test_the_authority_lives_ten_years_and_outlives_every_leaf(graph: Graph) -> None:
    (authority,) = graph.of_type("SelfSignedCert")
    assert authority["validityPeriodHours"] == 10 * 365 * 24
    assert authority["earlyRenewalHours"] > certificates.LEAF_HOURS
    assert authority["isCaCertificate"] is True
    assert authority["allowedUses"] == ["cert_signing", "crl_signing"]


def test_keys_are_on_p256_and_each_server_has_its_own(graph: Graph) -> None:
    keys = graph.of_type("PrivateKey")
    assert {(key["algorithm"], key["ecdsaCurve"]) for key in keys} == {("ECDSA", "P256")}
    assert {key.name for key in keys} == {"certificates-ca", "certificates-postgres", "certificates-consul"}


def test_a_server_mounts_its_certificate_from_a_secret_of_the_right_type(graph: Graph) -> None:
    secret = graph.one("Secret", "postgres-tls")
    assert secret["type"] == "kubernetes.io/tls"
    assert secret["stringData"] == {"tls.crt": pem("cert-certificates-postgres"), "tls.key": "private-certificates-postgres"}


def test_the_authority_s_key_leaves_the_state_nowhere(graph: Graph) -> None:
    assert not [r.name for r in graph.kubernetes() if "private-certificates-ca" in str(r.inputs)]


def test_clients_find_the_authority_in_a_config_map(graph: Graph) -> None:
    assert graph.one("ConfigMap", "groundwork-ca")["data"] == {"ca.crt": pem("cert-certificates-ca")}
    assert graph.outputs["ca"] == "groundwork-ca"
    assert graph.outputs["pem"] == pem("cert-certificates-ca")


def test_a_server_is_known_by_the_fingerprint_of_its_own_certificate(graph: Graph) -> None:
    assert graph.outputs["fingerprints"] == {name: sha256(f"cert-certificates-{name}".encode()).hexdigest() for name in ("postgres", "consul")}


def test_a_fingerprint_is_what_openssl_shows(tmp_path: Path) -> None:
    leaf = Authority().issue("postgres")
    (tmp_path / "tls.crt").write_text(leaf.certificate)
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(tmp_path / "tls.crt")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert certificates.fingerprint(leaf.certificate) == shown.partition("=")[2].strip().replace(":", "").lower()


def test_each_server_mounts_its_own_key_and_the_one_authority(graph: Graph) -> None:
    assert graph.outputs["mounted"] == {name: [f"{name}-tls", "groundwork-ca"] for name in ("postgres", "consul")}


def test_the_end_of_every_certificate_is_known(graph: Graph) -> None:
    assert set(graph.outputs["valid_until"]) == {"ca", "postgres", "consul"}


def test_a_leaf_serves_and_calls_and_signs_nothing(graph: Graph) -> None:
    for leaf in graph.of_type("LocallySignedCert"):
        assert set(leaf["allowedUses"]) == {"digital_signature", "server_auth", "client_auth"}
        assert "isCaCertificate" not in leaf.inputs


def test_no_name_reaches_beyond_the_pods_of_one_server(graph: Graph) -> None:
    for request in graph.of_type("CertRequest"):
        server = request.name.removeprefix("certificates-")
        wild = [name for name in request["dnsNames"] if "*" in name]
        assert wild == [f"*.{server}-headless.groundwork-dev.svc", f"*.{server}-headless.groundwork-dev.svc.cluster.local"]


def test_no_certificate_has_a_name_of_another_server(graph: Graph) -> None:
    names = {request.name: set(request["dnsNames"]) for request in graph.of_type("CertRequest")}
    assert names["certificates-postgres"] & names["certificates-consul"] == {"localhost"}


def test_keys_stand_in_the_servers_own_secrets_only(graph: Graph) -> None:
    holding = {r.object_name for r in graph.kubernetes() if "private-" in str(r.inputs)}
    assert holding == {"postgres-tls", "consul-tls"}


def test_the_next_authority_is_trusted_before_it_signs(graph: Graph) -> None:
    both = recorded(CertificatesArgs(AT, ARGS.servers, authority=1, trusted=(1, 2)))
    assert both.one("ConfigMap", "groundwork-ca")["data"]["ca.crt"] == pem("cert-certificates-ca") + pem("cert-certificates-ca-2")
    assert {leaf["caCertPem"] for leaf in both.of_type("LocallySignedCert")} == {pem("cert-certificates-ca")}
    assert {leaf.name: leaf.inputs for leaf in both.of_type("LocallySignedCert")} == {
        leaf.name: leaf.inputs for leaf in graph.of_type("LocallySignedCert")
    }
    assert both.outputs["digest"] != graph.outputs["digest"]


def test_then_the_next_one_signs_while_the_old_one_is_still_trusted() -> None:
    signing = recorded(CertificatesArgs(AT, ARGS.servers, authority=2, trusted=(1, 2)))
    assert {leaf["caCertPem"] for leaf in signing.of_type("LocallySignedCert")} == {pem("cert-certificates-ca-2")}
    assert {leaf["caPrivateKeyPem"] for leaf in signing.of_type("LocallySignedCert")} == {"private-certificates-ca-2"}
    assert pem("cert-certificates-ca") in signing.one("ConfigMap", "groundwork-ca")["data"]["ca.crt"]


def test_and_then_it_is_trusted_alone() -> None:
    alone = recorded(CertificatesArgs(AT, ARGS.servers, authority=2, trusted=(2,)))
    assert alone.one("ConfigMap", "groundwork-ca")["data"]["ca.crt"] == pem("cert-certificates-ca-2")
    assert {authority.name for authority in alone.of_type("SelfSignedCert")} == {"certificates-ca-2"}


def test_an_authority_that_nobody_trusts_may_not_sign() -> None:
    with pytest.raises(ValueError, match=r"certificates\.authority is 2: certificates\.trusted \(1\) leaves it out"):
        CertificatesArgs(AT, (), authority=2)


def test_a_server_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="postgres is there 2 times: give each server one entry"):
        CertificatesArgs(AT, (Server("postgres"), Server("postgres")))
