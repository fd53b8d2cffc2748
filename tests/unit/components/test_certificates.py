"""Certificates: one authority, a leaf for each server with every name it is called by, keys in the servers' own Secrets only."""

from __future__ import annotations

from functools import cache

import pulumi
import pulumi_kubernetes as k8s
import pytest

from components import certificates
from components.certificates import Certificates, CertificatesArgs, Server
from components.lib.contracts import Placement
from tests.unit.recording import Graph, record

AT = Placement(stack="dev", namespace="groundwork-dev", cluster_domain="cluster.local")
ARGS = CertificatesArgs(AT, (Server("postgres"), Server("consul", ("server.dc1.consul",))))


@cache
def recorded(args: CertificatesArgs = ARGS) -> Graph:
    def build() -> None:
        made = Certificates("certificates", args, provider=k8s.Provider("k8s", kubeconfig="", context="c"))
        pulumi.export("ca", made.ca)
        pulumi.export("digests", {name: tls.digest for name, tls in made.tls.items()})

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
    assert secret["stringData"] == {"tls.crt": "cert-certificates-postgres", "tls.key": "private-certificates-postgres"}


def test_the_authority_s_key_leaves_the_state_nowhere(graph: Graph) -> None:
    assert not [r.name for r in graph.kubernetes() if "private-certificates-ca" in str(r.inputs)]


def test_clients_find_the_authority_in_a_config_map(graph: Graph) -> None:
    assert graph.one("ConfigMap", "groundwork-ca")["data"] == {"ca.crt": "cert-certificates-ca"}
    assert graph.outputs["ca"] == "groundwork-ca"


def test_every_server_has_a_digest_of_its_own(graph: Graph) -> None:
    digests = graph.outputs["digests"]
    assert set(digests) == {"postgres", "consul"}
    assert digests["postgres"] != digests["consul"]


def test_a_server_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="postgres is there 2 times: give each server one entry"):
        CertificatesArgs(AT, (Server("postgres"), Server("postgres")))
