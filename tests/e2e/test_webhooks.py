"""An admission webhook is called: the API server reaches a Service of the cluster, past a default deny. Mesh and operators live by it."""

# pyright: basic, reportOptionalMemberAccess=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes import client

from tests.e2e.cluster import Platform, eventually

pytestmark = pytest.mark.sandbox("a webhook's configuration is an object of the whole cluster, no test's business on one of yours")

PORT = 8443
REFUSAL = "no ConfigMap may have this name"
FOLDER = "/etc/webhook"
SERVER = f"""
import http.server, json, ssl

class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))["request"]
        answer = {{"uid": request["uid"], "allowed": not request["name"].startswith("denied")}}
        if not answer["allowed"]:
            answer["status"] = {{"message": "{REFUSAL}"}}
        body = json.dumps({{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.ThreadingHTTPServer(("", {PORT}), Webhook)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("{FOLDER}/tls.crt", "{FOLDER}/tls.key")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def certificate(name: str) -> tuple[str, str]:
    """A self-signed certificate for the DNS name `name`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def server(name: str, image: str) -> client.V1Pod:
    """The pod that answers the API server."""
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
        spec=client.V1PodSpec(
            automount_service_account_token=False,
            security_context=client.V1PodSecurityContext(
                run_as_non_root=True, run_as_user=10001, fs_group=10001, seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault")
            ),
            containers=[
                client.V1Container(
                    name="server",
                    image=image,
                    args=[f"{FOLDER}/server.py"],
                    volume_mounts=[client.V1VolumeMount(name="files", mount_path=FOLDER, read_only=True)],
                    readiness_probe=client.V1Probe(tcp_socket=client.V1TCPSocketAction(port=PORT), period_seconds=1),
                    security_context=client.V1SecurityContext(
                        allow_privilege_escalation=False, read_only_root_filesystem=True, capabilities=client.V1Capabilities(drop=["ALL"])
                    ),
                )
            ],
            volumes=[client.V1Volume(name="files", secret=client.V1SecretVolumeSource(secret_name=name, default_mode=0o440))],
        ),
    )


def configuration(name: str, namespace: str, ca: str) -> client.V1ValidatingWebhookConfiguration:
    """Every ConfigMap that is made in `namespace` is shown to the webhook; where it does not answer, none is made."""
    return client.V1ValidatingWebhookConfiguration(
        metadata=client.V1ObjectMeta(name=name),
        webhooks=[
            client.V1ValidatingWebhook(
                name=f"{name}.groundwork.test",
                client_config=client.AdmissionregistrationV1WebhookClientConfig(
                    ca_bundle=base64.b64encode(ca.encode()).decode(),
                    service=client.AdmissionregistrationV1ServiceReference(name=name, namespace=namespace, port=443),
                ),
                rules=[client.V1RuleWithOperations(api_groups=[""], api_versions=["v1"], operations=["CREATE"], resources=["configmaps"])],
                namespace_selector=client.V1LabelSelector(match_labels={"kubernetes.io/metadata.name": namespace}),
                failure_policy="Fail",
                side_effects="None",
                admission_review_versions=["v1"],
                timeout_seconds=10,
            )
        ],
    )


@pytest.fixture
def guarded(platform: Platform) -> Iterator[str]:
    """A namespace with a default deny, whose ConfigMaps pass a webhook that runs in it."""
    name = namespace = f"{platform.stack.name}-webhook"
    core, admission, net = platform.core, client.AdmissionregistrationV1Api(platform.api), client.NetworkingV1Api(platform.api)
    ca, key = certificate(f"{name}.{namespace}.svc")
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=namespace)))
    try:
        deny = client.V1NetworkPolicySpec(pod_selector=client.V1LabelSelector(), policy_types=["Ingress", "Egress"])
        net.create_namespaced_network_policy(namespace, client.V1NetworkPolicy(metadata=client.V1ObjectMeta(name="default-deny"), spec=deny))
        files = {"tls.crt": ca, "tls.key": key, "server.py": SERVER}
        core.create_namespaced_secret(namespace, client.V1Secret(metadata=client.V1ObjectMeta(name=name), string_data=files))
        core.create_namespaced_pod(namespace, server(name, str(platform.pods("document-service")[0].spec.containers[0].image)))
        ports = client.V1ServiceSpec(selector={"app": name}, ports=[client.V1ServicePort(port=443, target_port=PORT)])
        core.create_namespaced_service(namespace, client.V1Service(metadata=client.V1ObjectMeta(name=name), spec=ports))

        def ready() -> bool | None:
            conditions = core.read_namespaced_pod(name, namespace).status.conditions or []
            return any(c.type == "Ready" and c.status == "True" for c in conditions) or None

        eventually("the webhook's pod is ready", ready, seconds=90)
        admission.create_validating_webhook_configuration(configuration(name, namespace, ca))
        yield namespace
    finally:
        admission.delete_collection_validating_webhook_configuration(field_selector=f"metadata.name={name}")
        core.delete_namespace(namespace)
        eventually("the webhook's namespace is gone", lambda: namespace not in namespaces(platform) or None, seconds=120)


def namespaces(platform: Platform) -> set[str]:
    return {str(found.metadata.name) for found in platform.core.list_namespace().items}


def test_a_webhook_denies_with_its_own_message_and_lets_the_rest_pass(platform: Platform, guarded: str) -> None:
    def create(name: str) -> client.V1ConfigMap:
        return platform.core.create_namespaced_config_map(guarded, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name)))

    def denied() -> str | None:
        """What the webhook says: right after it was made, the API server may not know it yet, and kube-proxy not its Service."""
        try:
            create("denied")
        except client.ApiException as refusal:
            said = str(refusal.body)
            assert "failed calling webhook" not in said, said
            return said
        platform.core.delete_namespaced_config_map("denied", guarded)
        return None

    refusal = eventually("the webhook is called", denied, seconds=30)
    assert "denied the request" in refusal
    assert REFUSAL in refusal
    assert create("allowed").metadata.name == "allowed"
