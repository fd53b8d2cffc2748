"""What the node's processes are told: their configuration files and command lines, from paths and image references alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from sandbox import network, pki
from sandbox.paths import HOLDER, Paths
from sandbox.processes import Daemon

ISSUER = "https://kubernetes.default.svc.cluster.local"
CLUSTER_DOMAIN = "cluster.local"
CNI_BINARIES = "/usr/lib/cni"  # Debian's containernetworking-plugins
CGROUP = "/groundwork"  # below it lie the cgroups of all pods
ETCD = "http://127.0.0.1:2379"
MAX_PODS = 200

# Folders that the kubelet, containerd or its shims use whatever they are told. The node sees empty ones of its own in their place.
PRIVATE_FOLDERS = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")


@dataclass(frozen=True)
class NodePlan:
    """The files to write, and the processes in the order in which they start."""

    files: Mapping[Path, str]
    control_plane: tuple[Daemon, ...]
    workers: tuple[Daemon, ...]


def holder(paths: Paths) -> Daemon:
    """The process that holds the node's network and mount namespaces. Mounts of the host show inside, but none made inside show outside."""
    mounts = " && ".join(f"mkdir -p {folder} && mount -t tmpfs -o mode=755 groundwork {folder}" for folder in PRIVATE_FOLDERS)
    # `shared` inside: the kubelet's mounts must reach the containers that containerd starts.
    script = f"mount --make-rshared / && {mounts} && touch {paths.run}/ready && exec sleep infinity"
    argv = ("unshare", "--net", "--mount", "--propagation", "slave", "--", "sh", "-ec", script)
    return Daemon(HOLDER, argv, namespaces=False)


def plan(paths: Paths, command: Callable[[str], Path], pause_image: str) -> NodePlan:
    """The whole node. `command` tells where a program is."""
    files = {
        paths.node / "conf" / "cni" / "10-groundwork.conflist": cni(paths),
        paths.node / "conf" / "containerd.toml": containerd(paths, pause_image),
        paths.node / "conf" / "kubelet.yaml": kubelet(paths),
        paths.node / "conf" / "proxy.yaml": proxy(paths),
        paths.node / "conf" / "resolv.conf": "",  # pods ask the cluster's DNS only
        **{paths.node / "conf" / f"{leaf}.kubeconfig": pki.kubeconfig(paths.pki, leaf) for leaf in KUBECONFIGS},
    }
    return NodePlan(files, control_plane(paths, command), workers(paths, command, files))


KUBECONFIGS = ("controller-manager", "scheduler", "proxy", "kubelet", "addons")


def control_plane(paths: Paths, command: Callable[[str], Path]) -> tuple[Daemon, ...]:
    """etcd, the API server, the controllers and the scheduler."""

    def conf(leaf: str) -> str:
        return f"--kubeconfig={paths.node}/conf/{leaf}.kubeconfig"

    certificates = (_certificate(paths, "apiserver"), _certificate(paths, "kubelet-client"))
    return (
        Daemon(
            "etcd",
            (
                str(command("etcd")),
                f"--data-dir={paths.node}/etcd",
                f"--listen-client-urls={ETCD}",
                f"--advertise-client-urls={ETCD}",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",  # the machine's crash may cost the cluster's state; nothing here is worth the wait for the disk
                "--log-level=warn",
            ),
        ),
        Daemon(
            "kube-apiserver",
            (
                str(command("kube-apiserver")),
                f"--etcd-servers={ETCD}",
                f"--bind-address={network.NODE_ADDRESS}",
                f"--advertise-address={network.NODE_ADDRESS}",
                f"--secure-port={network.API_PORT}",
                f"--tls-cert-file={paths.pki}/apiserver.crt",
                f"--tls-private-key-file={paths.pki}/apiserver.key",
                f"--client-ca-file={paths.pki}/ca.crt",
                f"--kubelet-certificate-authority={paths.pki}/ca.crt",
                f"--kubelet-client-certificate={paths.pki}/kubelet-client.crt",
                f"--kubelet-client-key={paths.pki}/kubelet-client.key",
                "--kubelet-preferred-address-types=InternalIP",
                f"--service-account-key-file={paths.pki}/tokens.pub",
                f"--service-account-signing-key-file={paths.pki}/tokens.key",
                f"--service-account-issuer={ISSUER}",
                f"--service-account-jwks-uri={ISSUER}/openid/v1/jwks",
                f"--service-cluster-ip-range={network.SERVICES}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",  # PodSecurity, quotas and limits are on by default
                "--allow-privileged=true",  # decided per namespace, by PodSecurity
                "--profiling=false",
            ),
            inputs=certificates,
        ),
        Daemon(
            "kube-controller-manager",
            (
                str(command("kube-controller-manager")),
                conf("controller-manager"),
                f"--service-account-private-key-file={paths.pki}/tokens.key",
                f"--root-ca-file={paths.pki}/ca.crt",
                f"--cluster-cidr={network.PODS}",
                "--allocate-node-cidrs=true",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--profiling=false",
            ),
        ),
        Daemon(
            "kube-scheduler",
            (str(command("kube-scheduler")), conf("scheduler"), "--leader-elect=false", "--profiling=false"),
        ),
    )


