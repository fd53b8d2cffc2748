"""The stack's certificates: an authority, and a leaf for each server that speaks TLS itself.

Leaves live 90 days and are renewed by any `pulumi up` within their last 30; the servers take a new leaf up without a restart, asked by the
Job of their accounts. Keys are ECDSA on P-256, which every engine and client here accepts. An authority's key never leaves Pulumi's state.

An authority is replaced in three steps, each a `pulumi up` that refuses nobody: trust the next one besides, let it sign, trust it alone.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import pulumi
import pulumi_tls as tls
from pulumi_kubernetes import Provider, core

from components.lib import labels, options, workload
from components.lib.contracts import Placement, ServerTls
from components.lib.problems import Problem, refuse

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
    """The servers of a stack. `localhost` and 127.0.0.1 stand in every certificate, for probes and for `kubectl port-forward`.

    Authorities are counted: `trusted` are those whose certificates clients accept, `authority` is the one of them that signs.
    """

    at: Placement
    servers: tuple[Server, ...]
    authority: int = 1
    trusted: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem]:
        if self.authority not in self.trusted:
            yield Problem(
                "certificates.authority",
                f"certificates.trusted ({', '.join(map(str, self.trusted))}) leaves it out, and clients must trust an authority before it signs: "
                "add it there, run `pulumi up`, and then let it sign",
                self.authority,
            )
        for number, count in Counter(self.trusted).items():
            if count > 1:
                yield Problem("certificates.trusted", f"authority {number} is there {count} times: keep one", list(self.trusted))
        for name, count in Counter(server.name for server in self.servers).items():
            if count > 1:
                yield Problem("certificates.servers", f"{name} is there {count} times: give each server one entry")


def dns_names(server: Server, namespace: str, cluster_domain: str) -> list[str]:
    """Every name by which a client may call the server, the shortest first, and those of its single pods."""
    service = [server.name, f"{server.name}.{namespace}", f"{server.name}.{namespace}.svc", f"{server.name}.{namespace}.svc.{cluster_domain}"]
    pods = [f"*.{server.name}-headless.{namespace}.svc", f"*.{server.name}-headless.{namespace}.svc.{cluster_domain}"]
    return [*service, *pods, "localhost", *server.dns_names]


def ip_addresses(server: Server) -> list[str]:
    """The addresses in the certificate: loopback, and what the server asks for."""
    return ["127.0.0.1", *server.ips]


def fingerprint(pem: str) -> str:
    """The SHA-256 of a certificate in hex, as tools show it."""
    return sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def authority_name(name: str, generation: int) -> str:
    """What an authority is called in Pulumi's state. The first one has the name that it had when there was only one."""
    return f"{name}-ca" if generation == 1 else f"{name}-ca-{generation}"


@dataclass(frozen=True)
class Authority:
    """A CA: its key and its certificate."""

    key: tls.PrivateKey
    certificate: tls.SelfSignedCert


class Certificates(pulumi.ComponentResource):
    """The authorities and a leaf for each server.

    Outputs: `tls`, what each server mounts, by name; `ca`, the ConfigMap that clients verify against; `ca_pem`, the same as text;
    `ca_digest`, which changes with it; `valid_until`, when each server's certificate ends, by name, and that of the authority as `ca`.
    """

    tls: dict[str, ServerTls]
    ca: str
    ca_pem: pulumi.Output[str]
    ca_digest: pulumi.Output[str]
    valid_until: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: CertificatesArgs, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:pki:Certificates", name, None, opts)
        child = options.children(self, provider)
        authorities = {generation: self._authority(authority_name(name, generation), args.at.stack) for generation in sorted(args.trusted)}
        self.ca = CA_CONFIG_MAP
        self.ca_pem = pulumi.Output.all(*(authority.certificate.cert_pem for authority in authorities.values())).apply(bundle)
        self.ca_digest = workload.digest(self.ca_pem)
        core.v1.ConfigMap(f"{name}-ca", metadata=labels.metadata(CA_CONFIG_MAP, name, args.at), data={"ca.crt": self.ca_pem}, opts=child())
        signer = authorities[args.authority]
        self.valid_until = {"ca": signer.certificate.validity_end_time}
        self.tls = {server.name: self._leaf(name, server, args.at, signer, child) for server in args.servers}
        self.register_outputs({"ca": self.ca, "caPem": self.ca_pem})

    def _authority(self, name: str, stack: str) -> Authority:
        own = pulumi.ResourceOptions(parent=self)
        key = tls.PrivateKey(name, algorithm="ECDSA", ecdsa_curve=CURVE, opts=own)
        certificate = tls.SelfSignedCert(
            name,
            private_key_pem=key.private_key_pem,
            subject=tls.SelfSignedCertSubjectArgs(common_name=f"Groundwork {stack} CA", organization="Groundwork"),
            is_ca_certificate=True,
            set_subject_key_id=True,
            allowed_uses=["cert_signing", "crl_signing"],
            validity_period_hours=CA_HOURS,
            early_renewal_hours=CA_RENEWAL_HOURS,
            opts=own,
        )
        return Authority(key, certificate)

    def _leaf(self, name: str, server: Server, at: Placement, signer: Authority, child: options.Child) -> ServerTls:
        own = pulumi.ResourceOptions(parent=self)
        key = tls.PrivateKey(f"{name}-{server.name}", algorithm="ECDSA", ecdsa_curve=CURVE, opts=own)
        request = tls.CertRequest(
            f"{name}-{server.name}",
            private_key_pem=key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name=server.name, organization="Groundwork"),
            dns_names=dns_names(server, at.namespace, at.cluster_domain),
            ip_addresses=ip_addresses(server),
            opts=own,
        )
        leaf = tls.LocallySignedCert(
            f"{name}-{server.name}",
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=signer.key.private_key_pem,
            ca_cert_pem=signer.certificate.cert_pem,
            set_subject_key_id=True,
            allowed_uses=["digital_signature", "server_auth", "client_auth"],  # client: Consul's servers call each other
            validity_period_hours=LEAF_HOURS,
            early_renewal_hours=LEAF_RENEWAL_HOURS,
            opts=own,
        )
        secret = f"{server.name}-tls"
        made = core.v1.Secret(
            f"{name}-{server.name}",
            metadata=labels.metadata(secret, server.name, at),
            type="kubernetes.io/tls",
            string_data={"tls.crt": leaf.cert_pem, "tls.key": key.private_key_pem},
            opts=child(),
        )
        self.valid_until[server.name] = leaf.validity_end_time
        # Known when the Secret is there: what waits for the fingerprint to be shown would wait in vain before.
        written = pulumi.Output.all(leaf.cert_pem, made.metadata.name).apply(lambda known: fingerprint(str(known[0])))
        return ServerTls(secret, self.ca, written)


def bundle(pems: Sequence[str]) -> str:
    """Certificates as one text, which verifiers take as so many authorities."""
    return "".join(f"{pem.rstrip()}\n" for pem in pems)
