"""What the kinds of clusters answer becomes the same facts: recorded from the public documentation of each."""

from __future__ import annotations

from typing import Any

import pytest

from stacks.cluster.facts import Address, DnsServers, StorageClass
from tests.unit.cluster.apiserver import Answers, recorded
from tests.unit.cluster.conftest import Reading

LOCAL = "https://kubernetes.default.svc.cluster.local"
IN_CLUSTER = "https://kubernetes.default.svc/openid/v1/jwks"
EKS = "https://oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"
GKE = "https://container.googleapis.com/v1/projects/demo/locations/europe-west1/clusters/demo"
AKS = "https://westeurope.oic.prod-aks.azure.com/11111111-1111-4111-8111-111111111111/22222222-2222-4222-8222-222222222222/"
KUBE_DNS = (("k8s-app", "kube-dns"),)
DAEMON_SETS = "/apis/apps/v1/daemonsets"
SERVICES = "/api/v1/namespaces/kube-system/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"

KINDS = ["kubeadm", "eks", "gke", "aks", "k3s", "openshift", "kubeadm-dual-stack", "kubeadm-ipv6", "cilium", "dns-on-the-node"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_without_a_warning(kind: str, facts: Reading) -> None:
    assert facts(kind).warnings == ()


@pytest.mark.parametrize(("number", "kind"), list(enumerate(KINDS, start=1)))
def test_a_cluster_is_the_uid_of_its_kube_system(number: int, kind: str, facts: Reading) -> None:
    assert facts(kind).uid == f"{number:08x}-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("kind", "issuer", "jwks_url", "in_cluster"),
    [
        ("kubeadm", LOCAL, IN_CLUSTER, True),  # announces the address of a node
        ("k3s", LOCAL, IN_CLUSTER, True),
        ("kubeadm-ipv6", LOCAL, IN_CLUSTER, True),
        ("openshift", "https://kubernetes.default.svc", IN_CLUSTER, True),  # announces api-int, which pods need not reach
        ("eks", EKS, IN_CLUSTER, True),  # announces a host of Amazon's that nobody reaches
        ("gke", GKE, f"{GKE}/jwks", False),
        ("aks", AKS, f"{AKS}openid/v1/jwks", False),
        ("dns-on-the-node", LOCAL, IN_CLUSTER, True),
    ],
)
def test_tokens_are_verified_with_the_cluster_s_own_issuer_and_keys_that_pods_reach(
    kind: str, issuer: str, jwks_url: str, in_cluster: bool, facts: Reading
) -> None:
    found = facts(kind)
    assert (found.issuer, found.jwks_url, found.jwks_in_cluster) == (issuer, jwks_url, in_cluster)


@pytest.mark.parametrize("announced", ["http://keys.example/jwks", "https://192.0.2.7/jwks", "https://[2001:db8::7]/jwks"])
def test_keys_without_tls_or_behind_a_bare_address_come_from_the_api_server(announced: str, facts: Reading, answers: Answers) -> None:
    answers.by_path["/.well-known/openid-configuration"]["jwks_uri"] = announced
    assert facts().jwks_in_cluster
    assert facts().jwks_url == IN_CLUSTER


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("kubeadm", ["10.96.0.1 443", "192.168.56.10 6443", "192.168.56.11 6443", "192.168.56.12 6443"]),
        ("eks", ["10.0.11.24 443", "10.0.32.190 443", "172.20.0.1 443"]),
        ("gke", ["34.118.224.1 443", "172.16.0.2 443"]),
        ("aks", ["10.0.0.1 443", "20.61.1.2 443"]),
        ("k3s", ["10.43.0.1 443", "192.168.1.20 6443"]),
        ("openshift", ["10.0.0.4 6443", "10.0.0.5 6443", "10.0.0.6 6443", "172.30.0.1 443"]),
        ("kubeadm-ipv6", ["fd00:10:96::1 443", "fd00:56::10 6443"]),
    ],
)
def test_the_api_server_is_its_service_and_what_stands_behind_in_one_order(kind: str, addresses: list[str], facts: Reading) -> None:
    expected = tuple(Address(ip, int(port)) for ip, port in (text.split() for text in addresses))
    assert facts(kind).api_servers == expected