def workers(paths: Paths, command: Callable[[str], Path], files: Mapping[Path, str]) -> tuple[Daemon, ...]:
    """containerd, the kubelet and kube-proxy."""
    conf = paths.node / "conf"
    return (
        Daemon(
            "containerd",
            ("containerd", "--config", f"{conf}/containerd.toml"),
            inputs=(files[conf / "containerd.toml"], files[conf / "cni" / "10-groundwork.conflist"]),
        ),
        Daemon(
            "kubelet",
            (
                str(command("kubelet")),
                f"--config={conf}/kubelet.yaml",
                f"--kubeconfig={conf}/kubelet.kubeconfig",
                f"--hostname-override={pki.NODE_NAME}",
                f"--node-ip={network.NODE_ADDRESS}",
                f"--root-dir={paths.node}/kubelet",
            ),
            inputs=(files[conf / "kubelet.yaml"], _certificate(paths, "kubelet")),
        ),
        Daemon("kube-proxy", (str(command("kube-proxy")), f"--config={conf}/proxy.yaml"), inputs=(files[conf / "proxy.yaml"],)),
    )


def cni(paths: Paths) -> str:
    """Pods on one bridge; addresses are handed out from a folder that is emptied when the node starts."""
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": "groundwork",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": f"{paths.run}/addresses",
                        "ranges": [[{"subnet": str(network.NODE_PODS)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        },
        indent=2,
    )


def containerd(paths: Paths, pause_image: str) -> str:
    """containerd's configuration, in the form that 1.6 and 1.7 read."""
    return f"""version = 2
root = "{paths.node}/containerd"
state = "{paths.run}/containerd"
oom_score = 0
[grpc]
  address = "{paths.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{paths.node}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # Without CAP_SYS_RESOURCE runc may not lower a score: every pod would hang.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_BINARIES}"
    conf_dir = "{paths.node}/conf/cni"
"""


def kubelet(paths: Paths) -> str:
    """The kubelet's configuration. Images are never removed and pods hardly evicted: the machine belongs to somebody."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": f"{paths.pki}/ca.crt"},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": CGROUP,
            "failCgroupV1": False,
            "clusterDNS": [network.DNS_SERVICE_ADDRESS],
            "clusterDomain": CLUSTER_DOMAIN,
            "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "maxPods": MAX_PODS,
            "podLogsDir": f"{paths.node}/pod-logs",
            "resolvConf": f"{paths.node}/conf/resolv.conf",
            "serializeImagePulls": False,
            "syncFrequency": "10s",  # a changed Secret is in its pods soon: by default it takes up to a minute and a half
            "shutdownGracePeriod": "0s",
            "staticPodPath": "",
            "tlsCertFile": f"{paths.pki}/kubelet.crt",
            "tlsPrivateKeyFile": f"{paths.pki}/kubelet.key",
            "volumePluginDir": f"{paths.node}/volume-plugins",
        },
        sort_keys=False,
    )


def proxy(paths: Paths) -> str:
    """kube-proxy's configuration: iptables, and no sysctl that belongs to the whole machine."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": str(network.PODS),
            "hostnameOverride": pki.NODE_NAME,
            "clientConnection": {"kubeconfig": f"{paths.node}/conf/proxy.kubeconfig"},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
        sort_keys=False,
    )


def _certificate(paths: Paths, leaf: str) -> str:
    """A renewed certificate must restart the process that serves it."""
    file = paths.pki / f"{leaf}.crt"
    return file.read_text() if file.is_file() else ""
