"""The stack's certificates: one authority, and a leaf for each server that speaks TLS itself.

Leaves live 90 days and are renewed by any `pulumi up` within their last 30; a new leaf rolls its server, because the server's pods carry a
digest of it. Keys are ECDSA on P-256, which every engine and client here accepts. The authority's key never leaves Pulumi's state.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pulumi
import pulumi_tls as tls
from pulumi_kubernetes import Provider, core

from components import labels, workload
from components.contracts import Placement, ServerTls

CA_CONFIG_MAP = "groundwork-ca"
CA_HOURS = 10 * 365 * 24
CA_RENEWAL_HOURS = 365 * 24  # more than a leaf's life: no leaf outlives its authority
LEAF_HOURS = 90 * 24
LEAF_RENEWAL_HOURS = 30 * 24
CURVE = "P256"


@dataclass(frozen=True)
class Server:
    """A server that needs a certificate. The names of its two Services are added by themselves; `dns_names` and `ips` are more."""

    name: str
    dns_names: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


@dataclass(frozen=True)
class CertificatesArgs:
    """The servers of a stack. `localhost` and 127.0.0.1 stand in every certificate, for probes and for `kubectl port-forward`."""

    at: Placement
    servers: tuple[Server, ...]

    def __post_init__(self) -> None:
        for name, count in Counter(server.name for server in self.servers).items():
            if count > 1:
                raise ValueError(f"certificates.servers: {name} is there {count} times: give each server one entry")


def dns_names(server: Server, namespace: str, cluster_domain: str) -> list[str]:
    """Every name by which a client may call the server, the shortest first, and those of its single pods."""
    service = [server.name, f"{server.name}.{namespace}", f"{server.name}.{namespace}.svc", f"{server.name}.{namespace}.svc.{cluster_domain}"]
    pods = [f"*.{server.name}-headless.{namespace}.svc", f"*.{server.name}-headless.{namespace}.svc.{cluster_domain}"]
    return [*service, *pods, "localhost", *server.dns_names]


def ip_addresses(server: Server) -> list[str]:
    """The addresses in the certificate: loopback, and what the server asks for."""
    return ["127.0.0.1", *server.ips]


class Certificates(pulumi.ComponentResource):
    """One authority and a leaf for each server.

    Outputs: `tls`, what each server mounts, by name; `ca`, the ConfigMap that clients verify against; `ca_pem`, the same as text.
    """

    tls: dict[str, ServerTls]
    ca: pulumi.Output[str]
    ca_pem: pulumi.Output[str]

    def __init__(self, name: str, args: CertificatesArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:pki:Certificates", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        child = pulumi.ResourceOptions(parent=self, provider=provider)

        authority_key = tls.PrivateKey(f"{name}-ca", algorithm="ECDSA", ecdsa_curve=CURVE, opts=own)
        authority = tls.SelfSignedCert(
            f"{name}-ca",
            private_key_pem=authority_key.private_key_pem,
            subject=tls.SelfSignedCertSubjectArgs(common_name=f"Groundwork {args.at.stack} CA", organization="Groundwork"),
            is_ca_certificate=True,
            set_subject_key_id=True,
            allowed_uses=["cert_signing", "crl_signing"],
            validity_period_hours=CA_HOURS,
            early_renewal_hours=CA_RENEWAL_HOURS,
            opts=own,
        )
        ca = core.v1.ConfigMap(f"{name}-ca", metadata=labels.metadata(CA_CONFIG_MAP, name, args.at), data={"ca.crt": authority.cert_pem}, opts=child)
        self.ca = ca.metadata.name.apply(str)
        self.ca_pem = authority.cert_pem
        self.tls = {server.name: self._leaf(name, server, args, signer=(authority_key, authority), child=child) for server in args.servers}
        self.register_outputs({"ca": self.ca, "caPem": self.ca_pem})

    def _leaf(
        self,
        name: str,
        server: Server,
        args: CertificatesArgs,
        *,
        signer: tuple[tls.PrivateKey, tls.SelfSignedCert],
        child: pulumi.ResourceOptions,
    ) -> ServerTls:
        authority_key, authority = signer
        own = pulumi.ResourceOptions(parent=self)
        at = args.at
        key = tls.PrivateKey(f"{name}-{server.name}", algorithm="ECDSA", ecdsa_curve=CURVE, opts=own)
        request = tls.CertRequest(
            f"{name}-{server.name}",
            private_key_pem=key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name=server.name, organization="Groundwork"),
            dns_names=pulumi.Output.from_input(at.namespace).apply(lambda namespace: dns_names(server, namespace, at.cluster_domain)),
            ip_addresses=ip_addresses(server),
            opts=own,
        )
        leaf = tls.LocallySignedCert(
            f"{name}-{server.name}",
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=authority_key.private_key_pem,
            ca_cert_pem=authority.cert_pem,
            set_subject_key_id=True,
            allowed_uses=["digital_signature", "server_auth", "client_auth"],  # client: Consul's servers call each other
            validity_period_hours=LEAF_HOURS,
            early_renewal_hours=LEAF_RENEWAL_HOURS,
            opts=own,
        )
        secret = core.v1.Secret(
            f"{name}-{server.name}",
            metadata=labels.metadata(f"{server.name}-tls", server.name, at),
            type="kubernetes.io/tls",
            string_data={"tls.crt": leaf.cert_pem, "tls.key": key.private_key_pem},
            opts=child,
        )
        return ServerTls(secret=secret.metadata.name.apply(str), ca=self.ca, digest=workload.digest(leaf.cert_pem, self.ca_pem))