def test_endpoints_of_other_services_and_names_are_no_api_servers(facts: Reading, answers: Answers) -> None:
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    other = {"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4"}
    named = {"metadata": {"name": "k", "labels": {"kubernetes.io/service-name": "kubernetes"}}, "addressType": "FQDN"}
    ends: dict[str, Any] = {"endpoints": [{"addresses": ["192.0.2.9"]}], "ports": [{"name": "https", "port": 8443}]}
    answers.by_path[path]["items"] += [other | ends, named | ends | {"endpoints": [{"addresses": ["api.example"]}]}]
    assert {address.port for address in facts().api_servers} == {443, 6443}


@pytest.mark.parametrize(
    ("kind", "dns"),
    [
        ("kubeadm", DnsServers("kube-system", KUBE_DNS, (53,), ())),
        ("eks", DnsServers("kube-system", KUBE_DNS, (53,), ())),
        ("k3s", DnsServers("kube-system", KUBE_DNS, (53,), ())),
        ("kubeadm-ipv6", DnsServers("kube-system", KUBE_DNS, (53,), ())),
        # its cache, the Service's address that the cache takes over, and Cloud DNS
        ("gke", DnsServers("kube-system", KUBE_DNS, (53,), ("34.118.224.10/32", "169.254.20.10/32", "169.254.169.254/32"))),
        ("aks", DnsServers("kube-system", KUBE_DNS, (53,), ("169.254.10.11/32",))),  # LocalDNS
        ("openshift", DnsServers("openshift-dns", (("dns.operator.openshift.io/daemonset-dns", "default"),), (5353,), ())),
        ("cilium", DnsServers("kube-system", KUBE_DNS, (53,), ("10.96.0.10/32", "169.254.20.10/32"), (("k8s-app", "node-local-dns"),))),
        ("dns-on-the-node", DnsServers("kube-system", (), (53,), ("10.99.0.2/32",))),
    ],
)
def test_names_are_resolved_by_whoever_does_it_there(kind: str, dns: DnsServers, facts: Reading) -> None:
    assert facts(kind).dns == dns


def cache(**container: object) -> dict[str, Any]:
    """A list of one DaemonSet: a DNS cache in the node's network."""
    image = {"name": "node-cache", "image": "registry.k8s.io/dns/k8s-dns-node-cache:1.26.4"}
    pod = {"spec": {"hostNetwork": True, "containers": [image | container]}}
    labels = {"matchLabels": {"k8s-app": "nodelocaldns"}}
    return {"items": [{"metadata": {"name": "nodelocaldns"}, "spec": {"selector": labels, "template": pod}}]}


@pytest.mark.parametrize(
    ("container", "cidrs"),
    [
        ({}, ("169.254.20.10/32",)),
        ({"args": ["-localip", "169.254.25.10"]}, ("169.254.25.10/32",)),
        ({"args": ["--localip=169.254.25.10,10.96.0.10"]}, ("10.96.0.10/32", "169.254.25.10/32")),
        ({"command": ["/node-cache", "-localip", "fd00::53"]}, ("fd00::53/128",)),
    ],
)
def test_a_cache_on_the_nodes_listens_where_it_is_told(container: dict[str, object], cidrs: tuple[str, ...], facts: Reading) -> None:
    dns = facts(**{DAEMON_SETS: cache(**container)}).dns
    assert dns.cidrs == cidrs
    assert dns.cache_labels == ()
    assert dns.labels == KUBE_DNS, "the cache asks them, and pods with another policy do too"


def test_the_port_of_the_pods_counts_and_not_the_service_s_nor_that_of_metrics(facts: Reading, answers: Answers) -> None:
    for port in answers.by_path[SLICES]["items"][0]["ports"]:
        port["port"] += 1000
    assert facts().dns.ports == (1053,)


def test_without_an_endpoint_the_port_is_the_one_the_service_aims_at(facts: Reading, answers: Answers) -> None:
    answers.by_path[SLICES] = {"items": []}
    for port in answers.by_path[SERVICES]["items"][0]["spec"]["ports"]:
        port["targetPort"] = 8053
    assert facts().dns.ports == (8053,)


def test_a_dns_service_by_another_name_is_found_by_its_label(facts: Reading) -> None:
    answers = recorded("gke")[SERVICES]
    upstream, dns, _ = answers["items"]
    dns["metadata"]["name"] = "rke2-coredns-rke2-coredns"
    dns["spec"]["selector"] = {"app.kubernetes.io/name": "rke2-coredns"}
    assert facts(**{SERVICES: {"items": [upstream, dns]}}).dns.labels == (("app.kubernetes.io/name", "rke2-coredns"),)


