"""What the node's processes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sandbox import addons, nodeconfig
from sandbox.nodeconfig import NodePlan
from sandbox.paths import Paths

PLACE = Paths(Path("/c/groundwork"))
PLAN = nodeconfig.plan(PLACE, lambda name: Path("/tools") / name, "localhost/groundwork/pause:1-abc")
EVERY = (*PLAN.control_plane, *PLAN.workers, *addons.daemons(PLACE, lambda name: Path("/tools") / name, "localhost/groundwork/debian:13-abc"))


def file(plan: NodePlan, name: str) -> str:
    return next(content for path, content in plan.files.items() if path.name == name)


def words(name: str) -> tuple[str, ...]:
    return next(daemon.argv for daemon in EVERY if daemon.name == name)


def test_etcd_is_reached_from_the_node_only() -> None:
    assert "--listen-client-urls=http://127.0.0.1:2379" in words("etcd")


def test_tokens_of_service_accounts_name_an_issuer_whose_keys_pods_can_fetch() -> None:
    issuer = "https://kubernetes.default.svc.cluster.local"
    assert f"--service-account-issuer={issuer}" in words("kube-apiserver")
    assert f"--service-account-jwks-uri={issuer}/openid/v1/jwks" in words("kube-apiserver")


def test_nobody_without_a_certificate_or_token_may_do_anything() -> None:
    assert "--authorization-mode=Node,RBAC" in words("kube-apiserver")
    settings = yaml.safe_load(file(PLAN, "kubelet.yaml"))
    assert settings["authentication"]["anonymous"] == {"enabled": False}
    assert settings["authorization"] == {"mode": "Webhook"}


def test_the_api_server_verifies_the_kubelet() -> None:
    assert "--kubelet-certificate-authority=/c/groundwork/state/node/pki/ca.crt" in words("kube-apiserver")


def test_pods_hang_without_this_where_a_capability_is_missing() -> None:
    assert "restrict_oom_score_adj = true" in file(PLAN, "containerd.toml")
    assert 'sandbox_image = "localhost/groundwork/pause:1-abc"' in file(PLAN, "containerd.toml")


def test_kube_proxy_leaves_the_machines_own_settings_alone() -> None:
    conntrack = yaml.safe_load(file(PLAN, "proxy.yaml"))["conntrack"]
    assert set(conntrack.values()) == {0, "0s"}


def test_pods_ask_the_clusters_dns_only() -> None:
    settings = yaml.safe_load(file(PLAN, "kubelet.yaml"))
    assert settings["clusterDNS"] == ["10.96.0.10"]
    assert file(PLAN, "resolv.conf") == ""
    assert "forward" not in addons.corefile(PLACE)


def test_names_of_the_cluster_are_asked_before_all_others_are_refused() -> None:
    main = (Path(addons.__file__).parent / "tools" / "coredns" / "main.go").read_text()
    order = main.split("dnsserver.Directives = []string{")[1].split("}")[0]
    assert order.index('"kubernetes"') < order.index('"template"')


def test_what_the_kubelet_writes_stays_below_the_state_folder() -> None:
    settings = yaml.safe_load(file(PLAN, "kubelet.yaml"))
    assert settings["podLogsDir"].startswith(str(PLACE.node))
    assert f"--root-dir={PLACE.node}/kubelet" in words("kubelet")
    assert json.loads(file(PLAN, "10-groundwork.conflist"))["plugins"][0]["ipam"]["dataDir"].startswith(str(PLACE.run))


def test_volumes_lie_below_the_state_folder() -> None:
    assert json.loads(addons.local_path_config(PLACE))["nodePathMap"][0]["paths"] == ["/c/groundwork/state/node/volumes"]


def test_kube_router_makes_policies_and_nothing_else() -> None:
    assert {"--run-firewall=true", "--run-router=false", "--run-service-proxy=false"} <= set(words("kube-router"))


@pytest.mark.parametrize("daemon", EVERY, ids=lambda daemon: daemon.name)
def test_no_process_leaves_the_nodes_namespaces(daemon: nodeconfig.Daemon) -> None:
    assert daemon.namespaces


def test_mounts_of_the_node_stay_its_own() -> None:
    holder = nodeconfig.holder(PLACE)
    assert {"--net", "--mount", "slave"} <= set(holder.argv)
    assert not holder.namespaces


def test_a_changed_file_restarts_what_reads_it_and_nothing_else() -> None:
    other = nodeconfig.plan(PLACE, lambda name: Path("/tools") / name, "localhost/groundwork/pause:1-new")
    changed = {
        a.name for a, b in zip((*PLAN.control_plane, *PLAN.workers), (*other.control_plane, *other.workers), strict=True) if a.digest != b.digest
    }
    assert changed == {"containerd"}
