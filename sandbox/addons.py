"""What a cluster needs besides Kubernetes: names (CoreDNS), NetworkPolicy (kube-router), volumes (local-path-provisioner).

They run as processes of the node, not as pods: they need no image and are there before the first pod.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from sandbox import network, pki
from sandbox.cluster import Kubectl
from sandbox.environment import STACK
from sandbox.node import Node
from sandbox.nodeconfig import CLUSTER_DOMAIN
from sandbox.paths import Paths
from sandbox.processes import Daemon
from sandbox.progress import Step

STORAGE_NAMESPACE = "local-path-storage"
DNS_READY_PORT = 8181


def files(paths: Paths, helper_image: str) -> dict[Path, str]:
    """The configuration files of the add-ons."""
    return {
        _conf(paths) / "Corefile": corefile(paths),
        _conf(paths) / "local-path.json": local_path_config(paths),
        _conf(paths) / "local-path-helper.yaml": json.dumps(helper_pod(helper_image)),
    }


def daemons(paths: Paths, command: Callable[[str], Path], helper_image: str) -> tuple[Daemon, ...]:
    """The add-ons' processes."""
    written = files(paths, helper_image)
    kubeconfig = _conf(paths) / "addons.kubeconfig"
    return (
        Daemon("coredns", (str(command("coredns")), "-conf", f"{_conf(paths)}/Corefile"), inputs=(written[_conf(paths) / "Corefile"],)),
        Daemon(
            "kube-router",
            (
                str(command("kube-router")),
                f"--kubeconfig={kubeconfig}",
                "--run-firewall=true",
                "--run-router=false",
                "--run-service-proxy=false",
                "--run-loadbalancer=false",
                f"--service-cluster-ip-range={network.SERVICES}",
                f"--hostname-override={pki.NODE_NAME}",
            ),
            environment={"NODE_NAME": pki.NODE_NAME},
        ),
        Daemon(
            "local-path-provisioner",
            (
                str(command("local-path-provisioner")),
                "start",
                f"--kubeconfig={kubeconfig}",
                f"--config={_conf(paths)}/local-path.json",
                "--configmap-name=local-path-config",
                f"--namespace={STORAGE_NAMESPACE}",
                f"--helper-image={helper_image}",
                f"--helper-pod-file={_conf(paths)}/local-path-helper.yaml",
            ),
            inputs=tuple(written.values()),
        ),
    )


def corefile(paths: Paths) -> str:
    """CoreDNS: the cluster's names, and a clear no for all others, since nothing here may ask another server."""
    return f""".:53 {{
    errors
    ready {network.NODE_ADDRESS}:{DNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {_conf(paths)}/addons.kubeconfig {pki.CONTEXT}
        pods insecure
        ttl 5
    }}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
    cache 5
}}
"""


def local_path_config(paths: Paths) -> str:
    """Where volumes lie on this machine."""
    return json.dumps({"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [str(paths.volumes)]}]})


def helper_pod(image: str) -> dict[str, object]:
    """The pod that makes and removes a volume's folder."""
    container = {"name": "helper-pod", "image": image, "imagePullPolicy": "IfNotPresent"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "helper-pod"}, "spec": {"containers": [container]}}


def objects(paths: Paths, helper_image: str) -> tuple[Mapping[str, object], ...]:
    """What the add-ons need in the cluster. The DNS Service has no selector: its endpoint is the node."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    scripts = {"setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n', "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n'}
    return (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": network.DNS_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns-node", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network.NODE_ADDRESS]}],
            "ports": ports,
        },
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORAGE_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "local-path-provisioner-service-account", "namespace": STORAGE_NAMESPACE},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": STORAGE_NAMESPACE},
            "data": {"config.json": local_path_config(paths), "helperPod.yaml": json.dumps(helper_pod(helper_image)), **scripts},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
        *own_stacks_only(),
    )


def own_stacks_only() -> tuple[Mapping[str, object], ...]:
    """What refuses the namespace of a stack that is not the sandbox's, and so the stack.

    In the shell that `env` makes, `pulumi` works on this cluster whatever stack it is told to deploy; `dev` and `prod` belong elsewhere.
    """
    name = "groundwork-sandbox-stacks"
    labels = "object.metadata.?labels.orValue({})"
    message = f"'stack ' + variables.stack + ' is none of the sandbox: deploy it to its own cluster, or choose a name that begins with {STACK}'"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["namespaces"]}
    return (
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [rule]},
                "matchConditions": [{"name": "is-groundworks", "expression": f"{labels}[?'app.kubernetes.io/part-of'].orValue('') == 'groundwork'"}],
                "variables": [{"name": "stack", "expression": f"{labels}[?'app.kubernetes.io/instance'].orValue('')"}],
                "validations": [{"expression": f"variables.stack.startsWith('{STACK}')", "messageExpression": message}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    )


def start(node: Node, kubectl: Kubectl, planned: Sequence[Daemon], helper_image: str, step: Step) -> None:
    """Puts the add-ons' objects into the cluster where they changed, and starts what does not run."""
    paths = node.paths
    wanted = objects(paths, helper_image)
    digest = sha256(json.dumps(wanted).encode()).hexdigest()
    applied = paths.node / "addons.applied"
    if not applied.is_file() or applied.read_text() != digest:
        kubectl.apply(wanted)
        applied.write_text(digest)
    for file, content in files(paths, helper_image).items():
        pki.write_private(file, content)
    paths.volumes.mkdir(parents=True, exist_ok=True)
    for daemon in planned:
        node.ensure(daemon)
    time.sleep(0.3)  # one with a bad flag ends at once: said here, not by a pod that waits in vain
    node.refuse_ended(planned, step)


def _conf(paths: Paths) -> Path:
    return paths.node / "conf"