def test_a_cluster_without_a_service_for_dns_gets_the_usual_one_and_a_warning(facts: Reading) -> None:
    found = facts(**{SERVICES: {"items": []}})
    assert found.dns == DnsServers("kube-system", KUBE_DNS, (53,), ())
    assert [w for w in found.warnings if "no Service for DNS" in w and "settings.cluster.dns" in w]


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [
        ("kubeadm", "calico"),
        ("kubeadm-dual-stack", "calico"),
        ("eks", "aws-vpc-cni"),
        ("gke", "cilium"),
        ("aks", "azure-npm"),
        ("k3s", "kube-router"),
        ("openshift", "ovn-kubernetes"),
        ("cilium", "cilium"),
        ("dns-on-the-node", None),
    ],
)
def test_the_network_plugin_is_recognised(kind: str, plugin: str | None, facts: Reading) -> None:
    assert facts(kind).network_plugin == plugin


def running(*names: str) -> dict[str, Any]:
    """A list of DaemonSets of these names."""
    return {"items": [{"metadata": {"name": name}} for name in names]}


@pytest.mark.parametrize(
    ("names", "plugin"),
    [
        (["kube-flannel-ds", "kube-router"], "kube-router"),
        (["aws-node", "calico-node"], "calico"),
        (["azure-cns", "cilium"], "cilium"),
        (["canal"], "calico"),
    ],
)
def test_the_plugin_that_enforces_counts_where_there_are_two(names: list[str], plugin: str, facts: Reading) -> None:
    found = facts(**{DAEMON_SETS: running(*names), "/apis": {"groups": []}})
    assert found.network_plugin == plugin
    assert found.warnings == ()


def test_a_plugin_whose_daemon_set_is_not_seen_is_recognised_by_its_api(facts: Reading) -> None:
    assert facts(**{DAEMON_SETS: running(), "/apis": {"groups": [{"name": "cilium.io"}]}}).network_plugin == "cilium"


def test_the_api_of_a_plugin_that_was_removed_counts_less_than_the_one_that_runs(facts: Reading) -> None:
    assert facts(**{DAEMON_SETS: running("calico-node"), "/apis": {"groups": [{"name": "cilium.io"}]}}).network_plugin == "calico"


@pytest.mark.parametrize(
    ("name", "plugin", "fix"), [("kube-flannel-ds", "flannel", "Calico"), ("azure-cns", "azure-cni", "az aks update --network-dataplane cilium")]
)
def test_a_plugin_that_enforces_no_policies_is_warned_of(name: str, plugin: str, fix: str, facts: Reading) -> None:
    found = facts(**{DAEMON_SETS: running(name), "/apis": {"groups": []}})
    (warning,) = found.warnings
    assert found.network_plugin == plugin
    assert "whatever its NetworkPolicies say" in warning
    assert fix in warning


def test_the_amazon_plugin_is_warned_of_unless_its_agent_was_told_to_enforce(facts: Reading) -> None:
    daemon_sets = recorded("eks")[DAEMON_SETS]
    agent = daemon_sets["items"][0]["spec"]["template"]["spec"]["containers"][1]
    agent["args"] = ["--enable-ipv6=false", "--enable-network-policy=false"]
    (warning,) = facts("eks", **{DAEMON_SETS: daemon_sets}).warnings
    assert "enableNetworkPolicy" in warning


@pytest.mark.parametrize(
    ("kind", "families"),
    [("kubeadm", ("IPv4",)), ("eks", ("IPv4",)), ("kubeadm-dual-stack", ("IPv4", "IPv6")), ("kubeadm-ipv6", ("IPv6",))],
)
def test_ip_families_are_those_of_the_pods(kind: str, families: tuple[str, ...], facts: Reading) -> None:
    assert facts(kind).ip_families == families


def test_storage_classes_say_who_may_grow_and_which_is_the_default(facts: Reading) -> None:
    assert facts("eks").storage_classes == (
        StorageClass("gp2", expandable=False, default=False, provisioner="kubernetes.io/aws-ebs"),
        StorageClass("gp3", expandable=True, default=True, provisioner="ebs.csi.aws.com"),
    )
    assert facts("k3s").storage_classes == (StorageClass("local-path", expandable=False, default=True, provisioner="rancher.io/local-path"),)
